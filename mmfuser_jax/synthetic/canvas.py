"""A picture to draw on in percent, whatever its size and shape: lines, shapes with patterns, text, paper texture."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from mmfuser_jax.synthetic.words import COLORS, Number, Rgb, pick

Size = tuple[int, int]
Point = tuple[Number, Number]
Paint = str | Rgb
"""A colour by its name in `COLORS`, or by its value."""

INK: Rgb = (32, 32, 40)
WHITE: Rgb = (252, 252, 252)
PAPERS: tuple[Rgb, ...] = (
    (246, 242, 230), (232, 240, 246), (240, 246, 234), (248, 236, 236), (238, 236, 246), (250, 248, 240),
)  # fmt: skip

CORNERS = {"triangle": 3, "square": 4, "diamond": 4, "pentagon": 5, "hexagon": 6}


def rgb(paint: Paint) -> Rgb:
    """The value of a colour."""
    return COLORS[paint][1] if isinstance(paint, str) else paint


def mix(paint: Paint, other: Paint, share: Number) -> Rgb:
    """`paint` with a `share` of `other`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(rgb(paint), rgb(other), strict=True))
    return red, green, blue


@functools.lru_cache(maxsize=256)
def font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that pictures are the same everywhere."""
    return ImageFont.load_default(pixels)


class Canvas:
    """A picture in the making.

    Positions are in percent of width and height, lengths (radii, text and line sizes) in percent of the shorter side: a
    layout that fits a square fits every shape.

    Attributes:
      image: the picture so far.
      unit: pixels per percent of the shorter side.
    """

    def __init__(self, size: Size, background: Paint = WHITE) -> None:
        self.image = Image.new("RGB", size, rgb(background))
        self.pen = ImageDraw.Draw(self.image)
        self.unit = min(size) / 100

    def at(self, x: Number, y: Number) -> Point:
        """Percent to pixels."""
        return x * self.image.width / 100, y * self.image.height / 100

    def across(self, length: Number) -> Number:
        """A length as percent of the width."""
        return length * self.unit * 100 / self.image.width

    def down(self, length: Number) -> Number:
        """A length as percent of the height."""
        return length * self.unit * 100 / self.image.height

    def _width(self, width: Number) -> int:
        return max(1, round(width * self.unit))

    def line(self, points: Sequence[Point], paint: Paint = INK, width: Number = 0.5) -> None:
        """An open line through `points`."""
        self.pen.line([self.at(*point) for point in points], rgb(paint), self._width(width), joint="curve")

    def dashed(self, start: Point, end: Point, paint: Paint = INK, width: Number = 0.5, gap: Number = 1.6) -> None:
        """A straight line of dashes as long as the gaps between them."""
        (x0, y0), (x1, y1) = self.at(*start), self.at(*end)
        count = max(3, round(math.hypot(x1 - x0, y1 - y0) / (gap * self.unit)) | 1)
        for i in range(0, count, 2):
            ends = [(x0 + (x1 - x0) * j / count, y0 + (y1 - y0) * j / count) for j in (i, i + 1)]
            self.pen.line(ends, rgb(paint), self._width(width))

    def polygon(
        self, points: Sequence[Point], fill: Paint | None = None, edge: Paint | None = None, width: Number = 0.5
    ) -> None:
        """A closed outline, filled or not."""
        pixels = [self.at(*point) for point in points]
        if fill is not None:
            self.pen.polygon(pixels, rgb(fill))
        if edge is not None:
            self.pen.line([*pixels, pixels[0], pixels[1]], rgb(edge), self._width(width), joint="curve")

    def box(
        self, x0: Number, y0: Number, x1: Number, y1: Number, fill: Paint | None = None, edge: Paint | None = None,
        width: Number = 0.5, corner: Number = 0.0,
    ) -> None:  # fmt: skip
        """A rectangle between two corners, with rounded corners where `corner` is a radius."""
        inside, outline = rgb(fill) if fill is not None else None, rgb(edge) if edge is not None else None
        self.pen.rounded_rectangle(
            [self.at(x0, y0), self.at(x1, y1)], corner * self.unit, inside, outline, self._width(width)
        )

    def oval(
        self, x: Number, y: Number, rx: Number, ry: Number, fill: Paint | None = None, edge: Paint | None = None,
        width: Number = 0.5,
    ) -> None:  # fmt: skip
        """An ellipse around (x, y); radii are lengths."""
        cx, cy = self.at(x, y)
        inside, outline = rgb(fill) if fill is not None else None, rgb(edge) if edge is not None else None
        rx, ry = rx * self.unit, ry * self.unit
        self.pen.ellipse([cx - rx, cy - ry, cx + rx, cy + ry], inside, outline, self._width(width))

    def arc(
        self,
        x: Number,
        y: Number,
        rx: Number,
        ry: Number,
        start: Number,
        end: Number,
        paint: Paint = INK,
        width: Number = 0.6,
    ) -> None:
        """Part of an ellipse's outline, in degrees clockwise from the right."""
        cx, cy = self.at(x, y)
        rx, ry = rx * self.unit, ry * self.unit
        self.pen.arc([cx - rx, cy - ry, cx + rx, cy + ry], start, end, rgb(paint), self._width(width))

    def ring(self, x: Number, y: Number, offsets: Sequence[Point], angle: Number = 0.0) -> list[Point]:
        """Positions around (x, y): offsets are lengths, turned by `angle` degrees clockwise."""
        turn = math.radians(angle)
        return [
            (
                x + self.across(dx * math.cos(turn) - dy * math.sin(turn)),
                y + self.down(dx * math.sin(turn) + dy * math.cos(turn)),
            )
            for dx, dy in offsets
        ]

    def text(
        self,
        x: Number,
        y: Number,
        words: str,
        size: Number,
        paint: Paint = INK,
        anchor: str = "mm",
        angle: Number = 0.0,
    ) -> None:
        """One line of text; `size` is its height, `angle` turns it anticlockwise in degrees around its middle."""
        letters = font(max(9, round(size * self.unit)))
        if not angle:
            self.pen.text(self.at(x, y), words, rgb(paint), letters, anchor)
            return
        left, top, right, bottom = self.pen.textbbox((0, 0), words, letters)
        mask = Image.new("L", (math.ceil(right - left) + 4, math.ceil(bottom - top) + 4))
        ImageDraw.Draw(mask).text((2 - left, 2 - top), words, 255, letters)
        mask = mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        cx, cy = self.at(x, y)
        self.image.paste(rgb(paint), (round(cx - mask.width / 2), round(cy - mask.height / 2)), mask)

    def shape(
        self, name: str, x: Number, y: Number, radius: Number, fill: Paint | None, edge: Paint | None = None,
        width: Number = 0.5, angle: Number = 0.0, pattern: str = "plain",
    ) -> None:  # fmt: skip
        """One of `SHAPES` around (x, y), filled plainly or with a pattern (see `_pattern`)."""
        if name == "circle":
            self.oval(x, y, radius, radius, fill)
        else:
            points = self.ring(x, y, outline(name, radius), angle)
            self.polygon(points, fill)
        if pattern != "plain":
            self._pattern(name, x, y, radius, angle, pattern)
        if edge is not None and name == "circle":
            self.oval(x, y, radius, radius, None, edge, width)
        elif edge is not None:
            self.polygon(points, None, edge, width)

    def _pattern(self, name: str, x: Number, y: Number, radius: Number, angle: Number, pattern: str) -> None:
        """White stripes, bars, dots or checks over a shape."""
        side = math.ceil(2 * radius * self.unit) + 2
        patch = Canvas((side, side), (0, 0, 0))
        patch.unit = self.unit
        patch.shape(name, 50, 50, radius, WHITE, angle=angle)
        rows, columns = np.mgrid[:side, :side] / (radius * self.unit)
        tests = {
            "stripes": np.mod(rows * 3, 1) < 0.4,
            "bars": np.mod(columns * 3, 1) < 0.4,
            "dots": np.hypot(np.mod(rows * 2.4, 1) - 0.5, np.mod(columns * 2.4, 1) - 0.5) < 0.27,
            "checks": (np.mod(rows * 2, 1) < 0.5) ^ (np.mod(columns * 2, 1) < 0.5),
        }
        mask = Image.fromarray(np.asarray(patch.image.convert("L")) * tests[pattern])
        cx, cy = self.at(x, y)
        self.image.paste(WHITE, (round(cx - side / 2), round(cy - side / 2)), mask)


