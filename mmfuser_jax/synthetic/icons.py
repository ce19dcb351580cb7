"""Small drawn things by name: every icon is a table row of circles, boxes and polygons in a square from -1 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Paint, mix
from mmfuser_jax.synthetic.words import Number, Text


class Part(NamedTuple):
    """One piece of an icon: "oval" (x0, y0, x1, y1), "poly" or "line" (x, y, x, y, …), in one of four tones."""

    form: str
    tone: str
    numbers: tuple[Number, ...]


def _part(text: str) -> Part:
    form, tone, *numbers = text.split()
    return Part(form, tone, tuple(float(number) for number in numbers))


_SOURCE: dict[str, tuple[Text, str]] = {
    "cup": (("cup", "杯子"),
        "oval dark .3 -.4 1 .5; oval white .45 -.2 .8 .3; poly main -.8 -.7 .6 -.7 .45 .8 -.65 .8"),
    "book": (("book", "书"),
        "poly main -.7 -.9 .7 -.9 .7 .9 -.7 .9; poly dark -.7 -.9 -.45 -.9 -.45 .9 -.7 .9; "
        "line white -.2 -.4 .5 -.4; line white -.2 -.1 .5 -.1"),
    "key": (("key", "钥匙"),
        "line main -.1 0 .95 0; line main .6 0 .6 .4; line main .9 0 .9 .4; oval main -1 -.5 0 .5; "
        "oval white -.72 -.22 -.28 .22"),
    "apple": (("apple", "苹果"),
        "oval main -.8 -.5 .1 .9; oval main -.1 -.5 .8 .9; line ink 0 -.4 .1 -.9; "
        "poly dark .1 -.7 .6 -.95 .5 -.55"),
    "umbrella": (("umbrella", "雨伞"),
        "line ink 0 -.9 0 .8; line ink 0 .8 .3 .8; "
        "poly main -1 .1 -.75 -.5 -.3 -.8 0 -.9 .3 -.8 .75 -.5 1 .1 .5 -.1 0 .1 -.5 -.1"),
    "hat": (("hat", "帽子"),
        "poly main -.55 .4 -.45 -.7 .45 -.7 .55 .4; oval main -1 .2 1 .75; "
        "poly dark -.53 .1 .53 .1 .55 .4 -.55 .4"),
    "fish": (("fish", "鱼"),
        "poly dark .35 0 1 -.6 1 .6; oval main -1 -.55 .6 .55; oval white -.75 -.25 -.45 .05; "
        "oval ink -.65 -.16 -.54 -.04"),
    "lamp": (("lamp", "台灯"),
        "line ink 0 -.2 0 .8; poly dark -.5 .75 .5 .75 .5 .95 -.5 .95; poly main -.4 -.9 .4 -.9 .8 0 -.8 0"),
    "bell": (("bell", "铃铛"), "oval dark -.2 .5 .2 .95; poly main -.8 .6 -.5 .1 -.4 -.5 0 -.85 .4 -.5 .5 .1 .8 .6"),
    "boat": (("boat", "小船"),
        "line ink -.05 -.95 -.05 .3; poly main .05 -.9 .85 .15 .05 .15; poly dark -1 .3 1 .3 .65 .85 -.65 .85"),
    "car": (("car", "汽车"),
        "poly main -.6 -.5 .4 -.5 .65 0 1 .1 1 .5 -1 .5 -1 0 -.75 0; "
        "poly white -.5 -.38 -.1 -.38 -.1 -.05 -.62 -.05; poly white 0 -.38 .32 -.38 .48 -.05 0 -.05; "
        "oval ink -.75 .2 -.2 .75; oval ink .25 .2 .8 .75"),
    "house": (("house", "房子"),
        "poly main -.75 -.1 .75 -.1 .75 .9 -.75 .9; poly dark -1 -.1 0 -.95 1 -.1; "
        "poly white -.2 .3 .2 .3 .2 .9 -.2 .9"),
    "tree": (("tree", "树"), "poly wood -.14 .2 .14 .2 .14 .98 -.14 .98; oval main -.75 -.95 .75 .45"),
    "kite": (("kite", "风筝"),
        "poly main 0 -1 .6 -.25 0 .5 -.6 -.25; line white 0 -1 0 .5; line ink 0 .5 .2 .7 0 .85 .2 1"),
    "flag": (("flag", "旗子"), "line ink -.6 -.95 -.6 .95; poly main -.55 -.9 .8 -.5 -.55 -.1"),
    "bottle": (("bottle", "瓶子"),
        "poly main -.45 -.1 -.15 -.45 -.15 -.8 .15 -.8 .15 -.45 .45 -.1 .45 .95 -.45 .95; "
        "poly dark -.2 -.98 .2 -.98 .2 -.78 -.2 -.78; poly white -.45 .2 .45 .2 .45 .6 -.45 .6"),
    "chair": (("chair", "椅子"),
        "poly main -.6 -.9 -.4 -.9 -.4 .9 -.6 .9; poly main -.6 .05 .6 .05 .6 .25 -.6 .25; "
        "poly main .42 .2 .6 .2 .6 .9 .42 .9; poly dark -.4 -.8 -.3 -.8 -.3 -.1 -.4 -.1"),
    "gift": (("gift box", "礼物盒"),
        "poly main -.8 -.3 .8 -.3 .8 .9 -.8 .9; poly white -.12 -.3 .12 -.3 .12 .9 -.12 .9; "
        "oval dark -.55 -.85 0 -.3; oval dark 0 -.85 .55 -.3"),
}  # fmt: skip

ICONS: dict[str, tuple[Text, tuple[Part, ...]]] = {
    name: (words, tuple(_part(part) for part in source.split(";"))) for name, (words, source) in _SOURCE.items()
}


def noun(name: str) -> Text:
    """The words for an icon."""
    return ICONS[name][0]


def draw_icon(canvas: Canvas, name: str, x: Number, y: Number, radius: Number, paint: Paint) -> None:
    """Draws an icon around (x, y); `radius` is half its side, as a length."""
    tones: dict[str, Paint] = {
        "main": paint,
        "dark": mix(paint, (0, 0, 0), 0.35) if paint != "black" else mix(paint, WHITE, 0.35),
        "white": WHITE,
        "ink": INK,
        "wood": "brown",
    }
    for form, tone, numbers in ICONS[name][1]:
        lengths = [(radius * a, radius * b) for a, b in pairs(numbers)]
        points = canvas.ring(x, y, lengths)
        if form == "poly":
            canvas.polygon(points, tones[tone])
        elif form == "line":
            canvas.line(points, tones[tone], radius * 0.14)
        else:
            (x0, y0), (x1, y1) = lengths
            center = canvas.ring(x, y, [((x0 + x1) / 2, (y0 + y1) / 2)])[0]
            canvas.oval(*center, (x1 - x0) / 2, (y1 - y0) / 2, tones[tone])


def pairs(numbers: Sequence[Number]) -> list[tuple[Number, Number]]:
    """(x, y, x, y, …) as points."""
    return list(zip(numbers[::2], numbers[1::2], strict=True))
