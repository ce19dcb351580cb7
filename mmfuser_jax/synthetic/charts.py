"""Charts of the domain of charts and mathematics: bars, lines and pies with small labels."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Size
from mmfuser_jax.synthetic.geometry import GEOMETRY
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    COLORS,
    Number,
    Text,
    between,
    color,
    invented,
    near,
    pick,
    sample,
    strangers,
    without,
    years_near,
)  # fmt: skip

SUBJECTS: tuple[tuple[str, Text], ...] = (
    ("visitors", ("visitors", "参观人数")), ("books lent", ("books lent", "借出的书")),
    ("bikes sold", ("bikes sold", "售出的自行车")), ("rain in mm", ("rain in mm", "降雨量（毫米）")),
    ("trees planted", ("trees planted", "种植的树")), ("parcels", ("parcels", "包裹数")),
)  # fmt: skip

CHART_TINTS = ("red", "orange", "yellow", "green", "blue", "purple")


@dataclass(frozen=True)
class Chart:
    """A bar or line chart: values by named place, on an axis with small tick labels."""

    form: str
    title: str
    subject: int
    names: tuple[str, ...]
    values: tuple[int, ...]
    tints: tuple[str, ...]
    step: int


def _chart(rng: Generator) -> Chart:
    count, step = between(rng, 4, 6), pick(rng, (2, 5, 10, 20))
    values = (
        [step * half // 2 for half in sample(rng, range(2, 17), count)]
        if step > 2
        else sample(rng, range(2, 17), count)
    )
    return Chart(
        form=pick(rng, ("bar", "line")),
        title=f"{invented(rng, 1)[0]} {between(rng, 1990, 2029)}",
        subject=between(rng, 0, len(SUBJECTS) - 1),
        names=tuple(name[:4] for name in invented(rng, count)),
        values=tuple(values),
        tints=tuple(sample(rng, CHART_TINTS, count)),
        step=step,
    )


def _draw_chart(scene: Chart, size: Size, rng: Generator) -> list[Canvas]:
    canvas = Canvas(size, pick(rng, (WHITE, (248, 248, 244), (244, 247, 251))))
    canvas.text(50, 6, f"{scene.title}: {SUBJECTS[scene.subject][0]}", 4.4)
    left, right, floor, top = 13, 97, 88, 14

    def height(value: Number) -> Number:
        return floor - (floor - top) * value / (9 * scene.step)

    for i in range(10):
        y = height(i * scene.step)
        canvas.line([(left, y), (right, y)], (212, 212, 218), 0.15)
        canvas.text(left - 1.5, y, str(i * scene.step), 2.9, anchor="rm")
    canvas.line([(left, top - 3), (left, floor), (right, floor)], INK, 0.4)
    width = (right - left) / len(scene.values)
    middles = [left + width * (i + 0.5) for i in range(len(scene.values))]
    if scene.form == "line":
        canvas.line([(x, height(v)) for x, v in zip(middles, scene.values, strict=True)], scene.tints[0], 0.5)
    for x, name, value, tint in zip(middles, scene.names, scene.values, scene.tints, strict=True):
        if scene.form == "bar":
            canvas.box(x - width * 0.28, height(value), x + width * 0.28, floor, tint)
        else:
            canvas.shape("circle", x, height(value), 1.1, scene.tints[0])
        canvas.text(x, floor + 4.5, name, 3.2)
    return [canvas]


def _chart_facts(scene: Chart, rng: Generator) -> list[Fact]:
    unit = scene.step // 2 or 1
    names, values = list(scene.names), list(scene.values)
    high, low = names[values.index(max(values))], names[values.index(min(values))]
    title = SUBJECTS[scene.subject][1]
    place, year = scene.title.split()
    facts = [
        fact(
            "title",
            scene.title,
            [f"{name} {year}" for name in strangers(rng, 2, place)]
            + [f"{place} {other}" for other in years_near(rng, year)],
        ),
        fact("subject", title, [words for _, words in SUBJECTS if words != title]),
    ]
    facts += [
        fact("value", value, near(rng, value, unit), name=name) for name, value in zip(names, values, strict=True)
    ]
    if scene.form == "bar":
        for name, tint in zip(names, scene.tints, strict=True):
            facts.append(fact("bar", name, without(names, name), tint=color(tint)))
    facts += [
        fact("high", high, without(names, high)),
        fact("low", low, without(names, low)),
        fact(
            "range",
            max(values) - min(values),
            near(rng, max(values) - min(values), unit, low=unit),
            high=max(values),
            low=min(values),
        ),
    ]
    (one, a), (two, b) = sample(rng, list(zip(names, values, strict=True)), 2)
    facts.append(fact("sum", a + b, near(rng, a + b, unit, low=unit), one=one, two=two, v1=a, v2=b))
    above = sum(value > 4 * scene.step for value in values)
    facts.append(fact("above", above, [str(n) for n in range(len(values) + 1) if n != above], limit=4 * scene.step))
    return facts


_CHART_ASKS = {
    "title": Ask(
        "read",
        ("Which place and year are in the title of the chart?", "图表标题中的地点和年份是什么？"),
        ("Its title names {a}.", "标题是{a}。"),
    ),
    "subject": Ask(
        "read", ("What does the chart count?", "图表统计的是什么？"),
        ("The quantity shown is {a}.", "统计的内容是{a}。"),
    ),
    "value": Ask(
        "chart",
        (
            "What is the value for {name}? | Read the chart: how much has {name}?",
            "{name}的数值是多少？ | 从图上看，{name}是多少？",
        ),
        ("The value for {name} is {a}. | {name} reaches {a}.", "{name}的数值是{a}。 | {name}达到{a}。"),
    ),
    "bar": Ask(
        "chart",
        ("Which name belongs to the {tint} bar?", "{tint}的柱子对应哪个名称？"),
        ("The {tint} bar belongs to {a}.", "{tint}的柱子属于{a}。"),
    ),
    "high": Ask(
        "compare", ("Which has the highest value?", "哪一个数值最高？"),
        ("The highest value is that of {a}.", "数值最高的是{a}。"),
    ),
    "low": Ask(
        "compare", ("Which has the lowest value?", "哪一个数值最低？"),
        ("The lowest value is that of {a}.", "数值最低的是{a}。"),
    ),
    "range": Ask(
        "calculate",
        ("What is the difference between the highest and the lowest value?", "最高值与最低值相差多少？"),
        ("Highest and lowest, {high} and {low}, differ by {a}.", "最高值{high}与最低值{low}相差{a}。"),
    ),
    "sum": Ask(
        "calculate", ("What do {one} and {two} add up to?", "{one}与{two}之和是多少？"),
        ("{one} with {v1} and {two} with {v2} add up to {a}.", "{one}的{v1}与{two}的{v2}之和是{a}。"),
    ),
    "above": Ask(
        "count", ("How many values are above {limit}?", "有几个数值高于{limit}？"),
        ("The number of values above {limit} is {a}.", "高于{limit}的数值有{a}个。"),
    ),
}  # fmt: skip

CHART = Kind(
    _chart, _draw_chart, _chart_facts, _CHART_ASKS,
    (
        Topic(
            (
                "Read all values off this chart. | Turn this chart into text.",
                "请读出图表中的所有数值。 | 请把图表转成文字。",
            ),
            ("title", "subject", "value"),
        ),
        Topic(
            ("What stands out in this chart?", "这张图表有什么值得注意的地方？"),
            ("subject", "high", "low", "range", "above"),
        ),
    ),
    (
        "The picture is a chart with a labelled axis and thin grid lines. | A chart with small tick labels on its "
        "left is shown.",
        "图片是一张带刻度和细网格线的图表。 | 这是一张左侧带小刻度的图表。",
    ),
    png=0.9,
)  # fmt: skip


@dataclass(frozen=True)
class Pie:
    """A pie chart without numbers in its slices; percents are in a small legend."""

    title: str
    names: tuple[str, ...]
    shares: tuple[int, ...]
    tints: tuple[str, ...]


def _pie(rng: Generator) -> Pie:
    count = between(rng, 4, 5)
    cuts = sorted(sample(rng, range(1, 19), count - 1))
    shares = [5 * (b - a) for a, b in zip([0, *cuts], [*cuts, 20], strict=True)]
    return Pie(invented(rng, 1)[0], tuple(invented(rng, count)), tuple(shares), tuple(sample(rng, CHART_TINTS, count)))


def _draw_pie(scene: Pie, size: Size, rng: Generator) -> list[Canvas]:
    canvas = Canvas(size, pick(rng, (WHITE, (248, 248, 244))))
    canvas.text(50, 6, f"Budget of {scene.title}", 4.6)
    cx, cy = canvas.at(50, 45)
    radius, start = 30 * canvas.unit, -90.0
    for share, tint in zip(scene.shares, scene.tints, strict=True):
        end = start + 3.6 * share
        canvas.pen.pieslice([cx - radius, cy - radius, cx + radius, cy + radius], start, end, COLORS[tint][1], WHITE, 2)
        start = end
    for i, (name, share, tint) in enumerate(zip(scene.names, scene.shares, scene.tints, strict=True)):
        x, y = 50 + canvas.across(-40 + 30 * (i % 3)), 83 + 7 * (i // 3)
        canvas.box(x, y - 1.5, x + canvas.across(3), y + 1.5, tint)
        canvas.text(x + canvas.across(4.5), y, f"{name} {share}%", 2.9, anchor="lm")
    return [canvas]


def _pie_facts(scene: Pie, rng: Generator) -> list[Fact]:
    names, shares = list(scene.names), list(scene.shares)
    facts = [fact("town", scene.title, strangers(rng, 4, scene.title))]
    for name, share, tint in zip(names, shares, scene.tints, strict=True):
        facts.append(
            fact("share", f"{share}%", [f"{n}%" for n in near(rng, share, 5, low=5)], name=name, tint=color(tint))
        )
        facts.append(fact("slice", name, without(names, name), tint=color(tint)))
    if shares.count(max(shares)) == 1:
        top = names[shares.index(max(shares))]
        facts.append(fact("largest", top, without(names, top)))
    (one, a), (two, b) = sample(rng, list(zip(names, shares, strict=True)), 2)
    facts.append(
        fact("together", f"{a + b}%", [f"{n}%" for n in near(rng, a + b, 5, low=5)], one=one, two=two, s1=a, s2=b)
    )
    return facts


_PIE_ASKS = {
    "town": Ask(
        "read", ("Whose budget does the chart show?", "图表展示的是谁的预算？"),
        ("It shows the budget of {a}.", "它展示了{a}的预算。"),
    ),
    "share": Ask(
        "chart", ("What percentage goes to {name}?", "{name}占百分之几？"),
        (
            "{name} takes {a}, the {tint} slice. | The {tint} slice, {name}, is {a}.",
            "{name}占{a}，是{tint}的扇形。 | {tint}的扇形是{name}，占{a}。",
        ),
    ),
    "slice": Ask(
        "chart", ("What does the {tint} slice stand for?", "{tint}的扇形代表什么？"),
        ("The {tint} slice stands for {a}.", "{tint}的扇形代表{a}。"),
    ),
    "largest": Ask(
        "compare", ("Which is the largest slice?", "哪一块最大？"), ("The largest slice is {a}.", "最大的一块是{a}。"),
    ),
    "together": Ask(
        "calculate",
        ("What percentage do {one} and {two} make together?", "{one}和{two}一共占百分之几？"),
        ("{one} with {s1}% and {two} with {s2}% make {a} together.", "{one}占{s1}%，{two}占{s2}%，一共{a}。"),
    ),
}  # fmt: skip

PIE = Kind(
    _pie, _draw_pie, _pie_facts, _PIE_ASKS,
    (
        Topic(
            ("Explain how the budget is divided.", "请说明预算是怎样分配的。"), ("town", "share", "largest"),
            ("The slices make 100% in total.", "各部分合计100%。"),
        ),
        Topic(
            ("Which colour stands for what, and which parts can be added?", "各种颜色代表什么？哪些部分可以相加？"),
            ("slice", "together"),
        ),
    ),
    (
        "The picture is a pie chart with a small legend below. | A round chart of coloured slices is shown.",
        "图片是一张下面带小图例的饼图。 | 这是一张由彩色扇形组成的圆形图。",
    ),
    ("town", "share", "largest", "together"), png=0.9,
)  # fmt: skip

DOMAINS = {"chart_and_math": Domain((CHART, PIE, GEOMETRY))}