def outline(name: str, radius: Number) -> list[Point]:
    """Corners of a shape around the origin, as lengths."""
    if name == "star":
        return _turned([radius, radius * 0.42] * 5, -90)
    if name == "cross":
        a, b = radius, radius * 0.34
        return [
            (-b, -a),
            (b, -a),
            (b, -b),
            (a, -b),
            (a, b),
            (b, b),
            (b, a),
            (-b, a),
            (-b, b),
            (-a, b),
            (-a, -b),
            (-b, -b),
        ]
    return _turned([radius] * CORNERS[name], -45 if name == "square" else -90)


def _turned(radii: Sequence[Number], start: Number) -> list[Point]:
    angles = [math.radians(start + 360 * i / len(radii)) for i in range(len(radii))]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def paper(size: Size, rng: Generator) -> Canvas:
    """A canvas of some light colour."""
    return Canvas(size, pick(rng, PAPERS))


def textured(image: Image.Image, rng: Generator, strength: int = 3) -> Image.Image:
    """The picture with uneven light and the grain of a camera."""
    tile = rng.integers(-strength, strength + 1, (256, 256), np.int16)
    rows, columns = -(-image.height // 256), -(-image.width // 256)
    grain = np.tile(tile, (rows, columns))[: image.height, : image.width]
    down, across = rng.integers(-9, 10, 2)
    light = np.linspace(-down, down, image.height)[:, None] + np.linspace(-across, across, image.width)
    change = (grain + light.astype(np.int16))[..., None]
    return Image.fromarray(np.clip(np.asarray(image, np.int16) + change, 0, 255).astype(np.uint8))
