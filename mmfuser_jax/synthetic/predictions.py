"""The domain of predictions: where a ball arrives, how a row goes on, when a candle has burnt down."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Size, mix, paper
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    SHAPES,
    Number,
    Text,
    between,
    color,
    near,
    pick,
    sample,
    thing,
    without,
)  # fmt: skip


@dataclass(frozen=True)
class Rolling:
    """A ball rolling in a straight line towards lettered baskets, and a row of shapes that goes on.

    Attributes:
      entry: height of the first position, in percent.
      slope: percent down per step.
      basket: index of the basket where it arrives.
      tint: of the ball.
      seen: number of positions shown.
      cycle: the shapes that repeat in the row below.
      shown: how many shapes of the row are shown.
    """

    entry: Number
    slope: Number
    basket: int
    tint: str
    seen: int
    cycle: tuple[tuple[str, str], ...]
    shown: int


TINTS = ("red", "orange", "green", "blue", "purple", "brown")


def _rolling(rng: Generator) -> Rolling:
    basket, entry = between(rng, 0, 5), float(rng.uniform(10, 58))
    arrival = 9 + 10.5 * basket
    pool = [(tint, shape) for tint in TINTS for shape in SHAPES]
    cycle = sample(rng, pool, between(rng, 2, 4))
    return Rolling(
        entry,
        (arrival - entry) / 9,
        basket,
        pick(rng, TINTS),
        between(rng, 3, 6),
        tuple(cycle),
        between(rng, len(cycle) + 3, 8),
    )


def _draw_rolling(scene: Rolling, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    for i, letter in enumerate("ABCDEF"):
        y = 9 + 10.5 * i
        canvas.box(88, y - 4.4, 97, y + 4.4, (238, 232, 214), INK, 0.3)
        canvas.text(92.5, y, letter, 3.6)
    for i in range(scene.seen):
        x, y = 8 + 9 * i, scene.entry + scene.slope * i
        last = i == scene.seen - 1
        canvas.oval(x, y, 1.9, 1.9, scene.tint if last else mix(scene.tint, WHITE, 0.55), INK if last else None, 0.3)
        canvas.text(x, y - canvas.down(4), str(i + 1), 2.5)
    canvas.line([(3, 71), (97, 71)], (170, 170, 176), 0.3)
    for i in range(scene.shown):
        tint, shape = scene.cycle[i % len(scene.cycle)]
        canvas.shape(shape, 9 + 10 * i, 85, 4, tint, INK, 0.3)
    canvas.text(9 + 10 * scene.shown, 85, "?", 6)
    return [canvas]


def _rolling_facts(scene: Rolling, rng: Generator) -> list[Fact]:
    def named(index: int) -> Text:
        tint, shape = scene.cycle[index % len(scene.cycle)]
        return thing(tint, SHAPES[shape])

    upcoming, after = named(scene.shown), named(scene.shown + 1)
    pool = [named(i) for i in range(len(scene.cycle))]
    strangers = [thing(t, SHAPES[s]) for t in TINTS for s in SHAPES if thing(t, SHAPES[s]) not in pool]
    letters = list("ABCDEF")
    way: tuple[Text, Text] = (("down", "下"), ("up", "上"))
    facts = [
        fact("tint", color(scene.tint), [color(t) for t in without(TINTS, scene.tint)]),
        fact("seen", scene.seen, near(rng, scene.seen, low=1)),
        fact("basket", letters[scene.basket], without(letters, letters[scene.basket])),
        fact("shown", scene.shown, near(rng, scene.shown, low=1)),
        fact("cycle", len(scene.cycle), [str(n) for n in range(1, 6) if n != len(scene.cycle)]),
        fact("next", upcoming, without(pool, upcoming) + sample(rng, strangers, 3), last=named(scene.shown - 1)),
        fact("after", after, without(pool, after) + sample(rng, strangers, 3)),
    ]
    if abs(scene.slope) > 0.6:
        falls = scene.slope > 0
        facts.insert(2, fact("way", way[not falls], [way[falls]]))
    return facts


_ROLLING_ASKS = {
    "tint": Ask("colour", ("What colour is the ball?", "球是什么颜色？"), ("The ball is {a}.", "球是{a}的。")),
    "seen": Ask(
        "count",
        ("How many positions of the ball are shown?", "图中显示了球的几个位置？"),
        ("Positions of the ball that are shown: {a}.", "图中显示了球的{a}个位置。"),
    ),
    "way": Ask(
        "predict",
        ("Does the ball move up or down as it goes to the right?", "球向右移动时是往上还是往下？"),
        ("On its way to the right the ball moves {a}.", "球在向右移动时往{a}走。"),
    ),
    "basket": Ask(
        "predict",
        (
            "If it goes on in a straight line, in which box will the ball arrive?",
            "如果沿直线继续前进，球会到达哪个格子？",
        ),
        ("Going straight on, the ball will arrive in box {a}.", "沿直线继续，球会到达{a}格。"),
    ),
    "shown": Ask(
        "count",
        ("How many shapes stand in the row before the question mark?", "问号前面的一排有几个图形？"),
        ("The number of shapes before the question mark is {a}.", "问号前的图形数量是{a}。"),
    ),
    "cycle": Ask(
        "predict",
        ("After how many shapes does the row repeat?", "这一排每隔几个图形重复一次？"),
        ("The number of shapes after which the row repeats is {a}.", "这一排重复的周期是{a}个图形。"),
    ),
    "next": Ask(
        "predict", ("What comes in place of the question mark?", "问号处应该是什么？"),
        ("After the {last}, in place of the question mark, comes the {a}.", "在{last}之后，问号处应该是{a}。"),
    ),
    "after": Ask(
        "predict",
        ("Which shape comes right after the one at the question mark?", "问号之后的下一个图形是什么？"),
        ("Right after the shape at the question mark comes the {a}.", "问号之后的下一个图形是{a}。"),
    ),
}  # fmt: skip

ROLLING = Kind(
    _rolling, _draw_rolling, _rolling_facts, _ROLLING_ASKS,
    (
        Topic(
            (
                "Predict where the ball will go and give your reasons. | What will the ball do next?",
                "请预测球会去哪里并说明理由。 | 球接下来会怎样？",
            ),
            ("tint", "seen", "way", "basket"),
            ("This follows from equal steps along one line.", "这是因为球沿一条直线等距前进。"),
        ),
        Topic(
            ("How does the row of shapes go on, and why?", "这排图形会怎样继续，为什么？"),
            ("shown", "cycle", "next", "after"),
        ),
    ),
    (
        "Above, a ball is shown at numbered positions left of six lettered boxes; below, a row of shapes ends in a "
        "question mark.",
        "上方是球的编号位置和右侧六个带字母的格子，下方是一排以问号结尾的图形。",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Candle:
    """A candle that burns down evenly, seen at equal times next to a ruler: heights in mm."""

    first: int
    step: int
    seen: int
    minutes: int
    tint: str


def _candle(rng: Generator) -> Candle:
    step, seen = between(rng, 4, 15), between(rng, 3, 4)
    return Candle(step * seen + between(rng, 2, 4) * step, step, seen, pick(rng, (5, 10, 15, 20)), pick(rng, TINTS))


def _draw_candle(scene: Candle, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    top, floor, most = 14, 86, 10 * math.ceil((scene.first + 1) / 10)

    def height(value: Number) -> Number:
        return floor - (floor - top) * value / most

    for value in range(0, most + 1, 2):
        y, long = height(value), value % 10 == 0
        canvas.line([(10, y), (14 if long else 12, y)], INK, 0.25)
        if long:
            canvas.line([(14, y), (96, y)], (206, 206, 212), 0.15)
            canvas.text(8.5, y, str(value), 2.8, anchor="rm")
    canvas.line([(10, top), (10, floor), (96, floor)], INK, 0.4)
    canvas.text(9, 7, "mm", 2.8)
    for i in range(scene.seen):
        x, y = 28 + 20 * i, height(scene.first - i * scene.step)
        canvas.box(x - canvas.across(4), y, x + canvas.across(4), floor, scene.tint, INK, 0.3)
        canvas.oval(x, y - canvas.down(3), 1, 2.2, (250, 170, 40))
        canvas.text(x, 91.5, f"{i * scene.minutes} min", 3)
    return [canvas]


def _candle_facts(scene: Candle, rng: Generator) -> list[Fact]:
    last = scene.first - (scene.seen - 1) * scene.step
    left, time = last - scene.step, scene.minutes * scene.seen
    end = scene.first // scene.step * scene.minutes
    return [
        fact("tint", color(scene.tint), [color(t) for t in without(TINTS, scene.tint)]),
        fact("first", f"{scene.first} mm", [f"{n} mm" for n in near(rng, scene.first, 3, low=1)]),
        fact("last", f"{last} mm", [f"{n} mm" for n in near(rng, last, 3, low=1)], time=time - scene.minutes),
        fact("step", f"{scene.step} mm", [f"{n} mm" for n in near(rng, scene.step, 2, low=1)], minutes=scene.minutes),
        fact("next", f"{left} mm", [f"{n} mm" for n in near(rng, left, 3)], time=time, last=last, step=scene.step),
        fact(
            "end",
            f"{end} min",
            [f"{n} min" for n in near(rng, end, scene.minutes, low=scene.minutes)],
            first=scene.first,
            step=scene.step,
            minutes=scene.minutes,
        ),
    ]


_CANDLE_ASKS = {
    "tint": Ask("colour", ("What colour is the candle?", "蜡烛是什么颜色？"), ("The candle is {a}.", "蜡烛是{a}的。")),
    "first": Ask(
        "read", ("How high is the candle at the beginning?", "蜡烛一开始有多高？"),
        ("At the beginning it is {a} high.", "一开始高{a}。"),
    ),
    "last": Ask(
        "read",
        ("How high is the candle after {time} minutes?", "{time}分钟后蜡烛有多高？"),
        ("After {time} minutes it is {a} high.", "{time}分钟后高{a}。"),
    ),
    "step": Ask(
        "calculate",
        ("How much does the candle lose in every {minutes} minutes?", "蜡烛每{minutes}分钟缩短多少？"),
        ("Every {minutes} minutes it loses {a}.", "每{minutes}分钟缩短{a}。"),
    ),
    "next": Ask(
        "predict",
        ("How high will the candle be after {time} minutes?", "{time}分钟后蜡烛会有多高？"),
        ("After {time} minutes it will be {last} - {step} = {a} high.", "{time}分钟后它会高{last}-{step}={a}。"),
    ),
    "end": Ask(
        "predict",
        ("After how many minutes in total will the candle have burnt down?", "蜡烛一共燃烧多少分钟后会烧完？"),
        (
            "With {first} mm to burn at {step} mm in {minutes} minutes, it lasts {a} in total.",
            "{first} mm的蜡烛每{minutes}分钟烧掉{step} mm，一共能烧{a}。",
        ),
    ),
}  # fmt: skip

CANDLE = Kind(
    _candle, _draw_candle, _candle_facts, _CANDLE_ASKS,
    (
        Topic(
            (
                "How will the candle go on burning? Explain how you know. | Predict the candle's future.",
                "蜡烛会怎样继续燃烧？请说明依据。 | 请预测蜡烛之后的情况。",
            ),
            ("first", "step", "next", "end"),
        ),
        Topic(
            ("Describe what has happened to the candle so far.", "请描述到目前为止蜡烛的变化。"),
            ("tint", "first", "last", "step"),
        ),
    ),
    (
        "A candle is shown several times next to a ruler with fine ticks, burning down evenly. | The picture shows "
        "one candle at equal intervals of time.",
        "图中同一支蜡烛在带细刻度的尺子旁出现多次，均匀地变短。 | 图中是同一支蜡烛在相等时间间隔下的样子。",
    ),
    png=0.3,
)  # fmt: skip

DOMAINS = {"future_prediction": Domain((ROLLING, CANDLE))}
