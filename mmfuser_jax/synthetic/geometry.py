"""Geometry of the domain of charts and mathematics: a triangle with its angles and a rectangle with its sides."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Size
from mmfuser_jax.synthetic.kinds import Ask, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    between,
    near,
    pick,
    sample,
    without,
)  # fmt: skip


@dataclass(frozen=True)
class Geometry:
    """A triangle with two of its angles written in, and a rectangle with its sides.

    Attributes:
      angles: at the lower left, the lower right and the top; the last is marked x.
      sides: width and height of the rectangle in cm.
      labels: letters of the triangle's corners.
    """

    angles: tuple[int, int, int]
    sides: tuple[int, int]
    labels: tuple[str, ...]


def _geometry(rng: Generator) -> Geometry:
    left, right = between(rng, 35, 75), between(rng, 35, 75)
    width, height = between(rng, 9, 24), between(rng, 3, 8)
    return Geometry((left, right, 180 - left - right), (width, height), tuple(sample(rng, "ABCDEFGHKLMNPQRSTUVW", 3)))


def _draw_geometry(scene: Geometry, size: Size, rng: Generator) -> list[Canvas]:
    canvas = Canvas(size, pick(rng, (WHITE, (250, 250, 244))))
    left, right = (math.radians(angle) for angle in scene.angles[:2])
    height = 1 / (1 / math.tan(left) + 1 / math.tan(right))
    scale = min(64, 42 / height)
    base, x0 = 58, 50 - canvas.across(scale / 2)
    x1 = x0 + canvas.across(scale)
    apex = (x0 + canvas.across(scale * height / math.tan(left)), base - canvas.down(scale * height))
    canvas.polygon([(x0, base), (x1, base), apex], None, INK, 0.5)
    canvas.arc(x0, base, 6, 6, -scene.angles[0], 0, "blue")
    canvas.arc(x1, base, 6, 6, 180, 180 + scene.angles[1], "blue")
    for x, angle, sign in ((x0, scene.angles[0], 1), (x1, scene.angles[1], -1)):
        turn = math.radians(angle / 2)
        canvas.text(*canvas.ring(x, base, [(sign * 11 * math.cos(turn), -10 * math.sin(turn))])[0], f"{angle}°", 3)
    canvas.text(apex[0], apex[1] + canvas.down(9), "x", 3.4, "red")
    for (x, y), label in zip(
        [(x0 - canvas.across(3), base), (x1 + canvas.across(3), base), (apex[0], apex[1] - canvas.down(3))],
        scene.labels,
        strict=True,
    ):
        canvas.text(x, y, label, 3.6)
    half, tall = canvas.across(scene.sides[0] * 1.4), canvas.down(scene.sides[1] * 2.4)
    canvas.box(50 - half, 92 - tall, 50 + half, 92, (226, 236, 248), INK, 0.4)
    canvas.text(50, 96, f"{scene.sides[0]} cm", 3)
    canvas.text(50 + half + canvas.across(2), 92 - tall / 2, f"{scene.sides[1]} cm", 3, anchor="lm")
    return [canvas]


def _geometry_facts(scene: Geometry, rng: Generator) -> list[Fact]:
    (left, right, top), (a, b, c) = scene.angles, scene.labels
    width, height = scene.sides
    area, around = width * height, 2 * (width + height)
    return [
        fact("angle", f"{left}°", [f"{n}°" for n in [*near(rng, left), right] if str(n) != str(left)], corner=a),
        fact("angle", f"{right}°", [f"{n}°" for n in near(rng, right)], corner=b),
        fact("missing", f"{top}°", [f"{n}°" for n in near(rng, top, 5)], one=left, two=right, corner=c),
        fact("corner", c, without([*scene.labels, *(x for x in "XYZ")], c)),
        fact("width", f"{width} cm", [f"{n} cm" for n in near(rng, width, low=1)]),
        fact("height", f"{height} cm", [f"{n} cm" for n in near(rng, height, low=1)]),
        fact("area", f"{area} cm²", [f"{n} cm²" for n in near(rng, area, height, low=1)], width=width, height=height),
        fact("around", f"{around} cm", [f"{n} cm" for n in near(rng, around, 2, low=2)], width=width, height=height),
    ]


_GEOMETRY_ASKS = {
    "angle": Ask(
        "read",
        ("How large is the angle at corner {corner}?", "{corner}处的角是多少度？"),
        ("The angle at corner {corner} is {a}.", "{corner}处的角是{a}。"),
    ),
    "missing": Ask(
        "calculate", ("How large is the angle x?", "角x是多少度？"),
        (
            "The angles of a triangle make 180°, so that x, at corner {corner}, is 180° - {one}° - {two}° = {a}.",
            "三角形内角和是180°，所以{corner}处的x等于180°-{one}°-{two}°={a}。",
        ),
    ),
    "corner": Ask(
        "read",
        ("Which corner is at the top of the triangle?", "三角形最上面的顶点是哪个字母？"),
        ("The corner at the top is {a}.", "最上面的顶点是{a}。"),
    ),
    "width": Ask(
        "read", ("How wide is the rectangle?", "长方形的宽度标的是多少？"),
        ("The rectangle is {a} wide.", "长方形横向长{a}。"),
    ),
    "height": Ask(
        "read", ("How high is the rectangle?", "长方形的高度标的是多少？"),
        ("It is {a} high, the rectangle.", "长方形高{a}。"),
    ),
    "area": Ask(
        "calculate", ("What is the area of the rectangle?", "长方形的面积是多少？"),
        (
            "Its area, the rectangle's, is {width} × {height} = {a}. | The area of the rectangle is {width} × "
            "{height} = {a}.",
            "长方形的面积是{width}×{height}={a}。",
        ),
    ),
    "around": Ask(
        "calculate", ("What is the perimeter of the rectangle?", "长方形的周长是多少？"),
        (
            "The perimeter of the rectangle is 2 × ({width} + {height}) = {a}.",
            "长方形的周长是2×（{width}+{height}）={a}。",
        ),
    ),
}  # fmt: skip

GEOMETRY = Kind(
    _geometry, _draw_geometry, _geometry_facts, _GEOMETRY_ASKS,
    (
        Topic(
            ("Find the angle x and explain how.", "求角x并说明过程。"), ("angle", "missing"),
            ("That is the angle marked in red.", "这就是用红色标出的角。"),
        ),
        Topic(
            ("Compute area and perimeter of the rectangle step by step.", "请一步步计算长方形的面积和周长。"),
            ("width", "height", "area", "around"),
        ),
    ),
    (
        "The picture shows a triangle above a rectangle, both with measures. | Two figures from a geometry book are "
        "shown.",
        "图中上面是三角形，下面是长方形，都标着数据。 | 图中是几何书里的两个图形。",
    ),
    png=0.9,
)  # fmt: skip
