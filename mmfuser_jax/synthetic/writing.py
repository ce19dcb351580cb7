"""The domain of writing: a desk with things on it, about which letters, stories and lists are to be written."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Size, mix
from mmfuser_jax.synthetic.icons import draw_icon, noun
from mmfuser_jax.synthetic.kinds import UNCAPTIONED, Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    MONTHS,
    NAMES,
    between,
    color,
    days_near,
    invented,
    near,
    pick,
    sample,
    strangers,
    thing,
    without,
)

THINGS = ("cup", "book", "key", "apple", "lamp", "hat", "bell", "umbrella", "gift", "bottle", "kite", "flag")

TINTS = ("red", "orange", "green", "blue", "purple", "pink", "grey", "teal", "yellow")


@dataclass(frozen=True)
class Desk:
    """Things in two rows on a desk, with a card that says from whom to whom, where and when."""

    things: tuple[tuple[str, str], ...]
    sender: str
    receiver: str
    town: str
    date: str
    pencils: int


def _desk(rng: Generator) -> Desk:
    count = between(rng, 4, 6)
    sender, receiver = sample(rng, NAMES, 2)
    return Desk(
        things=tuple(zip(sample(rng, THINGS, count), sample(rng, TINTS, count), strict=True)),
        sender=sender,
        receiver=receiver,
        town=invented(rng, 1)[0],
        date=f"{between(rng, 1, 28)} {pick(rng, MONTHS)}",
        pencils=between(rng, 2, 8),
    )


def _draw_desk(scene: Desk, size: Size, rng: Generator) -> list[Canvas]:
    wood = pick(rng, ((196, 152, 104), (176, 130, 90), (214, 178, 130)))
    canvas = Canvas(size, wood)
    for _ in range(26):
        y = rng.uniform(0, 100)
        canvas.line([(0, y), (100, y + rng.uniform(-2, 2))], mix(wood, INK, rng.uniform(0.03, 0.12)), 0.4)
    canvas.box(4, 3, 96, 58, (238, 234, 224), INK, 0.2, 2)
    for i, (icon, tint) in enumerate(scene.things):
        draw_icon(canvas, icon, 19 + 31 * (i % 3) + rng.uniform(-2, 2), 17 + 27 * (i // 3), 8, tint)
    canvas.box(50 - canvas.across(34), 64, 50 + canvas.across(22), 94, WHITE, INK, 0.3, 1)
    left = 50 - canvas.across(30)
    for y, words, height in (
        (70, f"To: {scene.receiver}", 3.6),
        (77, f"From: {scene.sender}", 3.6),
        (84, f"{scene.town}, {scene.date}", 3),
        (90, "please write soon", 2.4),
    ):
        canvas.text(left, y, words, height, anchor="lm")
    for i in range(scene.pencils):
        x = 50 + canvas.across(26 + 3 * i)
        canvas.line([(x, 68), (x, 90)], ("red", "blue", "green")[i % 3], 1.1)
        canvas.polygon([(x - canvas.across(0.6), 68), (x, 65), (x + canvas.across(0.6), 68)], (240, 214, 170))
    return [canvas]


def _desk_facts(scene: Desk, rng: Generator) -> list[Fact]:
    items = [thing(tint, noun(icon)) for icon, tint in scene.things]
    names = sample(rng, without(NAMES, scene.sender, scene.receiver), 3)
    facts = [
        fact("receiver", scene.receiver, [scene.sender, *names]),
        fact("sender", scene.sender, [scene.receiver, *names]),
        fact("town", scene.town, strangers(rng, 4, scene.town)),
        fact("date", scene.date, days_near(rng, scene.date)),
        fact("things", len(items), near(rng, len(items), low=1)),
        fact("pencils", scene.pencils, near(rng, scene.pencils, low=1)),
    ]
    for i, ((icon, tint), item) in enumerate(zip(scene.things, items, strict=True)):
        facts.append(fact("tint", color(tint), [color(t) for _, t in scene.things if t != tint], item=noun(icon)))
        others = [noun(name) for name in sample(rng, without(THINGS, *(name for name, _ in scene.things)), 3)]
        facts.append(fact("what", noun(icon), others, tint=color(tint)))
        facts.append(fact(("letter", "letter_next")[i > 0], item))
        facts.append(fact(("story", "story_next", "story_third")[min(i, 2)], item, (), hero=scene.sender))
        facts.append(fact("note", item))
    facts.append(fact("letter_open", scene.receiver, (), town=scene.town, date=scene.date, pencils=scene.pencils))
    facts.append(fact("letter_close", scene.sender))
    facts.append(fact("story_open", scene.sender, (), town=scene.town, date=scene.date))
    facts.append(fact("story_close", scene.receiver, (), hero=scene.sender))
    return facts


_TOLD = ("", "")

_DESK_ASKS = {
    "receiver": Ask(
        "read", ("To whom is the card addressed?", "卡片是写给谁的？"),
        ("The card is addressed to {a}.", "卡片是写给{a}的。"),
    ),
    "sender": Ask("read", ("Who wrote the card?", "卡片是谁写的？"), ("The card is from {a}.", "卡片来自{a}。")),
    "town": Ask(
        "read",
        ("From which town was the card written?", "卡片是从哪个城镇写来的？"),
        ("It was written in {a}.", "它写于{a}。"),
    ),
    "date": Ask(
        "read", ("What date is on the card?", "卡片上的日期是什么？"),
        ("The card bears the date {a}.", "卡片上的日期是{a}。"),
    ),
    "things": Ask(
        "count", ("How many objects lie on the mat?", "垫子上有几样东西？"),
        ("The number of objects on the mat is {a}.", "垫子上的东西数量是{a}。"),
    ),
    "pencils": Ask(
        "count", ("How many pencils are next to the card?", "卡片旁边有几支铅笔？"),
        ("The number of pencils next to the card is {a}.", "卡片旁边的铅笔数量是{a}。"),
    ),
    "tint": Ask(
        "colour", ("What colour is the {item}?", "{item}是什么颜色？"), ("The {item} is {a}.", "{item}是{a}的。"),
    ),
    "what": Ask(
        "identify", ("Which object on the mat is {tint}?", "垫子上{tint}的东西是什么？"),
        ("The {tint} object is the {a}.", "{tint}的东西是{a}。"),
    ),
    "letter_open": Ask(
        "write", _TOLD,
        (
            "Dear {a}, thank you for asking me to write; I am sitting in {town} on {date}, with {pencils} pencils at "
            "hand. | Dear {a}, greetings from {town}! It is {date}, and {pencils} pencils lie beside my paper.",
            "亲爱的{a}，谢谢你让我写信。今天是{date}，我在{town}，手边有{pencils}支铅笔。 | 亲爱的{a}，"
            "来自{town}的问候！今天是{date}，纸边放着{pencils}支铅笔。",
        ),
    ),
    "letter": Ask(
        "write", _TOLD,
        ("In front of me is the {a}, and it makes me think of you.", "我面前的{a}让我想起了你。"),
    ),
    "letter_next": Ask(
        "write", _TOLD,
        (
            "Then there is the {a}, which I shall bring when we meet. | Beside it lies the {a}; you would like it. | "
            "I have also kept the {a} for you.",
            "还有{a}，见面时我会带给你。 | 旁边是{a}，你一定会喜欢。 | 我也为你留着{a}。",
        ),
    ),
    "letter_close": Ask("write", _TOLD, ("Please answer soon. Yours, {a}", "盼望你早日回信。你的{a}")),
    "story_open": Ask(
        "write", _TOLD,
        (
            "On {date}, {a} of {town} could not find the way home. | It was {date} in {town}, and {a} was bored.",
            "{date}这一天，{town}的{a}找不到回家的路。 | {town}的{date}，{a}觉得很无聊。",
        ),
    ),
    "story": Ask(
        "write", _TOLD,
        ("In the grass lay the {a}, and {hero} picked it up.", "草丛里躺着{a}，{hero}把它捡了起来。"),
    ),
    "story_next": Ask("write", _TOLD, ("Behind the next door waited the {a}.", "下一扇门后面等着的是{a}。")),
    "story_third": Ask(
        "write", _TOLD,
        (
            "A little later {hero} came upon the {a} and took it along. | An old man gave {hero} the {a} without a "
            "word. | Nobody could say whose the {a} was.",
            "不久，{hero}又看到了{a}，便带上了它。 | 一位老人默默地把{a}交给{hero}。 | 没有人知道{a}是谁的。",
        ),
    ),
    "story_close": Ask(
        "write", _TOLD,
        (
            "In the evening {hero} gave everything to {a}, and both laughed. | At last {a} came by and explained it "
            "all to {hero}.",
            "到了晚上，{hero}把一切都给了{a}，两人都笑了。 | 最后{a}来了，向{hero}解释了一切。",
        ),
    ),
    "note": Ask(
        "write", _TOLD,
        ("Pack the {a}. | Do not forget the {a}. | Put in the {a}.", "装好{a}。 | 别忘了{a}。 | 放入{a}。"),
    ),
}  # fmt: skip

DESK = Kind(
    _desk, _draw_desk, _desk_facts, _DESK_ASKS,
    (
        Topic(
            (
                "Write the letter that the card asks for, and mention all that lies on the mat. | Write to the "
                "receiver of the card about the things in the picture.",
                "请写出卡片所要的信，并提到垫子上的所有东西。 | 请给收卡人写信，谈谈图中的东西。",
            ),
            ("letter_open", "letter", "letter_next", "letter_close"),
        ),
        Topic(
            (
                "Write a short story with the sender of the card as hero, in which all the objects appear. | Invent "
                "a story about these things.",
                "请以写卡片的人为主角写一个短故事，让所有东西都出现。 | 请用这些东西编一个故事。",
            ),
            ("story_open", "story", "story_next", "story_third", "story_close"),
        ),
        Topic(
            (
                "Write a packing list with all the objects, and say for whom it is.",
                "请写一份包含所有东西的打包清单，并说明是给谁的。",
            ),
            ("receiver", "note"), ("Then the parcel is complete.", "这样包裹就齐了。"),
        ),
        Topic(
            ("Write a notice about things that were found, with colours.", "请写一则说明颜色的失物招领启事。"),
            ("things", "tint", "town", "date"), ("Whoever misses something may ask here.", "失主可来此领取。"),
        ),
    ),
    ("A desk with a mat full of things, a card and pencils.", "桌上的垫子上放着许多东西，旁边有卡片和铅笔。"),
)  # fmt: skip

DOMAINS = {"writing": Domain((DESK,), types=UNCAPTIONED)}
