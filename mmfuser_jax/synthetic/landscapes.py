"""The domain of scenes: a place in some light and weather, with things and birds to count."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator
from PIL import Image

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Rgb, Size, mix
from mmfuser_jax.synthetic.icons import draw_icon, noun
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    SIDES,
    Text,
    between,
    color,
    digits,
    near,
    pick,
    sample,
    slips,
    without,
)  # fmt: skip

GROUNDS: dict[str, tuple[Text, Rgb, str, Text]] = {
    "town": (("a town", "城镇"), (150, 150, 150), "house", ("houses", "房子")),
    "seaside": (("the seaside", "海边"), (60, 130, 190), "boat", ("boats", "船")),
    "hills": (("green hills", "绿色的山丘"), (110, 170, 90), "tree", ("trees", "树")),
    "desert": (("a desert", "沙漠"), (222, 190, 130), "kite", ("kites", "风筝")),
}

TIMES: dict[str, tuple[Text, Rgb]] = {
    "day": (("by day", "白天"), (170, 212, 244)),
    "dusk": (("at dusk", "黄昏"), (244, 176, 130)),
    "night": (("at night", "夜晚"), (28, 34, 70)),
}

WEATHERS: dict[str, Text] = {
    "clear": ("clear", "晴朗"), "rain": ("rainy", "下雨"), "snow": ("snowy", "下雪"), "fog": ("foggy", "有雾"),
}  # fmt: skip


TINTS = ("red", "orange", "yellow", "blue", "purple", "brown", "pink")


@dataclass(frozen=True)
class Landscape:
    """A place with its light and weather, and what is counted in it."""

    ground: str
    time: str
    weather: str
    light: str
    birds: int
    tints: tuple[str, ...]
    distance: str


def _landscape(rng: Generator) -> Landscape:
    return Landscape(
        ground=pick(rng, list(GROUNDS)),
        time=pick(rng, list(TIMES)),
        weather=pick(rng, list(WEATHERS)),
        light=pick(rng, list(SIDES)),
        birds=between(rng, 2, 9),
        tints=tuple(sample(rng, TINTS, between(rng, 3, 6))),
        distance=digits(rng, between(rng, 1, 3)),
    )


def _draw_landscape(scene: Landscape, size: Size, rng: Generator) -> list[Canvas]:
    night = scene.time == "night"
    ground, icon = GROUNDS[scene.ground][1:3]
    canvas = Canvas(size, TIMES[scene.time][1])
    x = 14 if scene.light == "left" else 86
    canvas.oval(x, 15, 6, 6, (240, 240, 220) if night else (255, 226, 110))
    if night:
        canvas.oval(x + canvas.across(2.4), 14, 5.4, 5.4, TIMES["night"][1])
    if scene.ground in ("hills", "desert"):
        for place, height in ((20, 24), (55, 34), (88, 26)):
            canvas.oval(place, 70, height * 1.6, height, mix(ground, (40, 60, 60), 0.3))
    canvas.box(-1, 62, 101, 101, mix(ground, (10, 20, 50), 0.45) if night else ground)
    places = [(8 + 84 * (i + 0.5) / len(scene.tints), 66 + 9 * (i % 2)) for i in range(len(scene.tints))]
    for (px, py), tint in zip(places, scene.tints, strict=True):
        draw_icon(canvas, icon, px, py, 7.5, tint)
    for i in range(scene.birds):
        bx, by = 26 + 50 * (i % 5) / 4 + rng.uniform(-2, 2), 11 + 14 * (i // 5) + rng.uniform(-3, 3)
        canvas.line([*canvas.ring(bx, by, [(-1.8, -1), (0, 0.4), (1.8, -1)])], WHITE if night else INK, 0.45)
    _draw_weather(canvas, scene.weather, rng)
    canvas.box(44, 90, 56, 97, WHITE, INK, 0.4)
    canvas.text(50, 93.5, f"{scene.distance} km", 3.2)
    return [canvas]


def _draw_weather(canvas: Canvas, weather: str, rng: Generator) -> None:
    spots = rng.uniform(0, 100, (90, 2)).tolist()
    if weather == "rain":
        for x, y in spots:
            canvas.line(canvas.ring(x, y, [(0, 0), (-1, 3.4)]), (150, 180, 226), 0.3)
    if weather == "snow":
        for x, y in spots:
            canvas.oval(x, y, 0.8, 0.8, WHITE, (206, 214, 226), 0.1)
    if weather == "fog":
        canvas.image.paste(Image.blend(canvas.image, Image.new("RGB", canvas.image.size, (222, 224, 228)), 0.5))


def _landscape_facts(scene: Landscape, rng: Generator) -> list[Fact]:
    objects = GROUNDS[scene.ground][3]
    item = noun(GROUNDS[scene.ground][2])
    absent = without(TINTS, *scene.tints)[0]
    ends = (("left", scene.tints[0]), ("right", scene.tints[-1]))
    return [
        fact("place", GROUNDS[scene.ground][0], [GROUNDS[g][0] for g in without(list(GROUNDS), scene.ground)]),
        fact("time", TIMES[scene.time][0], [TIMES[t][0] for t in without(list(TIMES), scene.time)]),
        fact("weather", WEATHERS[scene.weather], [WEATHERS[w] for w in without(list(WEATHERS), scene.weather)]),
        fact(
            "light", SIDES[scene.light], [words for name, words in SIDES.items() if name != scene.light],
            lamp=("moon", "月亮") if scene.time == "night" else ("sun", "太阳"),
        ),
        fact("birds", scene.birds, near(rng, scene.birds)),
        fact("objects", len(scene.tints), near(rng, len(scene.tints)), objects=objects),
        *(
            fact("end", color(tint), [color(t) for t in (*scene.tints, absent)], side=SIDES[side], item=item)
            for side, tint in ends
        ),
        fact("distance", f"{scene.distance} km", [f"{n} km" for n in slips(rng, scene.distance)]),
    ]  # fmt: skip


_LANDSCAPE_ASKS = {
    "place": Ask(
        "identify", ("What place is shown?", "图中是什么地方？"),
        ("The place is {a}. | One sees {a}.", "地点是{a}。 | 画面里是{a}。"),
    ),
    "time": Ask(
        "identify", ("At what time of day is it?", "图中是一天中的什么时候？"),
        ("The scene is shown {a}.", "时间是{a}。"),
    ),
    "weather": Ask("identify", ("What is the weather like?", "天气怎么样？"), ("The weather is {a}.", "天气{a}。")),
    "light": Ask(
        "locate", ("On which side is the {lamp}?", "{lamp}在哪一边？"), ("The {lamp} is on the {a}.", "{lamp}在{a}。"),
    ),
    "birds": Ask(
        "count", ("How many birds are in the sky?", "天上有几只鸟？"),
        ("The number of birds in the sky is {a}.", "天上鸟的数量是{a}。"),
    ),
    "objects": Ask(
        "count", ("How many {objects} are there?", "图中{objects}有多少？"),
        ("The number of {objects} is {a}.", "{objects}的数量是{a}。"),
    ),
    "end": Ask(
        "colour",
        ("What colour is the {item} furthest to the {side}?", "最{side}的{item}是什么颜色？"),
        ("The {item} furthest to the {side} is {a}.", "最{side}的{item}是{a}的。"),
    ),
    "distance": Ask(
        "read",
        ("Which distance is on the small sign at the bottom?", "底部的小牌子上写的距离是多少？"),
        ("The small sign at the bottom says {a}.", "底部的小牌子上写着{a}。"),
    ),
}  # fmt: skip

LANDSCAPE = Kind(
    _landscape, _draw_landscape, _landscape_facts, _LANDSCAPE_ASKS,
    (
        Topic(
            (
                "What is the mood of this scene? | What kind of scene is it?",
                "这个场景的氛围如何？ | 这是一个怎样的场景？",
            ),
            ("place", "time", "weather", "light", "birds"), ("These make the mood of the scene.", "这些构成了画面的氛围。"),
        ),
        Topic(
            ("What could a traveller see here?", "旅行者在这里能看到什么？"),
            ("place", "objects", "end", "birds", "distance"),
        ),
        Topic(
            ("Describe what is in the sky and what is on the ground.", "请分别描述天空和地面。"),
            ("time", "light", "birds", "weather", "objects", "end"),
        ),
    ),
    (
        "The picture is a wide landscape under an open sky. | A landscape with a sign in front is shown.",
        "图片是开阔天空下的一片风景。 | 这是一幅风景，前面立着一块牌子。",
    ),
)  # fmt: skip

DOMAINS = {"image_scene": Domain((LANDSCAPE,))}
