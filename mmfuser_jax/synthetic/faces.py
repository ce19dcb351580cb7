"""Domains of feelings: drawn faces and what they feel, and memes around a face."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Paint, Size, mix, paper
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import NAMES, Number, Text, between, color, digits, near, pick, sample, slips, without

FEELINGS: dict[str, Text] = {
    "happy": ("happy", "高兴"), "sad": ("sad", "难过"), "angry": ("angry", "生气"),
    "surprised": ("surprised", "惊讶"), "sleepy": ("sleepy", "困倦"), "calm": ("calm", "平静"),
}  # fmt: skip

SKINS = ((246, 214, 186), (226, 182, 142), (186, 132, 94), (128, 86, 60))

TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "grey")


def draw_face(canvas: Canvas, x: Number, y: Number, radius: Number, feeling: str, skin: Paint) -> None:
    """A round face whose eyes, brows and mouth show a feeling."""
    canvas.oval(x, y, radius, radius, skin, INK, 0.4)
    dx, eye = canvas.across(radius * 0.38), y - canvas.down(radius * 0.15)
    for side in (-1, 1):
        ex = x + side * dx
        if feeling == "sleepy":
            canvas.arc(ex, eye, radius * 0.16, radius * 0.12, 0, 180)
            continue
        wide = 0.19 if feeling == "surprised" else 0.11
        canvas.oval(ex, eye, radius * wide, radius * wide, WHITE if feeling == "surprised" else INK, INK, 0.3)
        if feeling == "surprised":
            canvas.oval(ex, eye, radius * 0.07, radius * 0.07, INK)
        tilt = {"angry": side * 0.14, "sad": -side * 0.14}.get(feeling, 0)
        lift = radius * (0.5 if feeling == "surprised" else 0.34)
        inner, outer = (
            (-side * radius * 0.17, -lift + abs(tilt) * radius),
            (side * radius * 0.17, -lift - abs(tilt) * radius),
        )
        if feeling == "sad":
            inner, outer = (inner[0], outer[1]), (outer[0], inner[1])
        canvas.line(canvas.ring(ex, eye, [inner, outer]), INK, 0.6)
    _mouth(canvas, x, y + canvas.down(radius * 0.42), radius, feeling)


def _mouth(canvas: Canvas, x: Number, y: Number, radius: Number, feeling: str) -> None:
    if feeling == "surprised":
        canvas.oval(x, y, radius * 0.16, radius * 0.2, INK)
    elif feeling == "sleepy":
        canvas.oval(x, y, radius * 0.12, radius * 0.08, INK)
    elif feeling == "happy":
        canvas.arc(x, y - canvas.down(radius * 0.2), radius * 0.46, radius * 0.4, 15, 165)
    elif feeling == "calm":
        canvas.line(canvas.ring(x, y, [(-radius * 0.3, 0), (radius * 0.3, 0)]), INK, 0.6)
    else:
        canvas.arc(x, y + canvas.down(radius * 0.3), radius * 0.4, radius * 0.34, 200, 340)


@dataclass(frozen=True)
class Faces:
    """Six people: (name, feeling, colour of the hat, buttons on the shirt)."""

    people: tuple[tuple[str, str, str, int], ...]


def _faces(rng: Generator) -> Faces:
    names, hats = sample(rng, NAMES, 6), sample(rng, TINTS, 6)
    return Faces(
        tuple((n, pick(rng, list(FEELINGS)), hat, between(rng, 1, 5)) for n, hat in zip(names, hats, strict=True))
    )


def _draw_faces(scene: Faces, size: Size, rng: Generator) -> list[Canvas]:
    canvas = paper(size, rng)
    for i, (name, feeling, hat, buttons) in enumerate(scene.people):
        x, y = 18 + 32 * (i % 3), 21 + 49 * (i // 3)
        below = y + canvas.down(9.5)
        canvas.box(x - canvas.across(9), below, x + canvas.across(9), y + 21, mix(hat, WHITE, 0.6), INK, 0.3, 2)
        for button in range(buttons):
            canvas.oval(
                x + canvas.across((button - (buttons - 1) / 2) * 3), below + (y + 21 - below) / 2, 0.8, 0.8, INK
            )
        draw_face(canvas, x, y, 10, feeling, pick(rng, SKINS))
        top = y - canvas.down(8)
        canvas.polygon(
            [(x - canvas.across(8), top), (x, y - canvas.down(17)), (x + canvas.across(8), top)], hat, INK, 0.3
        )
        canvas.text(x, y + 24.5, name, 3.4)
    return [canvas]


def _face_facts(scene: Faces, rng: Generator) -> list[Fact]:
    feelings, names = list(FEELINGS), [name for name, *_ in scene.people]
    hats = [hat for _, _, hat, _ in scene.people]
    facts = []
    for name, feeling, hat, buttons in scene.people:
        wrong = [FEELINGS[f] for f in without(feelings, feeling)]
        facts.append(fact("feels", FEELINGS[feeling], wrong, name=name, hat=color(hat)))
        facts.append(fact("feeling_of_hat", FEELINGS[feeling], wrong, hat=color(hat)))
        facts.append(fact("hat", color(hat), [color(h) for h in without(hats, hat)], name=name))
        facts.append(fact("buttons", buttons, near(rng, buttons, low=1), name=name))
        felt = [f for _, f, _, _ in scene.people]
        if felt.count(feeling) == 1:
            facts.append(fact("who", name, without(names, name), feeling=FEELINGS[feeling]))
    counts = {feeling: sum(shown == feeling for _, shown, *_ in scene.people) for feeling in feelings}
    count = pick(rng, sorted(set(counts.values())))
    asked = pick(rng, [feeling for feeling in feelings if counts[feeling] == count])
    facts.append(fact("count", count, [str(n) for n in range(6)], feeling=FEELINGS[asked]))
    return facts


_FACE_ASKS = {
    "feels": Ask(
        "emotion",
        (
            "How does {name} feel? | Which feeling shows on the face of {name}?",
            "{name}的心情怎么样？ | {name}的脸上是什么表情？",
        ),
        (
            "{name}, in the {hat} hat, looks {a}. | The face of {name} is {a}; the hat is {hat}.",
            "戴{hat}帽子的{name}看上去{a}。 | {name}戴着{hat}帽子，神情{a}。",
        ),
    ),
    "feeling_of_hat": Ask(
        "emotion",
        ("How does the person with the {hat} hat feel?", "戴{hat}帽子的人心情怎么样？"),
        ("The person with the {hat} hat feels {a}.", "戴{hat}帽子的人感到{a}。"),
    ),
    "hat": Ask(
        "colour", ("What colour is the hat of {name}?", "{name}的帽子是什么颜色？"),
        ("The hat of {name} is {a}.", "{name}的帽子是{a}的。"),
    ),
    "buttons": Ask(
        "count",
        ("How many buttons are on the shirt of {name}?", "{name}的衣服上有几颗扣子？"),
        ("The number of buttons on the shirt of {name} is {a}.", "{name}衣服上的扣子数量是{a}。"),
    ),
    "who": Ask(
        "emotion",
        ("Who is the only one who looks {feeling}?", "谁是唯一看上去{feeling}的人？"),
        ("The only one who looks {feeling} is {a}.", "唯一看上去{feeling}的人是{a}。"),
    ),
    "count": Ask(
        "count", ("How many people look {feeling}?", "有几个人看上去{feeling}？"),
        ("The number of people who look {feeling} is {a}.", "看上去{feeling}的人数是{a}。"),
    ),
}  # fmt: skip

FACES = Kind(
    _faces, _draw_faces, _face_facts, _FACE_ASKS,
    (
        Topic(
            (
                "How do the people feel, and how can you tell them apart? | Describe the feelings of everyone.",
                "这些人的心情如何，怎样区分他们？ | 请描述每个人的情绪。",
            ),
            ("feels",),
            ("Mouth, eyes and brows show the feelings.", "从嘴、眼睛和眉毛可以看出心情。"),
        ),
        Topic(("What are the people wearing?", "这些人穿戴了什么？"), ("hat", "buttons")),
        Topic(("Does anyone stand out by a feeling?", "有没有人的情绪与众不同？"), ("count", "who", "feeling_of_hat")),
    ),
    (
        "Six drawn people with pointed hats are shown in two rows, with their names below. | The picture shows the "
        "heads and shirts of six people.",
        "图中有六个戴尖帽子的人，排成两行，下面写着名字。 | 图片画了六个人的头和上衣。",
    ),
    ("feels", "buttons"),
)  # fmt: skip

PLANS: tuple[tuple[str, Text], ...] = (
    ("WHEN YOU FINISH EARLY", ("finishing early", "提前完成")),
    ("WHEN YOU WASH THE CAR", ("washing the car", "洗了车")), ("WHEN YOU COOK DINNER", ("cooking dinner", "做晚饭")),
    ("WHEN YOU PACK YOUR BAG", ("packing a bag", "收拾行李")),
    ("WHEN YOU TAKE THE BUS", ("taking the bus", "坐公交车")),
    ("WHEN YOU OPEN THE FRIDGE", ("opening the fridge", "打开冰箱")),
    ("WHEN YOU CALL A FRIEND", ("calling a friend", "给朋友打电话")),
    ("WHEN YOU START A DIET", ("starting a diet", "开始节食")),
)  # fmt: skip

TWISTS: tuple[tuple[str, Text, str], ...] = (
    ("AND EVERYTHING WORKS", ("everything works", "一切顺利"), "happy"),
    ("AND IT IS FREE TODAY", ("it is free", "今天免费"), "happy"),
    ("AND IT STARTS TO RAIN", ("it starts to rain", "开始下雨"), "sad"),
    ("AND NOTHING IS LEFT", ("nothing is left", "什么都不剩"), "sad"),
    ("AND SOMEONE TOOK IT", ("someone took it", "被人拿走了"), "angry"),
    ("AND THEY SAY AGAIN", ("one has to do it again", "被要求重来"), "angry"),
    ("AND THE DOOR IS OPEN", ("the door is open", "门开着"), "surprised"),
    ("AND IT TALKS BACK", ("it talks back", "它竟然回话了"), "surprised"),
    ("AND IT IS 3 AM", ("it is three in the morning", "已是凌晨三点"), "sleepy"),
    ("AND IT TAKES 9 HOURS", ("it takes nine hours", "花了九个小时"), "sleepy"),
)  # fmt: skip


@dataclass(frozen=True)
class Meme:
    """Two lines of text, the face that goes with them, and small print.

    Attributes:
      plan: index into `PLANS`.
      twist: index into `TWISTS`.
    """

    plan: int
    twist: int
    tint: str
    code: str
    drops: int


def _meme(rng: Generator) -> Meme:
    return Meme(
        between(rng, 0, len(PLANS) - 1),
        between(rng, 0, len(TWISTS) - 1),
        pick(rng, TINTS),
        digits(rng, 5),
        between(rng, 1, 6),
    )


def _draw_meme(scene: Meme, size: Size, rng: Generator) -> list[Canvas]:
    canvas = Canvas(size, mix(scene.tint, WHITE, 0.55))
    for i in range(12):
        canvas.line([(50, 50), canvas.ring(50, 50, [(200, 0)], i * 30)[0]], mix(scene.tint, WHITE, 0.75), 4)
    draw_face(canvas, 50, 50, 24, TWISTS[scene.twist][2], pick(rng, SKINS))
    for i in range(scene.drops):
        canvas.oval(50 + canvas.across(33 + 4.5 * (i % 2)), 36 + 9 * (i // 2), 1.2, 2, "blue", WHITE, 0.3)
    for y, words in ((11, PLANS[scene.plan][0]), (88, TWISTS[scene.twist][0])):
        canvas.box(50 - canvas.across(46), y - 5, 50 + canvas.across(46), y + 5, WHITE, INK, 0.3)
        canvas.text(50, y, words, 5.2)
    canvas.text(97, 97, f"no. {scene.code}", 2.7, anchor="rm")
    return [canvas]


def _meme_facts(scene: Meme, rng: Generator) -> list[Fact]:
    top, plan = PLANS[scene.plan]
    bottom, twist, feeling = TWISTS[scene.twist]
    return [
        fact("top", top, [words for words, _ in PLANS if words != top]),
        fact("bottom", bottom, [words for words, _, _ in TWISTS if words != bottom]),
        fact("feeling", FEELINGS[feeling], [FEELINGS[shown] for _, _, shown in TWISTS]),
        fact("point", twist, [words for _, words, _ in TWISTS if words != twist], plan=plan),
        fact("tint", color(scene.tint), [color(t) for t in without(TINTS, scene.tint)]),
        fact("drops", scene.drops, near(rng, scene.drops, low=1)),
        fact("code", scene.code, slips(rng, scene.code)),
    ]


_MEME_ASKS = {
    "top": Ask(
        "read", ("What does the upper line say?", "上面一行写了什么？"),
        ("The upper line says {a}.", "上面一行写着{a}。"),
    ),
    "bottom": Ask(
        "read", ("What does the lower line say?", "下面一行写了什么？"),
        ("The lower line says {a}.", "下面一行写着{a}。"),
    ),
    "feeling": Ask(
        "emotion", ("How does the face in the meme look?", "表情包里的脸是什么表情？"),
        ("The face looks {a}.", "这张脸看上去{a}。"),
    ),
    "point": Ask(
        "reason",
        ("What turn does the joke take after {plan}?", "在“{plan}”之后，笑点是什么？"),
        ("The joke is that after {plan}, {a}.", "笑点在于{plan}之后{a}。"),
    ),
    "tint": Ask(
        "colour",
        ("What colour is the background, in a light shade?", "背景是什么颜色的浅色调？"),
        ("The background is a light shade of {a}.", "背景是浅浅的{a}。"),
    ),
    "drops": Ask(
        "count",
        ("How many blue drops are beside the face?", "脸旁边有几滴蓝色的水珠？"),
        ("The number of blue drops beside the face is {a}.", "脸旁边的蓝色水珠数量是{a}。"),
    ),
    "code": Ask(
        "read",
        ("Which number is in the lower right corner?", "右下角的编号是多少？"),
        ("In the corner stands the number {a}.", "角落里的编号是{a}。"),
    ),
}  # fmt: skip

MEME = Kind(
    _meme, _draw_meme, _meme_facts, _MEME_ASKS,
    (
        Topic(
            ("Explain this meme. | Why is this funny?", "请解释这个表情包。 | 这为什么好笑？"),
            ("top", "bottom", "point", "feeling"),
            ("The face shows how one feels about that turn.", "脸上的表情正是对这个转折的反应。"),
        ),
        Topic(("What does the meme look like?", "这个表情包长什么样？"), ("tint", "feeling", "drops", "code")),
    ),
    (
        "The picture is a meme: a large face between two lines of text. | A round face with rays behind it stands "
        "between two captions.",
        "这是一个表情包：两行文字之间有一张大脸。 | 一张圆脸位于两行文字之间，背后是放射线。",
    ),
)  # fmt: skip

DOMAINS = {"image_emotion": Domain((FACES,)), "meme_comprehension": Domain((MEME,))}
