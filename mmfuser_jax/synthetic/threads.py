"""The domain of relations between objects: things tied to each other by thin crossing threads."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import Canvas, Size, paper
from mmfuser_jax.synthetic.icons import ICONS, draw_icon, noun
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import TINTS, between, color, near, sample, without


@dataclass(frozen=True)
class Threads:
    """Things on the left, each tied by a thread to one on the right.

    Attributes:
      left: icons from top to bottom.
      right: icons from top to bottom.
      ties: for each on the left, the index of its partner on the right.
      tints: colours of the threads, by their left end.
      dashed: the left end of the one dashed thread.
      knots: number of small knots on each thread.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    ties: tuple[int, ...]
    tints: tuple[str, ...]
    dashed: int
    knots: tuple[int, ...]


def _threads(rng: Generator) -> Threads:
    icons = sample(rng, list(ICONS), 10)
    return Threads(
        left=tuple(icons[:5]),
        right=tuple(icons[5:]),
        ties=tuple(sample(rng, range(5), 5)),
        tints=tuple(sample(rng, TINTS, 5)),
        dashed=between(rng, 0, 4),
        knots=tuple(between(rng, 0, 4) for _ in range(5)),
    )


def _draw_threads(scene: Threads, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    heights = [12 + 19 * i for i in range(5)]
    for i, target in enumerate(scene.ties):
        start, end = (20, heights[i]), (80, heights[target])
        if i == scene.dashed:
            canvas.dashed(start, end, scene.tints[i], 0.55)
        else:
            canvas.line([start, end], scene.tints[i], 0.55)
        for knot in range(scene.knots[i]):
            share = 0.07 + 0.05 * knot
            canvas.oval(start[0] + 60 * share, start[1] + (end[1] - start[1]) * share, 0.9, 0.9, scene.tints[i])
    for i, height in enumerate(heights):
        draw_icon(canvas, scene.left[i], 11, height, 5.4, scene.tints[i])
        draw_icon(canvas, scene.right[i], 89, height, 5.4, "grey")
    return [canvas]


def _thread_facts(scene: Threads, rng: Generator) -> list[Fact]:
    left, right = [noun(icon) for icon in scene.left], [noun(icon) for icon in scene.right]
    facts = []
    for i, target in enumerate(scene.ties):
        tint, partner = color(scene.tints[i]), right[target]
        facts.append(fact("tied", partner, without(right, partner), item=left[i], tint=tint))
        facts.append(
            fact("tint", color(scene.tints[i]), [color(t) for t in without(scene.tints, scene.tints[i])], item=partner)
        )
        facts.append(fact("knots", scene.knots[i], near(rng, scene.knots[i]), item=left[i]))
    facts.append(fact("dashed", left[scene.dashed], without(left, left[scene.dashed])))
    return facts


_THREAD_ASKS = {
    "tied": Ask(
        "trace",
        (
            "To what is the {item} on the left tied? | Follow the {tint} thread from the {item}: where does it end?",
            "左边的{item}系在什么东西上？ | 沿着从{item}出发的{tint}的线走，终点是什么？",
        ),
        (
            "A {tint} thread ties the {item} to the {a}. | The {tint} thread leads from the {item} to the {a}.",
            "{tint}的线把{item}和{a}连在一起。 | {tint}的线从{item}通向{a}。",
        ),
    ),
    "tint": Ask(
        "colour",
        ("What colour is the thread that ends at the {item} on the right?", "连到右边{item}的线是什么颜色？"),
        ("The thread that ends at the {item} is {a}.", "连到{item}的线是{a}的。"),
    ),
    "knots": Ask(
        "count",
        ("How many knots are in the thread of the {item} on the left?", "左边{item}的线上有几个结？"),
        ("The number of knots in the thread of the {item} is {a}.", "{item}的线上结的数量是{a}。"),
    ),
    "dashed": Ask(
        "compare",
        ("Which thing on the left has a dashed thread?", "左边哪样东西的线是虚线？"),
        ("Only one thread is dashed; it belongs to the {a}.", "只有一根线是虚线，它属于{a}。"),
    ),
}  # fmt: skip

THREADS = Kind(
    _threads, _draw_threads, _thread_facts, _THREAD_ASKS,
    (
        Topic(
            (
                "Which things belong together in this picture? | Untangle the threads for me.",
                "图中哪些东西是连在一起的？ | 请帮我理清这些线。",
            ),
            ("tied", "dashed"),
            ("Every thing is tied to exactly one other.", "每样东西都只与另一样相连。"),
        ),
        Topic(("Compare the threads with each other.", "请比较这些线。"), ("tint", "knots", "dashed")),
    ),
    (
        "Five coloured objects on the left are tied by thin threads to five grey ones on the right. | The picture is "
        "a puzzle of crossing threads between two columns of objects.",
        "左边五样彩色的东西用细线与右边五样灰色的东西相连。 | 这是一幅连线图，线在两列物体之间交叉。",
    ),
    ("tied", "knots", "dashed"),
)  # fmt: skip

DOMAINS = {"object_relation": Domain((THREADS,))}
