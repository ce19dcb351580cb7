"""The domain of social relations: a family of three generations with names and ages."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, Canvas, Paint, Size, paper
from mmfuser_jax.synthetic.faces import SKINS, TINTS
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import NAMES, Number, Text, between, near, pick, sample, without


@dataclass(frozen=True)
class Family:
    """Three generations as (name, age): two grandparents, their two children with partners or not, and grandchildren.

    Attributes:
      elders: two people.
      parents: their two children.
      children: for each parent, one to three children.
    """

    elders: tuple[tuple[str, int], ...]
    parents: tuple[tuple[str, int], ...]
    children: tuple[tuple[tuple[str, int], ...], ...]


def _family(rng: Generator) -> Family:
    counts = [between(rng, 1, 3), between(rng, 1, 3)]
    names = iter(sample(rng, NAMES, 4 + sum(counts)))
    ages = iter(sample(rng, range(61, 89), 2) + sample(rng, range(33, 49), 2) + sample(rng, range(2, 17), sum(counts)))
    people = [(name, next(ages)) for name in names]
    cut = 4 + counts[0]
    return Family(tuple(people[:2]), tuple(people[2:4]), (tuple(people[4:cut]), tuple(people[cut:])))


def _person(canvas: Canvas, x: Number, y: Number, person: tuple[str, int], height: Number, shirt: Paint) -> None:
    """A figure standing on y, with name and age below."""
    top = y - height
    canvas.oval(x, top, 2.6, 2.6, SKINS[0], INK, 0.3)
    neck, hip = top + canvas.down(2.6), y - height * 0.3
    canvas.line([(x, hip), (x - canvas.across(2.4), y)], INK, 0.6)
    canvas.line([(x, hip), (x + canvas.across(2.4), y)], INK, 0.6)
    arms = neck + (hip - neck) * 0.5
    canvas.line([(x - canvas.across(4), arms), (x, neck), (x + canvas.across(4), arms)], INK, 0.6)
    canvas.polygon([(x, neck), (x - canvas.across(2.8), hip), (x + canvas.across(2.8), hip)], shirt, INK, 0.2)
    canvas.text(x, y + canvas.down(2.6), f"{person[0]}, {person[1]}", 2.9)


def _draw_family(scene: Family, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    shirts = iter(sample(rng, TINTS, 7) * 2)
    columns = (27.0, 73.0)
    canvas.line([(42, 15), (58, 15)], INK, 0.3)
    canvas.line([(50, 15), (50, 33)], INK, 0.3)
    canvas.line([(columns[0], 38), (columns[0], 33), (columns[1], 33), (columns[1], 38)], INK, 0.3)
    for x, elder in zip((42.0, 58.0), scene.elders, strict=True):
        _person(canvas, x, 22, elder, 15, next(shirts))
    for x, parent, children in zip(columns, scene.parents, scene.children, strict=True):
        _person(canvas, x, 55, parent, 14, next(shirts))
        canvas.line([(x, 61), (x, 68)], INK, 0.3)
        places = [x + 15 * (i - (len(children) - 1) / 2) for i in range(len(children))]
        canvas.line([(places[0], 68), (places[-1], 68)], INK, 0.3)
        for place, child in zip(places, children, strict=True):
            canvas.line([(place, 68), (place, 71)], INK, 0.3)
            _person(canvas, place, 90, child, 9 + child[1] * 0.45, next(shirts))
    return [canvas]


def _family_facts(scene: Family, rng: Generator) -> list[Fact]:
    young = [child for children in scene.children for child in children]
    people = [*scene.elders, *scene.parents, *young]
    names = [name for name, _ in people]
    facts = [
        fact(
            "grandparents",
            f"{scene.elders[0][0]} + {scene.elders[1][0]}",
            (),
            one=scene.elders[0][0],
            two=scene.elders[1][0],
        )
    ]
    for (parent, age), children in zip(scene.parents, scene.children, strict=True):
        facts.append(
            fact("children", len(children), [str(n) for n in range(5) if n != len(children)], name=parent, age=age)
        )
        facts += [fact("parent", parent, without(names, parent, child), name=child) for child, _ in children]
        if len(children) == 2:
            for child, sibling in (children, children[::-1]):
                facts.append(fact("sibling", sibling[0], without(names, sibling[0], child[0]), name=child[0]))
    facts += [
        fact("age", age, [*near(rng, age, low=1), *(str(a) for _, a in people if a != age)], name=name)
        for name, age in people
    ]
    oldest, youngest = max(young, key=lambda p: p[1]), min(young, key=lambda p: p[1])
    if len(young) > 1:
        gap = oldest[1] - youngest[1]
        facts.append(fact("youngest", youngest[0], without(names, youngest[0]), age=youngest[1]))
        facts.append(
            fact("gap", gap, near(rng, gap, low=1), old=oldest[0], young=youngest[0], a1=oldest[1], a2=youngest[1])
        )
    cousins = [(a[0], b[0]) for a in scene.children[0] for b in scene.children[1]]
    one, two = pick(rng, cousins)
    relation = ("cousins", "堂表亲")
    facts.append(fact("relation", relation, RELATIONS, one=one, two=two))
    facts.append(
        fact("relation", RELATIONS[0], [relation, *RELATIONS[1:]], one=scene.parents[0][0], two=scene.parents[1][0])
    )
    facts.append(fact("relation", RELATIONS[2], [relation, *RELATIONS[:2]], one=scene.elders[0][0], two=one))
    facts.append(
        fact("relation", RELATIONS[1], [relation, RELATIONS[0], RELATIONS[2]], one=scene.parents[0][0], two=two)
    )
    return facts


RELATIONS: tuple[Text, ...] = (
    ("siblings", "兄弟姐妹"), ("aunt or uncle and child of a sibling", "长辈与其兄弟姐妹的孩子"),
    ("grandparent and grandchild", "祖辈与孙辈"),
)  # fmt: skip

_FAMILY_ASKS = {
    "grandparents": Ask(
        "relation", ("", ""),
        ("At the top stand the grandparents, {one} and {two}.", "最上面是祖父母辈{one}和{two}。"),
    ),
    "children": Ask(
        "count", ("How many children does {name} have?", "{name}有几个孩子？"),
        ("The number of children of {name} is {a}.", "{name}的孩子数量是{a}。"),
    ),
    "parent": Ask(
        "relation", ("Who is the parent of {name}?", "{name}的父亲或母亲是谁？"),
        ("{name} is a child of {a}.", "{name}是{a}的孩子。"),
    ),
    "sibling": Ask(
        "relation",
        ("Who is the brother or sister of {name}?", "谁是{name}的兄弟姐妹？"),
        ("{a} is the brother or sister of {name}.", "{a}是{name}的兄弟姐妹。"),
    ),
    "age": Ask(
        "read", ("How old is {name}?", "{name}几岁？"),
        ("{name} is {a} years old. | The age of {name} is {a}.", "{name}今年{a}岁。"),
    ),
    "youngest": Ask(
        "compare", ("Who is the youngest person?", "谁的年龄最小？"), ("The youngest is {a}.", "年龄最小的是{a}。"),
    ),
    "gap": Ask(
        "calculate",
        ("By how many years is {old} older than {young}?", "{old}比{young}大几岁？"),
        (
            "{old} is {a1} and {young} is {a2}, so that the difference is {a}.",
            "{old}{a1}岁，{young}{a2}岁，相差{a}岁。",
        ),
    ),
    "relation": Ask(
        "relation", ("How are {one} and {two} related?", "{one}和{two}是什么关系？"),
        ("{one} and {two} are {a}.", "{one}和{two}是{a}。"),
    ),
}  # fmt: skip

FAMILY = Kind(
    _family, _draw_family, _family_facts, _FAMILY_ASKS,
    (
        Topic(
            ("Explain who is related to whom. | Describe this family.", "请说明谁和谁是什么关系。 | 请描述这个家庭。"),
            ("grandparents", "children", "parent", "relation"),
        ),
        Topic(("How old are the members of this family?", "这个家庭的成员都多大？"), ("age", "youngest", "gap")),
    ),
    (
        "The picture is a family tree with three generations of standing figures. | Thin lines join the members of a "
        "family, each with name and age.",
        "图片是一张三代人的家谱图。 | 细线把家庭成员连在一起，每人都标着名字和年龄。",
    ),
    ("grandparents", "children", "parent", "age", "youngest"),
)  # fmt: skip

DOMAINS = {"social_relation": Domain((FAMILY,))}
