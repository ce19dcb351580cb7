"""The domain of landmarks: invented buildings with parts to count and a plate that names them."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Rgb, Size, mix
from mmfuser_jax.synthetic.icons import draw_icon
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    SIDES,
    TINTS,
    Number,
    Text,
    between,
    color,
    invented,
    near,
    pick,
    strangers,
    without,
    years_near,
)  # fmt: skip

BUILDINGS: dict[str, tuple[Text, Text, str]] = {
    "tower": (("tower", "塔"), ("tiers", "层数"), "Tower"),
    "bridge": (("arched bridge", "拱桥"), ("arches", "桥拱数"), "Bridge"),
    "temple": (("temple with columns", "柱式神庙"), ("columns", "柱子数"), "Temple"),
    "pyramid": (("stepped pyramid", "阶梯金字塔"), ("steps", "台阶数"), "Pyramid"),
    "wheel": (("big wheel", "摩天轮"), ("cabins", "座舱数"), "Wheel"),
}


@dataclass(frozen=True)
class Landmark:
    """An invented building with a plate that gives its name and year, a flag, and a tree beside it."""

    building: str
    parts: int
    name: str
    year: str
    flag: str
    tree: str
    windows: int


def _landmark(rng: Generator) -> Landmark:
    building = pick(rng, list(BUILDINGS))
    return Landmark(
        building=building,
        parts=between(rng, 3, 8) if building != "wheel" else between(rng, 6, 13),
        name=f"{invented(rng, 1)[0]} {BUILDINGS[building][2]}",
        year=str(between(rng, 1210, 1989)),
        flag=pick(rng, TINTS),
        tree=pick(rng, list(SIDES)),
        windows=between(rng, 2, 8),
    )


def _draw_landmark(scene: Landmark, size: Size, rng: Generator) -> list[Canvas]:
    canvas = Canvas(size, pick(rng, ((186, 218, 242), (240, 214, 190), (206, 214, 226))))
    stone = pick(rng, ((206, 184, 150), (170, 160, 156), (190, 130, 100)))
    canvas.box(-1, 78, 101, 101, (126, 162, 96))
    {"tower": _tower, "bridge": _bridge, "temple": _temple, "pyramid": _pyramid, "wheel": _wheel}[scene.building](
        canvas, scene.parts, stone
    )
    side = -1 if scene.tree == "left" else 1
    draw_icon(canvas, "tree", 50 + side * 41, 72, 7, "green")
    draw_icon(canvas, "flag", 50 - side * 42, 73, 6, scene.flag)
    hut = 50 - side * 27
    half = canvas.across(11)
    canvas.box(hut - half, 82, hut + half, 94, (222, 206, 190), INK, 0.3)
    for i in range(scene.windows):
        canvas.box(*_window(canvas, hut - half + 2 * half * (i + 0.5) / scene.windows, 87), (70, 90, 120))
    plate = 50 + side * 20
    canvas.box(plate - canvas.across(19), 83, plate + canvas.across(19), 97, WHITE, INK, 0.4, 1)
    canvas.text(plate, 87.5, scene.name, 3.6)
    canvas.text(plate, 93.5, f"built {scene.year}", 2.8)
    return [canvas]


def _window(canvas: Canvas, x: Number, y: Number) -> tuple[Number, Number, Number, Number]:
    return x - canvas.across(0.75), y - canvas.down(1.2), x + canvas.across(0.75), y + canvas.down(1.2)


def _tower(canvas: Canvas, parts: int, stone: Rgb) -> None:
    for i in range(parts):
        half = canvas.across(15 - 9 * i / parts)
        canvas.box(
            50 - half,
            78 - 62 * (i + 1) / parts,
            50 + half,
            78 - 62 * i / parts,
            mix(stone, WHITE, 0.25 * (i % 2)),
            INK,
            0.5,
        )
    canvas.polygon([(50 - canvas.across(6), 16), (50, 5), (50 + canvas.across(6), 16)], mix(stone, INK, 0.4), INK)


def _bridge(canvas: Canvas, parts: int, stone: Rgb) -> None:
    canvas.box(14, 70, 86, 79, (90, 150, 200))
    canvas.box(14, 36, 86, 76, stone, INK, 0.5)
    span = 68 / parts
    for i in range(parts):
        x = 16 + span * (i + 0.5)
        half = span * 0.4
        canvas.box(x - half, 56, x + half, 76.5, (90, 150, 200))
        radius = half / canvas.across(1)
        canvas.oval(x, 56, radius, min(radius, 17 / canvas.down(1)), (90, 150, 200))


def _temple(canvas: Canvas, parts: int, stone: Rgb) -> None:
    half = canvas.across(34)
    canvas.polygon([(50 - half, 36), (50, 12), (50 + half, 36)], stone, INK)
    canvas.box(50 - half, 36, 50 + half, 42, mix(stone, WHITE, 0.3), INK)
    canvas.box(50 - half, 73, 50 + half, 79, mix(stone, WHITE, 0.3), INK)
    for i in range(parts):
        x = 50 - half + 2 * half * (i + 0.5) / parts
        canvas.box(x - canvas.across(2), 42, x + canvas.across(2), 73, mix(stone, WHITE, 0.5), INK, 0.3)


def _pyramid(canvas: Canvas, parts: int, stone: Rgb) -> None:
    for i in range(parts):
        half = canvas.across(38 - 32 * i / parts)
        canvas.box(
            50 - half, 79 - 60 * (i + 1) / parts, 50 + half, 79 - 60 * i / parts, mix(stone, WHITE, 0.08 * i), INK, 0.4
        )


def _wheel(canvas: Canvas, parts: int, stone: Rgb) -> None:
    middle = (50.0, 42.0)
    canvas.polygon([(50 - canvas.across(14), 79), middle, (50 + canvas.across(14), 79)], None, stone, 1.2)
    canvas.oval(*middle, 28, 28, None, stone, 0.9)
    for spoke in canvas.ring(*middle, [(28, 0)], 7):
        canvas.line([middle, spoke], stone, 0.4)
    for i in range(parts):
        end = canvas.ring(*middle, [(28, 0)], 7 + 360 * i / parts)[0]
        canvas.line([middle, end], stone, 0.4)
        canvas.oval(*end, 3, 3, "red", INK, 0.3)


def _landmark_facts(scene: Landmark, rng: Generator) -> list[Fact]:
    words, parts, noun_en = BUILDINGS[scene.building]
    year = int(scene.year)
    return [
        fact("building", words, [BUILDINGS[b][0] for b in without(list(BUILDINGS), scene.building)]),
        fact("name", scene.name, [f"{name} {noun_en}" for name in strangers(rng, 4, scene.name.split()[0])]),
        fact("year", scene.year, years_near(rng, scene.year)),
        fact("parts", scene.parts, near(rng, scene.parts, low=1), parts=parts),
        fact("century", _century(year), [_century(year + 100 * shift) for shift in (-2, -1, 1, 2)]),
        fact("flag", color(scene.flag), [color(t) for t in without(TINTS, scene.flag)]),
        fact("tree", SIDES[scene.tree], [words for name, words in SIDES.items() if name != scene.tree]),
        fact("windows", scene.windows, near(rng, scene.windows, low=1)),
    ]


def _century(year: int) -> Text:
    number = (year - 1) // 100 + 1
    ending = {21: "st", 22: "nd"}.get(number, "th")
    return f"the {number}{ending} century", f"{number}世纪"


_LANDMARK_ASKS = {
    "building": Ask(
        "identify", ("What kind of landmark is this?", "这是什么类型的地标？"),
        ("The landmark is a {a}.", "这座地标是一座{a}。"),
    ),
    "name": Ask(
        "read",
        ("What is this landmark called? | Which name is on the plate?", "这座地标叫什么名字？ | 牌子上的名称是什么？"),
        ("According to the plate it is {a}.", "牌子上写着它的名字：{a}。"),
    ),
    "year": Ask("read", ("In which year was it built?", "它建于哪一年？"), ("It was built in {a}.", "它建于{a}年。")),
    "parts": Ask(
        "count",
        ("Count the {parts} of the landmark: how many are there?", "这座地标的{parts}是多少？"),
        ("The number of {parts} is {a}.", "{parts}是{a}。"),
    ),
    "century": Ask(
        "reason", ("From which century is the building?", "这座建筑是哪个世纪的？"),
        ("It dates from {a}.", "它是{a}的建筑。"),
    ),
    "flag": Ask(
        "colour", ("What colour is the flag?", "旗子是什么颜色？"),
        ("A {a} flag flies nearby.", "旁边飘着一面{a}的旗子。"),
    ),
    "tree": Ask(
        "locate", ("On which side of the building is the tree?", "树在建筑的哪一边？"),
        ("A tree stands on the {a}.", "树在{a}。"),
    ),
    "windows": Ask(
        "count",
        ("How many windows does the small hut in front have?", "前面的小屋有几扇窗？"),
        ("The number of windows of the small hut is {a}.", "小屋的窗户数量是{a}。"),
    ),
}  # fmt: skip

LANDMARK = Kind(
    _landmark, _draw_landmark, _landmark_facts, _LANDMARK_ASKS,
    (
        Topic(
            (
                "Introduce this landmark to a visitor. | What can you tell me about this building?",
                "请向游客介绍这座地标。 | 关于这座建筑你能告诉我什么？",
            ),
            ("building", "name", "year", "century", "parts"),
        ),
        Topic(("What is around the building?", "建筑周围有什么？"), ("building", "flag", "tree", "windows", "name")),
    ),
    (
        "A single building stands out against the sky, with a plate in the foreground. | The picture shows a "
        "landmark on a lawn.",
        "一座建筑矗立在天空下，前面有一块牌子。 | 图中是草地上的一座地标。",
    ),
)  # fmt: skip

DOMAINS = {"landmark": Domain((LANDMARK,))}
