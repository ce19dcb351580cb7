"""The domain of species: animals and plants that are told apart by what can be counted on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Rgb, Size, mix, paper, rgb
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import Number, Text, between, color, digits, near, pick, sample, slips, without

LEAF: Rgb = (60, 140, 60)


def _ladybird(canvas: Canvas, x: Number, y: Number, count: int, tint: Rgb) -> None:
    canvas.oval(x, y - canvas.down(10.5), 4, 3.2, INK)
    canvas.oval(x, y, 11, 11, tint, INK, 0.4)
    canvas.line([(x, y - canvas.down(11)), (x, y + canvas.down(11))], INK, 0.5)
    middle = count % 2
    if middle:
        canvas.oval(x, y - canvas.down(7.5), 1.5, 1.5, INK)
    for i in range(count // 2):
        across, down = canvas.across(4.2 + 2.4 * (i % 2)), canvas.down(-5.5 + 3.6 * i)
        for side in (-1, 1):
            canvas.oval(x + side * across, y + down, 1.3, 1.3, INK)


def _crawler(canvas: Canvas, x: Number, y: Number, count: int, tint: Rgb) -> None:
    for side in (-1, 1):
        for i in range(count // 2):
            dy = -3.5 + 7 * i / (count // 2 - 1)
            points = [(side * 1.5, dy * 0.6), (side * 8, dy * 1.5 - 2), (side * 12, dy * 2.2 + 1)]
            canvas.line(canvas.ring(x, y, points), INK, 0.5)
    if count == 6:
        canvas.oval(x, y - canvas.down(6.5), 2.6, 2.6, tint, INK, 0.3)
        canvas.oval(x, y, 2.4, 4, tint, INK, 0.3)
        canvas.oval(x, y + canvas.down(8.5), 4, 5.4, tint, INK, 0.3)
    else:
        canvas.oval(x, y - canvas.down(3), 3.2, 3.2, tint, INK, 0.3)
        canvas.oval(x, y + canvas.down(5), 5.2, 6, tint, INK, 0.3)


def _flower(canvas: Canvas, x: Number, y: Number, count: int, tint: Rgb) -> None:
    canvas.line([(x, y), (x, y + canvas.down(17))], LEAF, 0.8)
    reach = 7.2 if count > 5 else 6.4
    for center in [canvas.ring(x, y - canvas.down(2), [(0, -reach)], 360 * i / count)[0] for i in range(count)]:
        width = 12 / count + 1.6
        canvas.oval(*center, width, width, tint, INK, 0.3)
    canvas.oval(x, y - canvas.down(2), 2.8, 2.8, (250, 210, 60), INK, 0.3)


def _starfish(canvas: Canvas, x: Number, y: Number, count: int, tint: Rgb) -> None:
    points = [canvas.ring(x, y, [(0, -12.0 if i % 2 == 0 else -4.6)], 180 * i / count)[0] for i in range(2 * count)]
    canvas.polygon(points, tint, INK, 0.4)
    for i in range(count):
        for reach in (3, 5.4, 7.6):
            canvas.oval(*canvas.ring(x, y, [(0, -reach)], 360 * i / count)[0], 0.6, 0.6, WHITE)


def _fish(canvas: Canvas, x: Number, y: Number, count: int, tint: Rgb) -> None:
    canvas.polygon(canvas.ring(x, y, [(9, 0), (14, -6), (14, 6)]), tint, INK, 0.3)
    canvas.oval(x, y, 11, 7, tint, INK, 0.4)
    for i in range(count):
        place = -5.2 + 13 * i / max(count, 2)
        half = 6.4 * (1 - (place / 11.5) ** 2) ** 0.5
        canvas.box(
            x + canvas.across(place - 0.6),
            y - canvas.down(half),
            x + canvas.across(place + 0.6),
            y + canvas.down(half),
            WHITE,
        )
    canvas.oval(x - canvas.across(8), y - canvas.down(1.4), 0.9, 0.9, WHITE, INK, 0.3)


@dataclass(frozen=True)
class Species:
    """A kind of living thing: its names, what is counted on it, how much of it there is, and its usual length in mm."""

    name: Text
    part: Text
    count: int
    tints: tuple[str, ...]
    lengths: tuple[int, int]
    draw: Callable[[Canvas, Number, Number, int, Rgb], None]


_SPOTS, _LEGS, _PETALS, _ARMS, _BANDS = (
    ("spots", "斑点"), ("legs", "腿"), ("petals", "花瓣"), ("arms", "腕足"), ("white bands", "白色条带"),
)  # fmt: skip

_FLOWERS, _INSECTS, _FISHES = (
    ("pink", "purple", "yellow", "orange"),
    ("brown", "black", "grey"),
    ("orange", "red", "brown"),
)

SPECIES: tuple[Species, ...] = (
    Species(("two-spot ladybird", "二星瓢虫"), _SPOTS, 2, ("red", "orange"), (4, 9), _ladybird),
    Species(("five-spot ladybird", "五星瓢虫"), _SPOTS, 5, ("red", "orange"), (4, 9), _ladybird),
    Species(("seven-spot ladybird", "七星瓢虫"), _SPOTS, 7, ("red", "orange"), (4, 9), _ladybird),
    Species(("ant", "蚂蚁"), _LEGS, 6, _INSECTS, (3, 24), _crawler),
    Species(("spider", "蜘蛛"), _LEGS, 8, _INSECTS, (3, 24), _crawler),
    Species(("trillium", "延龄草"), _PETALS, 3, _FLOWERS, (90, 400), _flower),
    Species(("wallflower", "桂竹香"), _PETALS, 4, _FLOWERS, (90, 400), _flower),
    Species(("buttercup", "毛茛"), _PETALS, 5, _FLOWERS, (90, 400), _flower),
    Species(("crocus", "番红花"), _PETALS, 6, _FLOWERS, (90, 400), _flower),
    Species(("bloodroot", "血根草"), _PETALS, 8, _FLOWERS, (90, 400), _flower),
    Species(("common starfish", "普通海星"), _ARMS, 5, ("orange", "red", "purple"), (80, 300), _starfish),
    Species(("seven-armed starfish", "七腕海星"), _ARMS, 7, ("orange", "red", "purple"), (80, 300), _starfish),
    Species(("tomato clownfish", "红小丑鱼"), _BANDS, 1, _FISHES, (60, 140), _fish),
    Species(("two-banded clownfish", "双带小丑鱼"), _BANDS, 2, _FISHES, (60, 140), _fish),
    Species(("ocellaris clownfish", "公子小丑鱼"), _BANDS, 3, _FISHES, (60, 140), _fish),
)


@dataclass(frozen=True)
class Plate:
    """A plate of a field guide with four specimens: (index into `SPECIES`, colour, length in mm, catalogue number)."""

    specimens: tuple[tuple[int, str, int, str], ...]


def _plate(rng: Generator) -> Plate:
    chosen = sample(rng, range(len(SPECIES)), 4)
    letters = sample(rng, "ABCDEFGH", 4)
    return Plate(
        tuple(
            (i, pick(rng, SPECIES[i].tints), between(rng, *SPECIES[i].lengths), letter + digits(rng, 3))
            for i, letter in zip(chosen, letters, strict=True)
        )
    )


def _draw_plate(plate: Plate, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    for i, (index, tint, length, number) in enumerate(plate.specimens):
        x, y = 27 + 46 * (i % 2), 22 + 48 * (i // 2)
        species = SPECIES[index]
        for _ in range(5):
            spot = canvas.ring(x, y, [tuple(rng.uniform(-14, 14, 2).tolist())])[0]
            canvas.oval(*spot, 3, 2, mix(LEAF, WHITE, rng.uniform(0.7, 0.85)))
        paint = rgb(tint) if tint != "black" else (70, 70, 74)
        species.draw(canvas, x, y, species.count, paint)
        canvas.text(x - canvas.across(2), y + 21, number, 2.9, anchor="rm")
        bar = x + canvas.across(2)
        canvas.line([(bar, y + 21), (bar + canvas.across(6), y + 21)], INK, 0.4)
        canvas.text(bar + canvas.across(7), y + 21, f"{length} mm", 2.7, anchor="lm")
    return [canvas]


def _plate_facts(plate: Plate, rng: Generator) -> list[Fact]:
    facts = []
    numbers = [number for *_, number in plate.specimens]
    for index, tint, length, number in plate.specimens:
        species = SPECIES[index]
        alike = [s.name for s in SPECIES if s.draw is species.draw and s.name != species.name]
        alike += sample(rng, [s.name for s in SPECIES if s.draw is not species.draw], 3)
        facts += [
            fact("species", species.name, alike, number=number),
            fact("count", species.count, near(rng, species.count, low=1), number=number, part=species.part),
            fact(
                "tint",
                color(tint),
                [color(t) for t in without(("red", "orange", "purple", "brown", "black", "pink", "grey"), tint)],
                number=number,
            ),
            fact(
                "length",
                f"{length} mm",
                [
                    f"{n} mm"
                    for n in [*slips(rng, str(length), 2), *(x for _, _, x, _ in plate.specimens if x != length)]
                ],
                number=number,
            ),
            fact("number", number, without(numbers, number), name=species.name),
        ]
    longest = max(plate.specimens, key=lambda specimen: specimen[2])
    others = [SPECIES[i].name for i, *_ in plate.specimens if i != longest[0]]
    if sum(specimen[2] == longest[2] for specimen in plate.specimens) == 1:
        facts.append(fact("longest", SPECIES[longest[0]].name, others, length=longest[2]))
    return facts


_PLATE_ASKS = {
    "species": Ask(
        "identify", ("Which species is specimen {number}?", "标本{number}是什么物种？"),
        (
            "Specimen {number} is a {a}. | The one numbered {number} is a {a}.",
            "标本{number}是{a}。 | 编号{number}的是{a}。",
        ),
    ),
    "count": Ask(
        "count",
        ("How many {part} does specimen {number} have?", "标本{number}有多少{part}？"),
        ("The number of {part} of specimen {number} is {a}.", "标本{number}的{part}数量是{a}。"),
    ),
    "tint": Ask(
        "colour", ("What colour is specimen {number}?", "标本{number}是什么颜色？"),
        ("Specimen {number} is {a} in colour.", "标本{number}的颜色是{a}。"),
    ),
    "length": Ask(
        "read",
        ("How long is specimen {number} according to its scale?", "根据标尺，标本{number}有多长？"),
        ("The scale of {number} gives {a}.", "{number}的标尺标着{a}。"),
    ),
    "number": Ask(
        "read", ("Under which number is the {name} listed?", "{name}的编号是多少？"),
        ("The {name} is listed as {a}.", "{name}的编号是{a}。"),
    ),
    "longest": Ask(
        "compare",
        ("Which of the species has the greatest length given?", "哪一个物种标注的长度最大？"),
        ("The greatest length, {length} mm, is that of the {a}.", "最长的是{a}，有{length} mm。"),
    ),
}  # fmt: skip

PLATE = Kind(
    _plate, _draw_plate, _plate_facts, _PLATE_ASKS,
    (
        Topic(
            (
                "Identify all species on this plate and say how you can tell. | How do you recognise these species?",
                "请识别图版上的所有物种并说明依据。 | 怎样认出这些物种？",
            ),
            ("species", "count"),
            ("Counting such parts tells similar species apart.", "数清这些部位就能区分相近的物种。"),
        ),
        Topic(
            ("Make a list of sizes and colours of the specimens.", "请列出各标本的大小和颜色。"),
            ("number", "length", "tint", "longest"),
        ),
    ),
    (
        "The picture is a plate from a field guide with four specimens, each with a number and a scale.",
        "图片是图鉴中的一页，上面有四个标本，各有编号和标尺。",
    ),
    ("species", "tint", "count", "length"),
)  # fmt: skip

DOMAINS = {"species_recognition": Domain((PLATE,))}
