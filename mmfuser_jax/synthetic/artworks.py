"""The domain of art: framed abstract paintings with elements to count and a museum's plate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Size, mix, paper
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    TINTS,
    Text,
    between,
    color,
    digits,
    invented,
    near,
    pick,
    sample,
    slips,
    strangers,
    without,
    years_near,
)  # fmt: skip

ART: dict[str, Text] = {
    "rings": ("concentric rings", "同心圆环"), "stripes": ("slanted stripes", "斜条纹"),
    "grid": ("coloured rectangles", "彩色矩形"), "fan": ("a fan of wedges", "扇形楔块"),
    "waves": ("wavy lines", "波浪线"),
}  # fmt: skip

FRAMES = ("brown", "black", "red", "green", "grey", "yellow")


@dataclass(frozen=True)
class Artwork:
    """An abstract painting in a frame, with a small plate; `parts` counts the elements of its pattern."""

    art: str
    parts: int
    tint: str
    second: str
    frame: str
    title: str
    artist: str
    year: str
    number: str


def _artwork(rng: Generator) -> Artwork:
    tint, second = sample(rng, TINTS, 2)
    title, artist = invented(rng, 2)
    return Artwork(
        art=pick(rng, list(ART)), parts=between(rng, 3, 9), tint=tint, second=second,
        frame=pick(rng, FRAMES), title=f"{title} {pick(rng, ('I', 'II', 'III', 'IV', 'V'))}",
        artist=artist, year=str(between(rng, 1890, 1999)), number=digits(rng, 3),
    )  # fmt: skip


def _draw_artwork(scene: Artwork, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    x0, x1 = 50 - canvas.across(40), 50 + canvas.across(40)
    frame = (x0 - canvas.across(3), 5 - canvas.down(3), x1 + canvas.across(3), 75 + canvas.down(3))
    canvas.box(*frame, scene.frame, INK, 0.3)
    painting = Canvas((round(80 * canvas.unit), round(0.7 * size[1])), mix(scene.second, WHITE, 0.8))
    _paint(painting, scene)
    canvas.image.paste(painting.image, (round(canvas.at(x0, 0)[0]), round(canvas.at(0, 5)[1])))
    canvas.box(50 - canvas.across(26), 82, 50 + canvas.across(26), 98, WHITE, INK, 0.3)
    canvas.text(50, 85.5, scene.title, 3.6)
    canvas.text(50, 90.5, f"{scene.artist}, {scene.year}", 3)
    canvas.text(50, 95, f"inv. {scene.number}", 2.6)
    return [canvas]


def _paint(canvas: Canvas, scene: Artwork) -> None:
    share = 100 / scene.parts
    for i in range(scene.parts):
        tint = scene.tint if i % 2 == 0 else scene.second
        if scene.art == "rings":
            radius = 46 * (scene.parts - i) / scene.parts
            canvas.oval(50, 50, radius, radius, None, scene.tint, 22 / scene.parts)
        elif scene.art == "stripes":
            x = 9 + 0.82 * share * (i + 0.5)
            canvas.polygon(
                [
                    (x - share * 0.3 + 8, 4),
                    (x + share * 0.1 + 8, 4),
                    (x + share * 0.3 - 8, 96),
                    (x - share * 0.1 - 8, 96),
                ],
                tint,
            )
        elif scene.art == "grid":
            canvas.box(6 + (i % 3) * 31, 6 + (i // 3) * 31, 32 + (i % 3) * 31, 32 + (i // 3) * 31, tint, INK, 0.8)
        elif scene.art == "fan":
            ends = [canvas.ring(50, 92, [(84, 0)], 180 + 180 * (i + shift) / scene.parts)[0] for shift in (0.12, 0.88)]
            canvas.polygon([(50, 92), *ends], tint)
        else:
            y = share * (i + 0.5)
            canvas.line([(x, y + share * 0.22 * math.sin(x / 7)) for x in range(3, 98)], tint, 1.5)


def _artwork_facts(scene: Artwork, rng: Generator) -> list[Fact]:
    frames = without(FRAMES, scene.frame)
    titled, numeral = scene.title.split()
    names = strangers(rng, 6, titled, scene.artist)
    return [
        fact("art", ART[scene.art], [ART[a] for a in without(list(ART), scene.art)]),
        fact("parts", scene.parts, near(rng, scene.parts, low=1), art=ART[scene.art]),
        fact("tint", color(scene.tint), [color(t) for t in without(TINTS, scene.tint, scene.second)]),
        fact("frame", color(scene.frame), [color(name) for name in frames]),
        fact(
            "title",
            scene.title,
            [f"{name} {numeral}" for name in names if name not in (scene.title.split()[0], scene.artist)][:3],
        ),
        fact("artist", scene.artist, names[3:]),
        fact("year", scene.year, years_near(rng, scene.year)),
        fact("number", scene.number, slips(rng, scene.number)),
    ]


_ARTWORK_ASKS = {
    "art": Ask(
        "style", ("What is the abstract painting made of?", "这幅抽象画由什么构成？"),
        ("The painting consists of {a}.", "画面由{a}构成。"),
    ),
    "parts": Ask(
        "count",
        ("How many elements ({art}) does the painting have?", "画中有多少个元素（{art}）?"),
        ("The number of elements is {a}.", "元素的数量是{a}。"),
    ),
    "tint": Ask(
        "colour",
        (
            "Counted from the left or from the top, what colour is the first element?",
            "从左或从上数，第一个元素是什么颜色？",
        ),
        ("Counted from the left or from the top, the first element is {a}.", "从左或从上数，第一个元素是{a}的。"),
    ),
    "frame": Ask("colour", ("What colour is the frame?", "画框是什么颜色？"), ("The frame is {a}.", "画框是{a}的。")),
    "title": Ask(
        "read", ("What is the title of the painting?", "这幅画的标题是什么？"),
        ("The plate gives the title {a}.", "牌子上的标题是{a}。"),
    ),
    "artist": Ask(
        "read", ("Who painted it, according to the plate?", "根据牌子，作者是谁？"),
        ("It was painted by {a}.", "作者是{a}。"),
    ),
    "year": Ask(
        "read", ("From which year is the painting?", "这幅画是哪一年的？"), ("It dates from {a}.", "作于{a}年。"),
    ),
    "number": Ask(
        "read", ("What is the inventory number?", "馆藏编号是多少？"),
        ("Its inventory number is {a}.", "馆藏编号是{a}。"),
    ),
}  # fmt: skip

ARTWORK = Kind(
    _artwork, _draw_artwork, _artwork_facts, _ARTWORK_ASKS,
    (
        Topic(
            (
                "Describe this work of art. | What would you tell a visitor about this painting?",
                "请描述这件艺术作品。 | 你会怎样向参观者介绍这幅画？",
            ),
            ("title", "art", "parts", "tint", "frame"),
        ),
        Topic(
            ("What does the plate say about the painting?", "牌子上是怎样介绍这幅画的？"),
            ("art", "title", "artist", "year", "number"),
        ),
    ),
    (
        "A framed abstract painting hangs on a light wall, with a small plate below. | The picture shows a painting "
        "in a museum.",
        "浅色墙上挂着一幅带框的抽象画，下面有一块小牌子。 | 图中是博物馆里的一幅画。",
    ),
)  # fmt: skip

DOMAINS = {"artwork": Domain((ARTWORK,))}
