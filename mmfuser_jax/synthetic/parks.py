"""The domain of descriptions: a park full of things in two rows."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Size
from mmfuser_jax.synthetic.icons import draw_icon, noun
from mmfuser_jax.synthetic.kinds import UNCAPTIONED, Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    TINTS,
    Text,
    between,
    color,
    digits,
    invented,
    near,
    sample,
    slips,
    strangers,
    thing,
    without,
)  # fmt: skip

THINGS = ("car", "house", "kite", "boat", "chair", "gift", "umbrella", "lamp", "flag", "bell", "hat", "bottle")

ACROSS: tuple[Text, ...] = (("on the left", "左边"), ("in the middle", "中间"), ("on the right", "右边"))

DEPTH: tuple[Text, ...] = (("back row", "后排"), ("front row", "前排"))


@dataclass(frozen=True)
class Park:
    """Six things on a lawn in two rows of three, clouds, and a banner."""

    things: tuple[tuple[str, str], ...]
    clouds: int
    banner: str
    flowers: int


def _park(rng: Generator) -> Park:
    things = zip(sample(rng, THINGS, 6), sample(rng, (*TINTS, "teal", "grey"), 6), strict=True)
    return Park(
        tuple(things), between(rng, 1, 6), f"{invented(rng, 1)[0]} PARK {digits(rng, 2)}".upper(), between(rng, 4, 12)
    )


def _draw_park(scene: Park, size: Size, rng: Generator) -> list[Canvas]:
    canvas = Canvas(size, (190, 220, 244))
    canvas.box(-1, 36, 101, 101, (140, 186, 110))
    for i in range(scene.clouds):
        x, y = 9 + 82 * (i + 0.5) / scene.clouds, 8 + rng.uniform(-2, 2)
        for dx in (-1.6, 0.0, 1.6):
            canvas.oval(x + canvas.across(dx), y, 2.2, 1.8, WHITE)
    canvas.box(50 - canvas.across(26), 18, 50 + canvas.across(26), 27, WHITE, INK, 0.4)
    canvas.text(50, 22.5, scene.banner, 4.2)
    for i, (icon, tint) in enumerate(scene.things):
        draw_icon(canvas, icon, 18 + 32 * (i % 3) + rng.uniform(-3, 3), 44 + 26 * (i // 3), 7.5, tint)
    for i in range(scene.flowers):
        x, y = 7 + 86 * (i + 0.5) / scene.flowers, 92 + rng.uniform(-2.5, 2.5)
        canvas.line([(x, y), (x, y + 4)], (50, 110, 50), 0.3)
        canvas.oval(x, y, 1.2, 1.2, "red", WHITE, 0.3)
    return [canvas]


def _park_facts(scene: Park, rng: Generator) -> list[Fact]:
    facts = [
        fact(
            "banner",
            scene.banner,
            [f"{name} PARK {scene.banner[-2:]}".upper() for name in strangers(rng, 2, scene.banner.split()[0].title())]
            + slips(rng, scene.banner, 2),
        )
    ]
    for i, (icon, tint) in enumerate(scene.things):
        item = noun(icon)
        where, row = ACROSS[i % 3], DEPTH[i // 3]
        shown = [color(t) for _, t in scene.things if t != tint]
        facts.append(fact("tint", color(tint), shown, item=item, where=where, row=row))
        facts.append(fact("where", where, without(ACROSS, where), item=item, row=row))
        others = [noun(other) for other, _ in scene.things if other != icon]
        facts.append(fact("what", item, others, where=where, row=row))
    left, right = (thing(scene.things[i][1], noun(scene.things[i][0])) for i in (3, 5))
    facts.append(fact("clouds", scene.clouds, near(rng, scene.clouds)))
    facts.append(fact("flowers", scene.flowers, near(rng, scene.flowers), left=left, right=right))
    return facts


_PARK_ASKS = {
    "banner": Ask(
        "read", ("What is written on the banner?", "横幅上写着什么？"), ("A banner reads {a}.", "横幅上写着{a}。"),
    ),
    "tint": Ask(
        "colour", ("What colour is the {item}?", "{item}是什么颜色？"),
        (
            "The {item} {where} of the {row} is {a}. | {a} is the colour of the {item}, which stands {where} of the "
            "{row}.",
            "{row}{where}的{item}是{a}的。",
        ),
    ),
    "where": Ask(
        "locate", ("Where in its row is the {item}?", "{item}在那一排的什么位置？"),
        ("The {item} stands {a} of the {row}.", "{item}在{row}的{a}。"),
    ),
    "what": Ask(
        "locate", ("What stands {where} of the {row}?", "{row}{where}是什么？"),
        ("What stands {where} of the {row} is the {a}.", "{row}{where}是{a}。"),
    ),
    "clouds": Ask(
        "count", ("How many clouds are there?", "有几朵云？"), ("The number of clouds is {a}.", "云的数量是{a}。"),
    ),
    "flowers": Ask(
        "count",
        ("How many red flowers grow along the lower edge?", "下边缘有几朵红花？"),
        ("The number of red flowers along the lower edge is {a}.", "下边缘红花的数量是{a}。"),
    ),
}  # fmt: skip

PARK = Kind(
    _park, _draw_park, _park_facts, _PARK_ASKS,
    (
        Topic(
            ("Describe the picture. | What do you see in this picture?", "请描述这张图片。 | 你在图片中看到了什么？"),
            ("banner", "tint", "clouds", "flowers"),
        ),
        Topic(
            ("Where do the things in the park stand?", "公园里的东西都在哪里？"), ("what",),
            ("They stand in two rows of three.", "它们排成两排，每排三样。"),
        ),
        Topic(
            ("What belongs to nature here, and what was put there?", "图中哪些是自然的，哪些是人放的？"),
            ("clouds", "flowers", "banner", "where"),
        ),
    ),
    (
        "A park with a lawn under a light sky. | The picture shows a lawn on which things stand in two rows.",
        "浅色天空下有一片公园草地。 | 图中的草地上，东西排成两排。",
    ),
    ("banner", "tint", "clouds", "flowers"),
)  # fmt: skip

DOMAINS = {"image_description": Domain((PARK,), types=UNCAPTIONED)}
