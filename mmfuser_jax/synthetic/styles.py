"""The domain of styles: the same kind of still life rendered in several techniques."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageFilter, ImageOps

from mmfuser_jax.synthetic.canvas import WHITE, Canvas, Size
from mmfuser_jax.synthetic.icons import draw_icon, noun
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

SUBJECTS = ("house", "boat", "car", "cup", "fish", "apple", "umbrella", "lamp")


def _pixel_art(image: Image.Image, unit: Number) -> Image.Image:
    step = max(2, round(2 * unit))
    small = image.resize((image.width // step, image.height // step), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def _edges(image: Image.Image) -> Image.Image:
    """Where any of the three colours changes, strongly."""
    red, green, blue = image.filter(ImageFilter.FIND_EDGES).split()
    edges = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    return edges.point([min(255, 4 * value) for value in range(256)])


def _sketch(image: Image.Image, unit: Number) -> Image.Image:
    return ImageOps.colorize(_edges(image), (248, 247, 243), (60, 60, 64))


def _points(image: Image.Image, unit: Number) -> Image.Image:
    step = max(4, round(2.2 * unit))
    rows, columns = np.mgrid[: image.height, : image.width]
    inside = np.hypot(rows % step - step / 2 + 0.5, columns % step - step / 2 + 0.5) < step * 0.47
    colors = np.asarray(_tiles(image, step))
    return Image.fromarray(np.where(inside[..., None], colors, np.uint8(246)))


def _tiles(image: Image.Image, step: int) -> Image.Image:
    """Each tile of `step` pixels in its mean colour."""
    columns, rows = -(-image.width // step), -(-image.height // step)
    small = image.resize((columns, rows), Image.Resampling.BOX)
    return small.resize((columns * step, rows * step), Image.Resampling.NEAREST).crop((0, 0, *image.size))


def _watercolour(image: Image.Image, unit: Number) -> Image.Image:
    soft = image.filter(ImageFilter.GaussianBlur(0.9 * unit))
    return Image.blend(soft, Image.new("RGB", image.size, (250, 246, 236)), 0.3)


def _mosaic(image: Image.Image, unit: Number) -> Image.Image:
    step = max(5, round(2.4 * unit))
    pixels = np.array(_tiles(image, step))
    pixels[::step], pixels[:, ::step] = 90, 90
    return Image.fromarray(pixels)


def _blueprint(image: Image.Image, unit: Number) -> Image.Image:
    return ImageOps.colorize(_edges(image), (24, 60, 130), (236, 244, 252))


def _sepia(image: Image.Image, unit: Number) -> Image.Image:
    return ImageOps.colorize(image.convert("L"), (50, 32, 16), (250, 234, 200))


def _flat(image: Image.Image, unit: Number) -> Image.Image:
    return image


STYLES: dict[str, tuple[Text, Callable[[Image.Image, Number], Image.Image]]] = {
    "pixel art": (("pixel art", "像素画"), _pixel_art),
    "pencil sketch": (("a pencil sketch", "铅笔素描"), _sketch),
    "pointillism": (("pointillism", "点彩画"), _points),
    "watercolour": (("watercolour", "水彩画"), _watercolour),
    "mosaic": (("a mosaic", "马赛克拼贴"), _mosaic),
    "blueprint": (("a blueprint", "蓝图"), _blueprint),
    "sepia": (("a sepia photograph", "棕褐色老照片"), _sepia),
    "flat": (("a flat colour print", "平涂版画"), _flat),
}


@dataclass(frozen=True)
class Styled:
    """A still life in some style, signed in small letters below.

    Attributes:
      rows: how many of the subject stand in the upper and in the lower row.
    """

    style: str
    subject: str
    tint: str
    rows: tuple[int, int]
    artist: str
    year: str
    light: str


def _styled(rng: Generator) -> Styled:
    return Styled(
        style=pick(rng, list(STYLES)),
        subject=pick(rng, SUBJECTS),
        tint=pick(rng, TINTS),
        rows=(between(rng, 1, 4), between(rng, 1, 4)),
        artist=f"{pick(rng, 'ABCDEFGHJKLMNPRSTW')}. {invented(rng, 1)[0]}",
        year=str(between(rng, 1860, 2024)),
        light=pick(rng, ("left", "right")),
    )


def _draw_styled(scene: Styled, size: Size, rng: Generator) -> list[Canvas]:
    canvas = Canvas(size, (196, 222, 240))
    canvas.box(-1, 45, 101, 101, (196, 178, 140))
    canvas.oval(14 if scene.light == "left" else 86, 13, 7, 7, (250, 222, 90))
    for row, count in enumerate(scene.rows):
        for i in range(count):
            draw_icon(
                canvas, scene.subject, 50 + canvas.across(22 * (i - (count - 1) / 2)), (38, 68)[row], 9, scene.tint
            )
    canvas.image = STYLES[scene.style][1](canvas.image, canvas.unit)
    framed = Canvas(size, WHITE)
    inner = (round(size[0] * 0.94), round(size[1] * 0.86))
    framed.image.paste(canvas.image.resize(inner, Image.Resampling.BOX), (round(size[0] * 0.03), round(size[1] * 0.03)))
    framed.text(96, 94.5, f"{scene.artist} {scene.year}", 3, anchor="rm")
    return [framed]


COLOURED = ("pixel art", "pointillism", "watercolour", "mosaic", "flat")


def _styled_facts(scene: Styled, rng: Generator) -> list[Fact]:
    item, total = noun(scene.subject), sum(scene.rows)
    facts = [
        fact("style", STYLES[scene.style][0], [STYLES[s][0] for s in without(list(STYLES), scene.style)]),
        fact("subject", item, [noun(s) for s in without(SUBJECTS, scene.subject)]),
    ]
    if scene.style in COLOURED:
        facts.append(fact("tint", color(scene.tint), [color(t) for t in without(TINTS, scene.tint)], item=item))
    facts += [
        fact("total", total, near(rng, total, low=1), item=item),
        fact("upper", scene.rows[0], near(rng, scene.rows[0]), item=item),
        fact("light", SIDES[scene.light], [words for side, words in SIDES.items() if side != scene.light]),
        fact(
            "artist",
            scene.artist,
            [f"{scene.artist[:2]} {name}" for name in strangers(rng, 4, scene.artist.split()[1])],
        ),
        fact("year", scene.year, years_near(rng, scene.year)),
    ]
    return facts


_STYLED_ASKS = {
    "style": Ask(
        "style",
        (
            "In which style is the picture made? | What technique does this picture look like?",
            "这张图是什么风格？ | 这张图看起来用了什么技法？",
        ),
        ("Its style is that of {a}. | It looks like {a}.", "它的风格是{a}。 | 看起来像{a}。"),
    ),
    "subject": Ask(
        "identify",
        ("Which object does the picture repeat?", "图中重复出现的是什么东西？"),
        ("The motif that is repeated is the {a}.", "重复出现的主题是{a}。"),
    ),
    "tint": Ask(
        "colour", ("What colour is the {item}?", "{item}是什么颜色？"),
        ("The colour of the {item} is {a}.", "{item}的颜色是{a}。"),
    ),
    "total": Ask(
        "count",
        ("How often does the motif ({item}) appear?", "{item}一共出现了几次？"),
        ("Counting the motif ({item}) in both rows gives {a}.", "{item}出现的次数是{a}。"),
    ),
    "upper": Ask(
        "count",
        ("How often does the motif ({item}) appear in the upper row?", "上面一排有几个{item}？"),
        ("Counting the motif ({item}) in the upper row gives {a}.", "上面一排有{a}个{item}。"),
    ),
    "light": Ask("locate", ("On which side is the sun?", "太阳在哪一边？"), ("The sun is on the {a}.", "太阳在{a}。")),
    "artist": Ask("read", ("Who signed the picture?", "是谁在图上签了名？"), ("It is signed {a}.", "签名是{a}。")),
    "year": Ask(
        "read", ("Which year stands next to the signature?", "签名旁边是哪一年？"),
        ("The year given is {a}.", "标注的年份是{a}。"),
    ),
}  # fmt: skip

STYLED = Kind(
    _styled, _draw_styled, _styled_facts, _STYLED_ASKS,
    (
        Topic(
            (
                "Describe the style of this picture. | By what do you recognise the style?",
                "请描述这张图的风格。 | 你从哪里看出它的风格？",
            ),
            ("style", "subject", "total", "light", "artist"),
        ),
        Topic(
            ("What is the picture composed of?", "这张图由哪些部分构成？"),
            ("subject", "total", "upper", "light", "artist", "year"),
        ),
    ),
    (
        "The picture shows the same motif several times, in two rows, on a light mount. | An artist's picture with a "
        "signature below is shown.",
        "图中同一主题出现多次，排成两行，衬在浅色底板上。 | 这是一幅下方有签名的作品。",
    ),
    png=0.1,
)  # fmt: skip

DOMAINS = {"image_style": Domain((STYLED,))}
