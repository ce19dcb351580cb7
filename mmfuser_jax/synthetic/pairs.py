"""Domains of two pictures beside each other: small differences, and which of the two is spoilt and how."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from mmfuser_jax.synthetic.canvas import INK, PAPERS, WHITE, Canvas, Size, mix
from mmfuser_jax.synthetic.icons import ICONS, draw_icon, noun
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    TINTS,
    Number,
    Text,
    Words,
    between,
    color,
    digits,
    near,
    pick,
    sample,
    slips,
    thing,
    without,
)

PLACES = tuple((18 + 32 * (i % 3), 17 + 25 * (i // 3)) for i in range(9))

SEPARATE = 0.03
"""Share of comparisons that come as two picture files."""

Things = tuple[tuple[str, str, int], ...]
"""(icon, colour, place) of some objects."""


@dataclass(frozen=True)
class Comparison:
    """Two views of the same objects that differ in up to three of them or in their code.

    Attributes:
      first: the objects of the first picture.
      second: the same ones, changed: another colour, or not there.
      codes: small print under both.
      separate: the two are files of their own; else halves of one picture.
    """

    first: Things
    second: Things
    codes: tuple[str, str]
    separate: bool


def compare(rng: Generator, separate: bool) -> Comparison:
    """A comparison by chance."""
    count = between(rng, 5, 9)
    icons, places = sample(rng, list(ICONS), count), sample(rng, range(9), count)
    first = tuple((icon, pick(rng, TINTS), place) for icon, place in zip(icons, places, strict=True))
    changed = list(first)
    code = f"{digits(rng, 3)}-{digits(rng, 3)}"
    codes = (code, pick(rng, (code, slips(rng, code, 1)[0])))
    for index in sample(rng, range(count), between(rng, 0, 3 - (codes[1] != code))):
        icon, tint, place = first[index]
        changed[index] = (icon, pick(rng, (*without(TINTS, tint), *[""] * 4)), place)
    second = tuple(item for item in changed if item[1])
    if rng.random() < 0.5:
        return Comparison(second, first, codes[::-1], separate)
    return Comparison(first, second, codes, separate)


def _comparison(rng: Generator) -> Comparison:
    return compare(rng, bool(rng.random() < SEPARATE))


def _draw_things(canvas: Canvas, things: Things, code: str) -> None:
    for icon, tint, place in things:
        draw_icon(canvas, icon, *PLACES[place], 8, tint)
    canvas.text(50, 90, code, 4.6)


def _half(size: Size) -> Size:
    return (size[0] - 12) // 2, size[1]


def beside(left: Canvas, right: Canvas) -> Canvas:
    """Two pictures of one size pasted side by side, with a dark gap."""
    width, height = left.image.size
    whole = Canvas((2 * width + 12, height), INK)
    whole.image.paste(left.image, (0, 0))
    whole.image.paste(right.image, (width + 12, 0))
    return whole


def _draw_comparison(scene: Comparison, size: Size, rng: Generator) -> list[Canvas]:
    shape = size if scene.separate else _half((max(size), min(size)))
    ground = pick(rng, PAPERS)
    panes = []
    for things, code in zip((scene.first, scene.second), scene.codes, strict=True):
        pane = Canvas(shape, ground)
        _draw_things(pane, things, code)
        panes.append(pane)
    return panes if scene.separate else [beside(*panes)]


def differences(scene: Comparison) -> int:
    """How many objects differ, and the codes."""
    changed = {place for _, _, place in set(scene.first) ^ set(scene.second)}
    return len(changed) + (scene.codes[0] != scene.codes[1])


def _comparison_facts(scene: Comparison, rng: Generator) -> list[Fact]:
    views: tuple[Text, Text] = (
        (("first picture", "第一张图"), ("second picture", "第二张图"))
        if scene.separate
        else (("left picture", "左图"), ("right picture", "右图"))
    )
    count = differences(scene)
    tints = [{icon: tint for icon, tint, _ in things} for things in (scene.first, scene.second)]
    facts = [fact("count", count, [str(n) for n in range(5) if n != count])]
    for icon in sorted(set(tints[0]) & set(tints[1]), key=list(tints[0]).index):
        one, two = tints[0][icon], tints[1][icon]
        for view, shown in zip(views, (one, two), strict=True):
            others = [color(two if shown == one else one)] if one != two else []
            others += [color(t) for t in sample(rng, without(TINTS, one, two), 3)]
            facts.append(fact("tint", color(shown), others, item=noun(icon), view=view))
        if one != two:
            same = [noun(i) for i in tints[0] if tints[0][i] == tints[1].get(i)]
            facts.append(
                fact(
                    "changed",
                    noun(icon),
                    same,
                    was=thing(one, noun(icon)),
                    now=thing(two, noun(icon)),
                    v1=views[0],
                    v2=views[1],
                )
            )
    for own, other, view, elsewhere in ((0, 1, views[0], views[1]), (1, 0, views[1], views[0])):
        missing = [icon for icon in tints[other] if icon not in tints[own]]
        present = [noun(icon) for icon in tints[own]]
        facts += [fact("missing", noun(icon), present, view=view, other=elsewhere) for icon in missing]
        facts.append(fact("objects", len(tints[own]), near(rng, len(tints[own]), low=1), view=view))
        wrong = [code for code in scene.codes if code != scene.codes[own]] + slips(rng, scene.codes[own], 3)
        facts.append(fact("code", scene.codes[own], wrong, view=view))
    words: tuple[Text, Text] = (("the same", "相同"), ("different", "不同"))
    same_code = scene.codes[0] == scene.codes[1]
    facts.append(fact("codes", words[not same_code], [words[same_code]]))
    return facts


_COMPARISON_ASKS = {
    "count": Ask(
        "compare",
        (
            "How many differences are there between the two pictures? | Compare the pictures, code included: how "
            "many differences do you find?",
            "两张图有几处不同？ | 比较两张图（包括编号），有几处不同？",
        ),
        ("The number of differences between the two is {a}.", "两者的不同之处有{a}处。"),
    ),
    "tint": Ask(
        "colour",
        ("What colour is the {item} in the {view}?", "{view}中的{item}是什么颜色？"),
        ("In the {view}, the {item} is {a}.", "{view}中的{item}是{a}的。"),
    ),
    "changed": Ask(
        "compare",
        ("Name an object that has different colours in the two pictures.", "请说出一样在两张图中颜色不同的东西。"),
        (
            "The colours differ for the {a}: a {was} in the {v1}, a {now} in the {v2}.",
            "{a}的颜色不同：{v1}中是{was}，{v2}中是{now}。",
        ),
    ),
    "missing": Ask(
        "compare", ("Which object is missing in the {view}?", "{view}中缺少哪样东西？"),
        ("Missing in the {view} is the {a}, which the {other} has.", "{view}中缺少{other}里有的{a}。"),
    ),
    "objects": Ask(
        "count", ("How many objects are in the {view}?", "{view}中有几样东西？"),
        ("The number of objects in the {view} is {a}.", "{view}中的东西数量是{a}。"),
    ),
    "code": Ask(
        "read", ("What is the code in the {view}?", "{view}中的编号是什么？"),
        ("The code in the {view} is {a}.", "{view}中的编号是{a}。"),
    ),
    "codes": Ask(
        "compare",
        ("Are the codes of the two pictures the same or different?", "两张图的编号相同还是不同？"),
        ("The codes of the two pictures are {a}.", "两张图的编号{a}。"),
    ),
}  # fmt: skip

COMPARISON = Kind(
    _comparison, _draw_comparison, _comparison_facts, _COMPARISON_ASKS,
    (
        Topic(
            (
                "Spot the differences and explain them. | In what do the two pictures differ?",
                "请找出不同之处并说明。 | 两张图有哪些不同？",
            ),
            ("count", "changed", "missing", "codes"), ("Everything else is equal in both.", "其余的都一样。"),
        ),
        Topic(
            ("Compare the two pictures object by object.", "请逐一比较两张图中的东西。"), ("objects", "tint", "count"),
        ),
        Topic(("Compare the small print of the two pictures.", "请比较两张图的小字。"), ("objects", "code", "codes")),
    ),
    (
        "Two pictures show objects in rows, with a code below. | There are two views of a set of objects to compare.",
        "两张图都画着几行物体，下面有编号。 | 这里有两张可以比较的物体图。",
    ),
    ("objects", "count", "changed", "missing", "tint", "code"),
)  # fmt: skip

DEFECTS: dict[str, Text] = {
    "blur": ("blurred", "模糊"), "noise": ("noisy", "有噪点"), "dark": ("too dark", "太暗"),
    "bright": ("too bright", "过曝"), "blocks": ("full of block artefacts", "有压缩方块"),
    "grey": ("without colours", "失去色彩"),
}  # fmt: skip

HALVES: tuple[Text, Text] = (("left picture", "左图"), ("right picture", "右图"))


@dataclass(frozen=True)
class Quality:
    """The same objects twice, one of the two spoilt; the codes differ.

    Attributes:
      spoilt: 0 for the left, 1 for the right.
    """

    things: Things
    codes: tuple[str, str]
    spoilt: int
    defect: str


def _quality(rng: Generator) -> Quality:
    things = tuple(zip(sample(rng, list(ICONS), 6), sample(rng, TINTS, 6), sample(rng, range(9), 6), strict=True))
    return Quality(things, (digits(rng, 4), digits(rng, 4)), between(rng, 0, 1), pick(rng, list(DEFECTS)))


def spoil(image: Image.Image, defect: str, rng: Generator, unit: Number) -> Image.Image:
    """The picture with one defect."""
    pixels = np.asarray(image, np.float32)
    if defect == "blur":
        return image.filter(ImageFilter.GaussianBlur(1.1 * unit))
    if defect == "blocks":
        buffer = io.BytesIO()
        image.resize((image.width // 2, image.height // 2)).save(buffer, "JPEG", quality=6)
        return Image.open(buffer).convert("RGB").resize(image.size, Image.Resampling.NEAREST)
    if defect == "noise":
        pixels = pixels + rng.normal(0, 46, pixels.shape[:2]).astype(np.float32)[..., None]
    elif defect == "dark":
        pixels = pixels * 0.28
    elif defect == "bright":
        pixels = 255 - (255 - pixels) * 0.35
    else:
        pixels = np.repeat(pixels @ np.array([[0.3], [0.59], [0.11]], np.float32), 3, axis=2)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _draw_quality(scene: Quality, size: Size, rng: Generator) -> list[Canvas]:
    shape = _half((max(size), min(size)))
    panes = []
    for index, code in enumerate(scene.codes):
        pane = Canvas(shape, (206, 222, 236))
        pane.box(-1, 58, 101, 101, (178, 200, 150))
        for x in range(4, 100, 7):
            pane.line([(x, 58), (x, 66)], mix("brown", WHITE, 0.3), 0.3)
        _draw_things(pane, scene.things, code)
        if index == scene.spoilt:
            pane.image = spoil(pane.image, scene.defect, rng, pane.unit)
        panes.append(pane)
    return [beside(*panes)]


def _quality_facts(scene: Quality, rng: Generator) -> list[Fact]:
    bad, good = HALVES[scene.spoilt], HALVES[1 - scene.spoilt]
    defect = DEFECTS[scene.defect]
    facts = [
        fact("better", good, [bad], bad=bad),
        fact("defect", defect, [DEFECTS[d] for d in without(list(DEFECTS), scene.defect)], bad=bad),
        fact("has", bad, [good], defect=defect),
    ]
    clear = scene.codes[1 - scene.spoilt]
    for half, code in zip(HALVES, scene.codes, strict=True):
        if code == clear or scene.defect not in ("blur", "blocks"):
            facts.append(fact("code", code, slips(rng, code), half=half))
    shown = [color(tint) for _, tint, _ in scene.things]
    for icon, tint, _ in scene.things:
        slots: dict[str, Words] = {"item": noun(icon), "good": good}
        facts.append(fact("tint", color(tint), without(shown, color(tint)), **slots))
    return facts


_QUALITY_ASKS = {
    "better": Ask(
        "quality",
        ("Which of the two pictures has the better quality?", "两张图中哪一张质量更好？"),
        ("The better of the two is the {a}.", "两张中更好的是{a}。"),
    ),
    "defect": Ask(
        "quality", ("What is wrong with the {bad}?", "{bad}有什么问题？"),
        ("Compared with the other, the {bad} is {a}.", "与另一张相比，{bad}{a}。"),
    ),
    "has": Ask(
        "quality", ("Which picture is {defect}?", "哪一张图{defect}？"),
        ("The one that is {defect} is the {a}.", "{defect}的是{a}。"),
    ),
    "code": Ask(
        "read",
        ("Which number is printed in the {half}?", "{half}中印的数字是多少？"),
        ("The number in the {half} is {a}.", "{half}中的数字是{a}。"),
    ),
    "tint": Ask(
        "colour",
        ("What colour is the {item} in the {good}?", "{good}中的{item}是什么颜色？"),
        ("In the {good} one can see that the {item} is {a}.", "在{good}中可以看到{item}是{a}的。"),
    ),
}  # fmt: skip

QUALITY = Kind(
    _quality, _draw_quality, _quality_facts, _QUALITY_ASKS,
    (
        Topic(
            (
                "Compare the quality of the two pictures. | Which picture would you keep, and why?",
                "请比较两张图的质量。 | 你会保留哪一张，为什么？",
            ),
            ("better", "defect"), ("What is shown is the same in both.", "两张图的内容是一样的。"),
        ),
        Topic(
            ("What can be recognised in spite of the defect?", "尽管有缺陷，还能认出什么？"), ("has", "code", "tint"),
        ),
    ),
    (
        "Two pictures of the same objects stand side by side, one of them spoilt. | The same scene is shown twice, "
        "in different quality.",
        "两张内容相同的图并排放着，其中一张质量较差。 | 同一场景出现两次，质量不同。",
    ),
    ("defect", "better", "tint", "code"),
)  # fmt: skip

DOMAINS = {"image_comparison": Domain((COMPARISON,)), "image_quality": Domain((QUALITY,))}
