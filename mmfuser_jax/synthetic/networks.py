"""The domain of complex reasoning: shortest ways in a network of stations."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Size, mix, paper
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    Words,
    between,
    invented,
    near,
    pick,
    sample,
    without,
)  # fmt: skip

Edge = tuple[int, int]

SPOTS = ((16, 28), (50, 15), (84, 30), (82, 74), (48, 86), (16, 72))


@dataclass(frozen=True)
class Network:
    """Six stations and the minutes between some of them.

    Attributes:
      names: of the stations, clockwise from the upper left.
      minutes: by pair of stations, smaller index first.
      start: where the journey begins.
      goal: where it ends.
      closed: a connection that is out of use, drawn dashed; never on the shortest way.
    """

    names: tuple[str, ...]
    minutes: dict[Edge, int]
    start: int
    goal: int
    closed: Edge


def ways(minutes: dict[Edge, int], start: int, goal: int) -> list[tuple[int, tuple[int, ...]]]:
    """(length, stations) of all ways from `start` to `goal` without repetition, shortest first."""
    found = []
    others = [i for i in range(6) if i not in (start, goal)]
    for count in range(5):
        for middle in itertools.permutations(others, count):
            way = (start, *middle, goal)
            steps = [(min(a, b), max(a, b)) for a, b in itertools.pairwise(way)]
            if all(step in minutes for step in steps):
                found.append((sum(minutes[step] for step in steps), way))
    return sorted(found)


def _network(rng: Generator) -> Network:
    while True:
        ring = [(i, i + 1) for i in range(5)] + [(0, 5)]
        chords = sample(rng, [(0, 2), (1, 5), (2, 4), (3, 5), (1, 3), (0, 4)], between(rng, 1, 3))
        minutes = {edge: between(rng, 2, 15) for edge in ring + chords}
        start, goal = sample(rng, [(0, 3), (1, 4), (2, 5), (3, 0), (4, 1), (5, 2)], 1)[0]
        closed = pick(rng, list(minutes))
        usable = {edge: length for edge, length in minutes.items() if edge != closed}
        found = ways(usable, start, goal)
        if len(found) > 2 and found[0][0] < found[1][0] and ways(minutes, start, goal)[0] == found[0]:
            return Network(tuple(name[:5] for name in invented(rng, 6)), minutes, start, goal, closed)


def _draw_network(scene: Network, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    for (one, two), length in scene.minutes.items():
        (x0, y0), (x1, y1) = SPOTS[one], SPOTS[two]
        if (one, two) == scene.closed:
            canvas.dashed((x0, y0), (x1, y1), "grey", 0.5)
        else:
            canvas.line([(x0, y0), (x1, y1)], (90, 110, 160), 0.5)
        x, y = x0 + (x1 - x0) * 0.36, y0 + (y1 - y0) * 0.36
        canvas.oval(x, y, 2.7, 2.7, WHITE)
        canvas.text(x, y, str(length), 3.1)
    for i, (name, (x, y)) in enumerate(zip(scene.names, SPOTS, strict=True)):
        fill = {scene.start: "green", scene.goal: "red"}.get(i)
        canvas.oval(x, y, 6.4, 6.4, mix(fill, WHITE, 0.6) if fill else (236, 236, 240), INK, 0.4)
        canvas.text(x, y, name, 3)
    return [canvas]


def _network_facts(scene: Network, rng: Generator) -> list[Fact]:
    names, closed = scene.names, scene.closed
    usable = {edge: length for edge, length in scene.minutes.items() if edge != closed}
    found = ways(usable, scene.start, scene.goal)
    routes = [" - ".join(names[i] for i in way) for _, way in found]
    best, second = found[0][0], found[1][0]
    degree = {name: sum(i in edge for edge in scene.minutes) for i, name in enumerate(names)}
    facts = [
        fact("start", names[scene.start], without(names, names[scene.start])),
        fact("goal", names[scene.goal], without(names, names[scene.goal])),
        fact("lines", len(scene.minutes), [str(n) for n in range(6, 11) if n != len(scene.minutes)]),
    ]
    for (one, two), length in sample(rng, list(scene.minutes.items()), 4):
        facts.append(
            fact(
                "direct",
                length,
                [*near(rng, length, low=1), *(str(n) for n in scene.minutes.values())],
                one=names[one],
                two=names[two],
            )
        )
    pairs = [f"{names[a]} - {names[b]}" for a, b in scene.minutes]
    shut = f"{names[closed[0]]} - {names[closed[1]]}"
    facts.append(fact("closed", shut, without(pairs, shut)))
    wanted = pick(rng, sorted(set(degree.values())))
    name = pick(rng, [station for station in names if degree[station] == wanted])
    facts.append(fact("degree", degree[name], [str(n) for n in range(1, 6) if n != degree[name]], name=name))
    legs = [scene.minutes[(min(a, b), max(a, b))] for a, b in itertools.pairwise(found[0][1])]
    ends: dict[str, Words] = {"start": names[scene.start], "goal": names[scene.goal]}
    facts.append(fact("route", routes[0], routes[1:], **ends))
    facts.append(
        fact(
            "shortest",
            best,
            [str(length) for length, _ in found[1:]] + near(rng, best, low=1),
            legs=" + ".join(map(str, legs)),
            **ends,
        )
    )
    facts.append(
        fact("detour", second - best, near(rng, second - best, low=1), best=best, second=second, route=routes[1])
    )
    return facts


_NETWORK_ASKS = {
    "start": Ask(
        "colour", ("Which station is marked green?", "哪个站用绿色标出？"),
        ("The station marked green, where the journey begins, is {a}.", "绿色的起点站是{a}。"),
    ),
    "goal": Ask(
        "colour", ("Which station is marked red?", "哪个站用红色标出？"),
        ("The station marked red, the goal, is {a}.", "红色的终点站是{a}。"),
    ),
    "lines": Ask(
        "count",
        ("How many connections are drawn, the dashed one included?", "图中一共画了几条线路（包括虚线）?"),
        ("The number of connections, the dashed one included, is {a}.", "包括虚线在内，线路的数量是{a}。"),
    ),
    "direct": Ask(
        "read",
        (
            "How many minutes does the direct connection between {one} and {two} take?",
            "{one}和{two}之间的直达线路要几分钟？",
        ),
        ("The direct connection between {one} and {two} takes {a} minutes.", "{one}和{two}之间直达要{a}分钟。"),
    ),
    "closed": Ask(
        "detail",
        ("Which connection is dashed, that is, out of use?", "哪一段线路是虚线（停用）?"),
        ("The dashed connection, which is out of use, is {a}.", "停用的虚线线路是{a}。"),
    ),
    "degree": Ask(
        "count", ("How many connections meet at {name}?", "有几条线路在{name}相接？"),
        ("The number of connections that meet at {name} is {a}.", "在{name}相接的线路数量是{a}。"),
    ),
    "route": Ask(
        "reason",
        (
            "Which is the fastest way from {start} to {goal}, without the dashed connection?",
            "不走虚线，从{start}到{goal}最快的路线是哪条？",
        ),
        ("The fastest way from {start} to {goal} is {a}.", "从{start}到{goal}最快的路线是{a}。"),
    ),
    "shortest": Ask(
        "reason",
        (
            "How many minutes does the fastest way from {start} to {goal} take, without the dashed connection?",
            "不走虚线，从{start}到{goal}最快要几分钟？",
        ),
        (
            "From {start} to {goal} the fastest way takes {legs} minutes, in total {a}.",
            "从{start}到{goal}最快要{legs}分钟，合计{a}。",
        ),
    ),
    "detour": Ask(
        "reason",
        ("By how many minutes is the second best way longer than the best?", "第二快的路线比最快的多几分钟？"),
        (
            "The second best way, {route}, takes {second} minutes against {best}; the difference is {a}.",
            "第二快的路线{route}要{second}分钟，最快的要{best}分钟，相差{a}。",
        ),
    ),
}  # fmt: skip

NETWORK = Kind(
    _network, _draw_network, _network_facts, _NETWORK_ASKS,
    (
        Topic(
            (
                "How do I get from the green to the red station fastest? Explain step by step. | Plan the journey "
                "between the marked stations.",
                "怎样最快从绿色站到红色站？请一步步说明。 | 请规划两个标记站之间的行程。",
            ),
            ("start", "goal", "closed", "route", "shortest", "detour"),
        ),
        Topic(
            ("Describe this network to someone who has to draw it.", "请向需要画出它的人描述这个线路网。"),
            ("lines", "direct", "closed", "degree"),
        ),
    ),
    (
        "The picture is a map of six stations joined by lines with small numbers, the minutes of travel. | A network "
        "of six round stations is shown, with travel times on its lines.",
        "图中有六个站点，连线上的小数字是所需分钟数。 | 这是一张六站线路图，线上标着时间。",
    ),
    png=0.3,
)  # fmt: skip

DOMAINS = {"complex_reasoning": Domain((NETWORK,))}
