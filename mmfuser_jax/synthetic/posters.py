"""The domain of posters: an announcement with title, date, place, price and small print."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import WHITE, Canvas, Size, mix, paper
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    MONTHS,
    STREETS,
    Text,
    between,
    color,
    days_near,
    digits,
    invented,
    near,
    pick,
    sample,
    slips,
    strangers,
    without,
)  # fmt: skip

EVENTS: dict[str, tuple[Text, str]] = {
    "concert": (("concert", "音乐会"), "LIVE CONCERT"),
    "film": (("film night", "电影之夜"), "OPEN AIR FILM"),
    "books": (("book fair", "书展"), "BOOK FAIR"),
    "chess": (("chess tournament", "国际象棋赛"), "CHESS OPEN"),
    "flowers": (("flower show", "花展"), "FLOWER SHOW"),
    "science": (("science day", "科学日"), "SCIENCE DAY"),
    "run": (("city run", "城市跑"), "CITY RUN"),
    "market": (("night market", "夜市"), "NIGHT MARKET"),
}

INKS = ("red", "blue", "green", "purple", "brown", "teal", "black")


@dataclass(frozen=True)
class Poster:
    """A poster: what, when, where, for how much, and small print."""

    event: str
    title: str
    date: str
    time: str
    street: str
    number: str
    price: str
    phone: str
    stars: int
    ink: str


def _poster(rng: Generator) -> Poster:
    return Poster(
        event=pick(rng, list(EVENTS)),
        title=" ".join(invented(rng, 2)).upper(),
        date=f"{between(rng, 1, 28)} {pick(rng, MONTHS)} 20{between(rng, 24, 39)}",
        time=f"{between(rng, 9, 21)}:{pick(rng, ('00', '15', '30', '45'))}",
        street=pick(rng, STREETS),
        number=digits(rng, between(rng, 1, 3)),
        price=f"${between(rng, 3, 48)}.{pick(rng, ('00', '20', '50', '90'))}",
        phone=f"{digits(rng, 3)}-{digits(rng, 4)}",
        stars=between(rng, 3, 9),
        ink=pick(rng, INKS),
    )


def _draw_poster(poster: Poster, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    tint = mix(poster.ink, WHITE, 0.75)
    for _ in range(14):
        x, y, rx, ry = rng.uniform((0, 0, 3, 3), (100, 100, 12, 12)).tolist()
        canvas.oval(x, y, rx, ry, mix(tint, WHITE, rng.uniform(0.3, 0.8)))
    canvas.box(3, 3, 97, 97, None, poster.ink, 1.2)
    canvas.text(50, 14, EVENTS[poster.event][1], 8, poster.ink)
    canvas.text(50, 28, poster.title, 6.5)
    for i in range(poster.stars):
        canvas.shape("star", 50 + canvas.across((i - (poster.stars - 1) / 2) * 7), 39, 2.4, poster.ink)
    canvas.text(50, 50, poster.date, 6)
    canvas.text(50, 59, f"doors open {poster.time}", 4.2)
    canvas.text(50, 69, f"{poster.number} {poster.street}", 4.6)
    canvas.box(50 - canvas.across(17), 75, 50 + canvas.across(17), 85, poster.ink, None, corner=2)
    canvas.text(50, 80, poster.price, 5.4, WHITE)
    canvas.text(50, 91.5, f"tickets: call {poster.phone}", 3)
    return [canvas]


def _poster_facts(poster: Poster, rng: Generator) -> list[Fact]:
    hour = int(poster.time.split(":")[0])
    names = strangers(rng, 6, *poster.title.title().split())
    return [
        fact("event", EVENTS[poster.event][0], [EVENTS[name][0] for name in without(list(EVENTS), poster.event)]),
        fact("title", poster.title, [" ".join(sample(rng, names, 2)).upper() for _ in range(4)]),
        fact("date", poster.date, days_near(rng, poster.date)),
        fact("time", poster.time, [f"{h}:{poster.time.split(':')[1]}" for h in near(rng, hour, low=1)]),
        fact(
            "place", f"{poster.number} {poster.street}",
            [f"{poster.number} {street}" for street in sample(rng, without(STREETS, poster.street), 2)]
            + [f"{number} {poster.street}" for number in slips(rng, poster.number, 2)],
        ),
        fact("price", poster.price, slips(rng, poster.price)),
        fact("stars", poster.stars, near(rng, poster.stars, low=1)),
        fact("frame", color(poster.ink), [color(name) for name in without(INKS, poster.ink)]),
        fact("phone", poster.phone, slips(rng, poster.phone)),
    ]  # fmt: skip


_POSTER_ASKS = {
    "event": Ask(
        "identify",
        ("What kind of event does the poster announce? | What is this poster for?", "这张海报宣传的是什么活动？"),
        ("The poster announces a {a}. | This is a poster for a {a}.", "海报宣传的是一场{a}。 | 这是一张{a}的海报。"),
    ),
    "title": Ask(
        "read", ("What is the title on the poster?", "海报上的标题是什么？"),
        ("Its title reads {a}. | The name in capital letters is {a}.", "标题写着{a}。 | 大写的名称是{a}。"),
    ),
    "date": Ask(
        "read",
        (
            "On which date does it take place? | What date is printed on the poster?",
            "活动在哪一天举行？ | 海报上印的日期是什么？",
        ),
        ("The date is {a}. | It takes place on {a}.", "日期是{a}。 | 活动在{a}举行。"),
    ),
    "time": Ask("read", ("When do the doors open?", "几点开门入场？"), ("The doors open at {a}.", "入场时间是{a}。")),
    "place": Ask(
        "read",
        ("What is the address on the poster? | Where does it take place?", "海报上的地址是什么？ | 活动在哪里举行？"),
        ("The address is {a}. | The place is {a}.", "地址是{a}。 | 地点在{a}。"),
    ),
    "price": Ask("read", ("How much is a ticket?", "门票多少钱？"), ("A ticket costs {a}.", "门票价格是{a}。")),
    "stars": Ask(
        "count",
        ("How many small stars are in the row under the title?", "标题下面的一排有几颗小星星？"),
        ("The row under the title has {a} stars.", "标题下面的一排有{a}颗星。"),
    ),
    "frame": Ask(
        "colour",
        ("What colour is the frame of the poster?", "海报的边框是什么颜色？"), ("The frame is {a}.", "边框是{a}的。"),
    ),
    "phone": Ask(
        "read",
        ("Which telephone number is given at the bottom?", "底部的电话号码是多少？"),
        (
            "For tickets one calls {a}, in small print at the bottom. | The number to call is {a}.",
            "底部小字写着订票电话{a}。 | 订票电话是{a}。",
        ),
    ),
}  # fmt: skip

POSTER = Kind(
    _poster, _draw_poster, _poster_facts, _POSTER_ASKS,
    (
        Topic(
            (
                "I would like to go. What do I need to know? | Summarise the practical details on this poster.",
                "我想参加，需要知道哪些信息？ | 请概括海报上的实用信息。",
            ),
            ("event", "date", "time", "place", "price", "phone"),
            ("That is all that a visitor needs.", "参加者需要的信息就是这些。"),
        ),
        Topic(
            ("How is this poster designed?", "这张海报是怎样设计的？"), ("event", "title", "stars", "frame"),
            ("Less important details are printed smaller, further down.", "次要的信息用较小的字印在下方。"),
        ),
        Topic(
            ("What does the text on the poster say?", "海报上的文字写了什么？"),
            ("title", "date", "time", "place", "price", "phone"),
        ),
    ),
    (
        "The picture shows a printed poster with a frame. | This is a poster on light paper, with all its text "
        "centred.",
        "图片是一张带边框的海报。 | 这是一张印在浅色纸上的海报，文字都居中排列。",
    ),
)  # fmt: skip

DOMAINS = {"posters": Domain((POSTER,))}
