"""The domain of numerical calculation: counted goods with prices, a clock, and a walk to the station."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Size, paper
from mmfuser_jax.synthetic.icons import draw_icon, noun
from mmfuser_jax.synthetic.kinds import UNCAPTIONED, Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    Number,
    between,
    near,
    sample,
)  # fmt: skip

GOODS = ("apple", "cup", "book", "bell", "hat", "lamp", "key", "bottle")


@dataclass(frozen=True)
class Stall:
    """Goods with price tags and a clock.

    Attributes:
      goods: (icon, colour, how many are shown, price of one in dollars).
      minutes: what the clock shows, since twelve.
      walk: minutes on the sign to the station.
    """

    goods: tuple[tuple[str, str, int, int], ...]
    minutes: int
    walk: int


def _stall(rng: Generator) -> Stall:
    icons, tints = sample(rng, GOODS, 3), sample(rng, ("red", "green", "blue", "purple", "brown", "orange"), 3)
    prices = sample(rng, range(2, 20), 3)
    goods = tuple((i, t, between(rng, 2, 7), p) for i, t, p in zip(icons, tints, prices, strict=True))
    return Stall(goods, between(rng, 0, 143) * 5, between(rng, 2, 9) * 5)


def clock_text(minutes: int) -> str:
    """Minutes since twelve as the time on a twelve-hour clock."""
    return f"{(minutes // 60 - 1) % 12 + 1}:{minutes % 60:02d}"


def draw_clock(canvas: Canvas, x: Number, y: Number, radius: Number, minutes: int) -> None:
    """A round clock with tick marks and two hands."""
    canvas.oval(x, y, radius, radius, WHITE, INK, 0.6)
    for i in range(60):
        inner = radius * (0.84 if i % 5 == 0 else 0.92)
        canvas.line(canvas.ring(x, y, [(inner, 0), (radius * 0.97, 0)], i * 6), INK, 0.5 if i % 5 == 0 else 0.15)
    for hour in range(1, 13):
        canvas.text(*canvas.ring(x, y, [(0, -radius * 0.7)], hour * 30)[0], str(hour), radius * 0.2)
    canvas.line(canvas.ring(x, y, [(0, 0), (0, -radius * 0.45)], minutes / 2), INK, 1.1)
    canvas.line(canvas.ring(x, y, [(0, 0), (0, -radius * 0.8)], minutes % 60 * 6), "red", 0.5)
    canvas.oval(x, y, 0.8, 0.8, INK)


def _draw_stall(scene: Stall, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    for i, (icon, tint, count, price) in enumerate(scene.goods):
        y = 15 + 22 * i
        canvas.line([(4, y + 9), (96, y + 9)], (150, 110, 70), 0.9)
        for j in range(count):
            draw_icon(canvas, icon, 9 + 10 * j + rng.uniform(-0.8, 0.8), y + rng.uniform(-1.5, 1.5), 4, tint)
        canvas.box(80, y - 5, 95, y + 5, WHITE, INK, 0.4, 1)
        canvas.text(87.5, y, f"${price}", 4)
    draw_clock(canvas, 26, 84, 13.5, scene.minutes)
    canvas.box(48, 77, 94, 92, (222, 234, 248), INK, 0.4, 1)
    canvas.text(71, 81.5, "STATION", 3.4)
    canvas.text(71, 87.5, f"{scene.walk} min walk", 3.2)
    return [canvas]


def _stall_facts(scene: Stall, rng: Generator) -> list[Fact]:
    facts = []
    for icon, _, count, price in scene.goods:
        item = noun(icon)
        facts.append(fact("count", count, near(rng, count, low=1), item=item))
        facts.append(fact("price", f"${price}", [f"${n}" for n in near(rng, price, low=1)], item=item))
        total = count * price
        facts.append(
            fact(
                "all",
                f"${total}",
                [f"${n}" for n in near(rng, total, price, low=1)],
                item=item,
                count=count,
                price=price,
            )
        )
    (one, _, _, a), (two, _, _, b) = sample(rng, scene.goods, 2)
    facts.append(
        fact("pair", f"${a + b}", [f"${n}" for n in near(rng, a + b, low=1)], one=noun(one), two=noun(two), p1=a, p2=b)
    )
    facts.append(fact("change", f"${50 - a}", [f"${n}" for n in near(rng, 50 - a, low=1)], item=noun(one), price=a))
    items = sum(count for _, _, count, _ in scene.goods)
    facts.append(fact("items", items, near(rng, items), parts=" + ".join(str(count) for _, _, count, _ in scene.goods)))
    now, later = scene.minutes, scene.minutes + scene.walk
    facts.append(fact("clock", clock_text(now), [clock_text(now + shift) for shift in (-65, -5, 5, 60, 30)]))
    facts.append(fact("walk", f"{scene.walk} min", [f"{n} min" for n in near(rng, scene.walk, 5, low=5)]))
    facts.append(
        fact(
            "arrive",
            clock_text(later),
            [clock_text(later + shift) for shift in (-60, -10, 5, 10)],
            now=clock_text(now),
            walk=scene.walk,
        )
    )
    return facts


_STALL_ASKS = {
    "count": Ask(
        "count",
        ("How many of this are on the shelf: {item}?", "架子上的{item}有几个？"),
        ("On the shelf for the {item}, {a} can be counted.", "架子上{item}的数量是{a}。"),
    ),
    "price": Ask(
        "read", ("What does one {item} cost?", "一个{item}多少钱？"),
        ("The price of one {item} is {a}.", "一个{item}的价格是{a}。"),
    ),
    "all": Ask(
        "calculate",
        ("What would all units of this cost together: {item}?", "把架子上的{item}全部买下要多少钱？"),
        (
            "With {count} on the shelf at ${price} each, all of this kind ({item}) cost {a}.",
            "架子上有{count}个{item}，每个${price}，全部买下要{a}。",
        ),
    ),
    "pair": Ask(
        "calculate",
        ("How much are one {one} and one {two} together?", "一个{one}和一个{two}一共多少钱？"),
        ("One {one} for ${p1} and one {two} for ${p2} make {a}.", "一个{one}${p1}，一个{two}${p2}，一共{a}。"),
    ),
    "change": Ask(
        "calculate",
        ("If you pay for one {item} with a $50 note, how much do you get back?", "用$50买一个{item}，应找回多少？"),
        ("From $50, one {item} for ${price} leaves {a}.", "用$50买一个${price}的{item}，找回{a}。"),
    ),
    "items": Ask(
        "count",
        ("How many items stand on the three shelves in total?", "三层架子上一共有多少件东西？"),
        ("The three shelves hold {parts} items, that is {a}.", "三层架子上有{parts}件，一共{a}件。"),
    ),
    "clock": Ask(
        "read", ("What time does the clock show?", "钟上显示几点？"), ("The clock shows {a}.", "钟上显示{a}。"),
    ),
    "walk": Ask(
        "read", ("How long is the walk to the station?", "走到车站要多久？"),
        ("The walk to the station takes {a}.", "走到车站要{a}。"),
    ),
    "arrive": Ask(
        "calculate",
        ("Leaving now, when would one arrive at the station on foot?", "现在出发，步行几点能到车站？"),
        (
            "Leaving at {now} and walking {walk} minutes, one arrives at {a}.",
            "{now}出发，步行{walk}分钟，{a}到达车站。",
        ),
    ),
}  # fmt: skip

STALL = Kind(
    _stall, _draw_stall, _stall_facts, _STALL_ASKS,
    (
        Topic(
            ("What is everything on the shelves worth? Show your working.", "架子上的东西一共值多少钱？请写出过程。"),
            ("count", "price", "all"),
        ),
        Topic(
            (
                "Can I still catch a train? Work out when I would be at the station.",
                "我还能赶上火车吗？请算出我几点到车站。",
            ),
            ("clock", "walk", "arrive"),
            ("Whether that is in time depends on the timetable.", "是否来得及要看时刻表。"),
        ),
        Topic(
            ("Work out the sums that a customer may need.", "请替顾客算一算账。"), ("price", "pair", "change", "items"),
        ),
    ),
    (
        "The picture shows three shelves of goods with price tags, a clock and a sign.",
        "图中有三层带价签的货架、一个钟和一块牌子。",
    ),
)  # fmt: skip

DOMAINS = {"numerical_calculation": Domain((STALL,), types=UNCAPTIONED)}
