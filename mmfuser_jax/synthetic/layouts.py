"""Domains of where things are: shapes beside and above each other, and things on a grid with letters and numbers."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, Canvas, Size, paper
from mmfuser_jax.synthetic.icons import ICONS, draw_icon, noun
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import SHAPES, TINTS, Text, between, near, pick, sample, thing, without

ROWS = ("top", "middle", "bottom")

ROW_WORDS: dict[str, Text] = {"top": ("top", "最上面"), "middle": ("middle", "中间"), "bottom": ("bottom", "最下面")}


@dataclass(frozen=True)
class Scattered:
    """Coloured shapes in three rows of four places, some of them empty.

    Attributes:
      places: (colour, shape) by (row, column).
    """

    places: dict[tuple[int, int], tuple[str, str]]


def _scattered(rng: Generator) -> Scattered:
    cells = [(row, column) for row in range(3) for column in range(4)]
    kinds = sample(rng, [(tint, shape) for tint in TINTS for shape in SHAPES], 12)
    kept = sorted(sample(rng, cells, between(rng, 8, 11)))
    return Scattered(dict(zip(kept, kinds, strict=False)))


def _draw_scattered(scene: Scattered, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    for (row, column), (tint, shape) in scene.places.items():
        x, y = 14 + 24 * column + rng.uniform(-2.5, 2.5), 19 + 31 * row + rng.uniform(-3, 3)
        canvas.shape(shape, x, y, rng.uniform(4.5, 7), tint, INK, 0.35)
    return [canvas]


def _scattered_facts(scene: Scattered, rng: Generator) -> list[Fact]:
    names = {place: thing(tint, SHAPES[shape]) for place, (tint, shape) in scene.places.items()}
    everything = list(names.values())
    facts = [fact("total", len(names), near(rng, len(names), low=1))]
    for row, label in enumerate(ROWS):
        shown = [names[place] for place in names if place[0] == row]
        if shown:
            facts.append(
                fact("row", len(shown), [str(n) for n in range(1, 5) if n != len(shown)], row=ROW_WORDS[label])
            )
    for (row, column), name in names.items():
        for key, step in (("right", (0, 1)), ("below", (1, 0))):
            other = names.get((row + step[0], column + step[1]))
            if other:
                facts.append(fact(key, other, without(everything, other, name), item=name))
                back = {"right": "left", "below": "above"}[key]
                facts.append(fact(back, name, without(everything, other, name), item=other))
    chosen = {id(f) for f in sample(rng, facts[4:], 7)}
    return [f for i, f in enumerate(facts) if i < 4 or id(f) in chosen]


_SCATTERED_ASKS = {
    "total": Ask(
        "count", ("How many shapes are there in total?", "图中一共有多少个图形？"),
        ("The picture shows {a} shapes in three rows.", "图中有{a}个图形，排成三行。"),
    ),
    "row": Ask(
        "count", ("How many shapes are in the {row} row?", "{row}一行有几个图形？"),
        ("The number of shapes in the {row} row is {a}.", "{row}一行的图形数量是{a}。"),
    ),
    "right": Ask(
        "relation",
        ("What is directly to the right of the {item}?", "{item}的右边紧挨着的是什么？"),
        ("Directly to the right of the {item} is the {a}.", "{item}的右边紧挨着的是{a}。"),
    ),
    "left": Ask(
        "relation",
        ("What is directly to the left of the {item}?", "{item}的左边紧挨着的是什么？"),
        ("Directly to the left of the {item} is the {a}.", "{item}的左边紧挨着的是{a}。"),
    ),
    "below": Ask(
        "relation",
        ("Which shape stands directly below the {item}?", "{item}的正下方是什么图形？"),
        ("The {a} stands directly below the {item}.", "{item}的正下方是{a}。"),
    ),
    "above": Ask(
        "relation",
        ("Which shape stands directly above the {item}?", "{item}的正上方是什么图形？"),
        ("The {a} stands directly above the {item}.", "{item}的正上方是{a}。"),
    ),
}  # fmt: skip

SCATTERED = Kind(
    _scattered, _draw_scattered, _scattered_facts, _SCATTERED_ASKS,
    (
        Topic(
            (
                "Explain how the shapes are arranged. | Describe where the shapes are in relation to each other.",
                "请说明这些图形是怎样排列的。 | 请描述图形之间的位置关系。",
            ),
            ("total", "row", "right", "left", "below", "above"),
        ),
        Topic(
            ("Which neighbours do you see side by side?", "哪些图形左右相邻？"), ("total", "right", "left"),
            ("Other pairs are next to each other as well.", "还有其他图形也彼此相邻。"),
        ),
        Topic(
            ("How full are the rows?", "各行的图形多不多？"), ("total", "row"),
            ("Together the rows make up the total.", "各行相加就是总数。"),
        ),
    ),
    (
        "Coloured shapes with thin outlines are spread over a light ground. | The picture shows geometric shapes in "
        "loose rows of up to four.",
        "浅色背景上分布着一些带细边的彩色图形。 | 图中的几何图形松散地排成几行，每行最多四个。",
    ),
    png=0.2,
)  # fmt: skip

COLUMN_LETTERS = "ABCDEF"


@dataclass(frozen=True)
class Mapped:
    """Things on a map with lettered columns and numbered rows: (icon, colour, cell)."""

    things: tuple[tuple[str, str, tuple[int, int]], ...]


def _mapped(rng: Generator) -> Mapped:
    cells = sample(rng, [(column, row) for column in range(6) for row in range(5)], 10)
    icons = sample(rng, list(ICONS), 8)
    twins = [*icons, *icons[:2]]
    tints = [*sample(rng, TINTS, 8), *sample(rng, ("black", "grey"), 2)]
    return Mapped(tuple(zip(twins, tints, cells, strict=True)))


def cell_name(cell: tuple[int, int]) -> str:
    """(0, 0) is A1."""
    return f"{COLUMN_LETTERS[cell[0]]}{cell[1] + 1}"


def _draw_mapped(scene: Mapped, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    for column in range(7):
        canvas.line([(7 + 15 * column, 7), (7 + 15 * column, 97)], (150, 150, 160), 0.2)
    for row in range(6):
        canvas.line([(7, 7 + 18 * row), (97, 7 + 18 * row)], (150, 150, 160), 0.2)
    for column, letter in enumerate(COLUMN_LETTERS):
        canvas.text(14.5 + 15 * column, 3.7, letter, 3.4)
    for row in range(5):
        canvas.text(3.7, 16 + 18 * row, str(row + 1), 3.4)
    for icon, tint, (column, row) in scene.things:
        draw_icon(canvas, icon, 14.5 + 15 * column, 16 + 18 * row, rng.uniform(4, 5.6), tint)
    return [canvas]


def _side(cell: tuple[int, int]) -> Text:
    """The part of the picture in which a cell is."""
    if cell[0] < 3:
        return (
            ("lower left", "左下")
            if cell[1] > 2
            else ("upper left", "左上")
            if cell[1] < 2
            else ("middle left", "左侧中间")
        )
    return (
        ("lower right", "右下")
        if cell[1] > 2
        else ("upper right", "右上")
        if cell[1] < 2
        else ("middle right", "右侧中间")
    )


SIDES: tuple[Text, ...] = (
    ("lower left", "左下"), ("upper left", "左上"), ("middle left", "左侧中间"),
    ("lower right", "右下"), ("upper right", "右上"), ("middle right", "右侧中间"),
)  # fmt: skip


def _mapped_facts(scene: Mapped, rng: Generator) -> list[Fact]:
    used = [cell for _, _, cell in scene.things]
    facts = []
    for icon, tint, cell in scene.things:
        item = thing(tint, noun(icon))
        beside = [(cell[0] + dx, cell[1] + dy) for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        wrong = [cell_name(c) for c in beside if 0 <= c[0] < 6 and 0 <= c[1] < 5] + [
            cell_name(c) for c in without(used, cell)
        ]
        facts.append(fact("cell", cell_name(cell), wrong, item=item))
        others = [thing(t, noun(i)) for i, t, c in scene.things if c != cell]
        facts.append(fact("what", item, others, cell=cell_name(cell)))
        facts.append(fact("side", _side(cell), without(SIDES, _side(cell)), item=item))
    counts = [sum(column == number for column, _ in used) for number in range(6)]
    count = pick(rng, sorted(set(counts)))
    letter = pick(rng, [letter for letter, n in zip(COLUMN_LETTERS, counts, strict=True) if n == count])
    facts.append(fact("column", count, [str(n) for n in range(6)], letter=letter))
    return facts


_MAPPED_ASKS = {
    "cell": Ask(
        "locate",
        (
            "In which cell is the {item}? | Where on the grid is the {item}?",
            "{item}在哪一格？ | {item}位于网格的哪个位置？",
        ),
        ("The {item} is in cell {a}. | Cell {a} holds the {item}.", "{item}在{a}格。 | {a}格里是{item}。"),
    ),
    "what": Ask(
        "locate", ("What is in cell {cell}?", "{cell}格里是什么？"),
        ("In cell {cell} there is the {a}.", "在{cell}格有{a}。"),
    ),
    "side": Ask(
        "locate",
        ("In which part of the picture is the {item}?", "{item}在图片的哪个部分？"),
        ("The {item} is in the {a} part of the picture.", "{item}在图片的{a}部分。"),
    ),
    "column": Ask(
        "count",
        ("How many things are in column {letter}?", "{letter}列有几样东西？"),
        ("The number of things in column {letter} is {a}.", "{letter}列的东西数量是{a}。"),
    ),
}  # fmt: skip

MAPPED = Kind(
    _mapped, _draw_mapped, _mapped_facts, _MAPPED_ASKS,
    (
        Topic(
            (
                "Where is everything on this grid? | List all objects with their cells.",
                "网格上的东西都在哪里？ | 请列出所有物体及其所在的格子。",
            ),
            ("cell",), ("All other cells are empty.", "其余的格子都是空的。"),
        ),
        Topic(
            ("Give a rough idea of where things are in the picture.", "请大致说明各个物体在图片中的位置。"), ("side",),
        ),
        Topic(("Read out what the filled cells contain.", "请依次说出有东西的格子里是什么。"), ("what", "column")),
    ),
    (
        "The picture is a map with a thin grid, lettered across and numbered down. | Ten small objects lie on a "
        "grid of six columns and five rows.",
        "图片是一张细线网格图，横向用字母、纵向用数字标注。 | 十样小东西放在六列五行的网格上。",
    ),
    ("cell", "column"), png=0.2,
)  # fmt: skip

DOMAINS = {"spatial_relationship": Domain((SCATTERED,)), "object_localization": Domain((MAPPED,))}
