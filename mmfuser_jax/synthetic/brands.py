"""The domain of brands: invented logos with names, years and small marks."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import WHITE, Canvas, Size, paper
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    SHAPES,
    TINTS,
    between,
    invented,
    near,
    sample,
    thing,
    without,
    years_near,
)  # fmt: skip


@dataclass(frozen=True)
class Logo:
    """An invented brand: its sign, its name, the year it was founded, and dots in its mark."""

    shape: str
    tint: str
    name: str
    year: str
    dots: int


def _brands(rng: Generator) -> tuple[Logo, ...]:
    parts = zip(sample(rng, list(SHAPES), 4), sample(rng, without(TINTS, "yellow"), 4), invented(rng, 4), strict=True)
    return tuple(Logo(s, t, name.upper(), str(between(rng, 1880, 2019)), between(rng, 1, 5)) for s, t, name in parts)


def _draw_brands(logos: tuple[Logo, ...], size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    for i, logo in enumerate(logos):
        x, y = 26 + 48 * (i % 2), 20 + 48 * (i // 2)
        canvas.box(x - 22, y - 17, x + 22, y + 28, WHITE, (170, 170, 176), 0.3, 2)
        canvas.shape(logo.shape, x, y, 11, logo.tint)
        for dot in range(logo.dots):
            canvas.oval(x + canvas.across((dot - (logo.dots - 1) / 2) * 2.1), y, 0.75, 0.75, WHITE)
        canvas.text(x, y + 16.5, logo.name, 4)
        canvas.text(x, y + 23, f"since {logo.year}", 2.8)
    return [canvas]


def _brand_facts(logos: tuple[Logo, ...], rng: Generator) -> list[Fact]:
    names, years = [logo.name for logo in logos], [logo.year for logo in logos]
    signs = [thing(logo.tint, SHAPES[logo.shape]) for logo in logos]
    facts = []
    for logo, sign in zip(logos, signs, strict=True):
        facts += [
            fact("brand", logo.name, without(names, logo.name), sign=sign),
            fact("sign", sign, without(signs, sign), name=logo.name),
            fact(
                "year",
                logo.year,
                [*without(years, logo.year), *years_near(rng, logo.year)],
                name=logo.name,
            ),
            fact("dots", logo.dots, near(rng, logo.dots), name=logo.name),
        ]
    if len(set(years)) == 4:
        oldest = min(logos, key=lambda logo: logo.year).name
        facts.append(fact("oldest", oldest, without(names, oldest)))
    return facts


_BRAND_ASKS = {
    "brand": Ask(
        "identify",
        ("Which brand has a {sign} as its logo?", "哪个品牌的标志是{sign}？"),
        (
            "The brand with the {sign} is {a}. | A {sign} is the logo of {a}.",
            "标志为{sign}的品牌是{a}。 | {sign}是{a}的标志。",
        ),
    ),
    "sign": Ask(
        "identify",
        ("What does the logo of {name} look like?", "{name}的标志是什么样的？"),
        ("The logo of {name} is a {a}.", "{name}的标志是{a}。"),
    ),
    "year": Ask(
        "read", ("Since when has {name} existed?", "{name}创立于哪一年？"),
        ("{name} has existed since {a}.", "{name}创立于{a}年。"),
    ),
    "dots": Ask(
        "count",
        ("How many white dots are in the logo of {name}?", "{name}的标志里有几个白点？"),
        ("The number of white dots in the logo of {name} is {a}.", "{name}的标志里白点的数量是{a}。"),
    ),
    "oldest": Ask(
        "compare", ("Which of the brands is the oldest?", "哪个品牌历史最久？"),
        ("The oldest of the brands is {a}.", "历史最久的品牌是{a}。"),
    ),
}  # fmt: skip

BRANDS = Kind(
    _brands, _draw_brands, _brand_facts, _BRAND_ASKS,
    (
        Topic(
            (
                "Describe the logos in this picture. | Which brands are there and how can they be told apart?",
                "请描述图中的标志。 | 有哪些品牌，怎样区分它们？",
            ),
            ("sign", "dots"),
        ),
        Topic(
            ("Tell the history of these brands as far as the picture gives it.", "请根据图片说明这些品牌的历史。"),
            ("year", "oldest"),
        ),
    ),
    (
        "Four cards show the logos of four brands. | The picture shows brand logos in two rows.",
        "四张卡片上是四个品牌的标志。 | 图中的品牌标志排成两行。",
    ),
    ("brand", "year", "dots", "oldest"), png=0.3,
)  # fmt: skip

DOMAINS = {"brand_recognition": Domain((BRANDS,))}
