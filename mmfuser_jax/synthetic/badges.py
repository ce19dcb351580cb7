"""The domain of attributes: shapes with colours, patterns, borders and sizes."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, Canvas, Size, paper
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import SHAPES, TINTS, Number, Text, Words, color, pick, sample, without

PATTERNS: dict[str, Text] = {
    "plain": ("plain", "纯色"), "stripes": ("horizontal stripes", "横条纹"), "bars": ("vertical stripes", "竖条纹"),
    "dots": ("dots", "圆点"), "checks": ("checks", "方格"),
}  # fmt: skip

EDGES: dict[str, tuple[Text, Number]] = {
    "none": (("no border", "无边框"), 0), "thin": (("a thin border", "细边框"), 0.3),
    "thick": (("a thick border", "粗边框"), 1.3), "double": (("a double border", "双边框"), 0.3),
}  # fmt: skip


@dataclass(frozen=True)
class Badge:
    """A shape with its attributes, and the letter under it."""

    letter: str
    shape: str
    tint: str
    pattern: str
    edge: str
    radius: Number


def _badges(rng: Generator) -> tuple[Badge, ...]:
    radii = sample(rng, (6.4, 9.0, 9.4, 9.8, 10.2, 13.0), 6)
    return tuple(
        Badge(letter, pick(rng, list(SHAPES)), tint, pick(rng, list(PATTERNS)), pick(rng, list(EDGES)), radius)
        for letter, tint, radius in zip("PQRSTU", sample(rng, without(TINTS, "yellow"), 6), radii, strict=True)
    )


def _draw_badges(badges: tuple[Badge, ...], size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    for i, badge in enumerate(badges):
        x, y = 19 + 31 * (i % 3), 24 + 48 * (i // 3)
        canvas.shape(badge.shape, x, y, badge.radius, badge.tint, pattern=badge.pattern)
        width = EDGES[badge.edge][1]
        if width:
            canvas.shape(badge.shape, x, y, badge.radius, None, INK, width)
        if badge.edge == "double":
            canvas.shape(badge.shape, x, y, badge.radius + 1.4, None, INK, width)
        canvas.text(x, y + canvas.down(19), badge.letter, 3.4)
    return [canvas]


def _badge_facts(badges: tuple[Badge, ...], rng: Generator) -> list[Fact]:
    facts = []
    shapes = list(SHAPES.values())
    for badge in badges:
        item: dict[str, Words] = {"item": badge.letter}
        facts += [
            fact("shape", SHAPES[badge.shape], without(shapes, SHAPES[badge.shape]), **item),
            fact("tint", color(badge.tint), [color(t) for t in without(TINTS, badge.tint)], **item),
            fact(
                "pattern",
                PATTERNS[badge.pattern],
                [PATTERNS[p] for p in without(list(PATTERNS), badge.pattern)],
                **item,
            ),
            fact("edge", EDGES[badge.edge][0], [EDGES[e][0] for e in without(list(EDGES), badge.edge)], **item),
        ]
    largest, smallest = (f(badges, key=lambda badge: badge.radius) for f in (max, min))
    letters = [badge.letter for badge in badges]
    facts.append(fact("largest", largest.letter, without(letters, largest.letter)))
    facts.append(fact("smallest", smallest.letter, without(letters, smallest.letter)))
    return facts


_BADGE_ASKS = {
    "shape": Ask(
        "shape", ("What shape is badge {item}?", "徽章{item}是什么形状？"),
        ("Badge {item} is a {a}.", "徽章{item}是{a}。"),
    ),
    "tint": Ask(
        "colour", ("What colour is badge {item}?", "徽章{item}是什么颜色？"),
        ("The colour of badge {item} is {a}.", "徽章{item}的颜色是{a}。"),
    ),
    "pattern": Ask(
        "pattern", ("Which pattern does badge {item} have?", "徽章{item}是什么图案？"),
        ("The pattern of badge {item}: {a}.", "徽章{item}的图案是{a}。"),
    ),
    "edge": Ask(
        "detail",
        ("What border does badge {item} have?", "徽章{item}的边框是什么样的？"),
        ("Badge {item} has {a}.", "徽章{item}的边框：{a}。"),
    ),
    "largest": Ask(
        "compare", ("Which badge is the largest?", "哪个徽章最大？"),
        ("The largest badge is {a}.", "最大的徽章是{a}。"),
    ),
    "smallest": Ask(
        "compare", ("Which badge is the smallest?", "哪个徽章最小？"),
        ("The smallest badge is {a}.", "最小的徽章是{a}。"),
    ),
}  # fmt: skip

BADGES = Kind(
    _badges, _draw_badges, _badge_facts, _BADGE_ASKS,
    (
        Topic(("Describe shape and colour of every badge.", "请描述每个徽章的形状和颜色。"), ("shape", "tint")),
        Topic(
            (
                "How are the badges decorated? | Compare patterns and borders.",
                "这些徽章是怎样装饰的？ | 请比较图案和边框。",
            ),
            ("pattern", "edge"),
        ),
        Topic(("What shapes and sizes are there?", "有哪些形状和大小？"), ("shape", "largest", "smallest")),
    ),
    (
        "Six badges are laid out in two rows, each with a letter beneath. | The picture shows two rows of three "
        "badges.",
        "六个徽章排成两行，每个下面有一个字母。 | 图中有两行徽章，每行三个。",
    ),
    png=0.2,
)  # fmt: skip

DOMAINS = {"attribute_recognition": Domain((BADGES,))}
