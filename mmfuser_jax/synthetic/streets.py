"""The domain of common sense: opening hours, a clock, a thermometer and a light for pedestrians in a street."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import INK, WHITE, Canvas, Size
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.sums import clock_text, draw_clock
from mmfuser_jax.synthetic.words import (
    Number,
    Text,
    Words,
    between,
    color,
    invented,
    near,
    pick,
    strangers,
    without,
)  # fmt: skip

LIGHTS: dict[str, Text] = {"red": ("must wait", "必须等待"), "green": ("may cross", "可以通过")}

WEAR: tuple[Text, ...] = (
    ("a thick coat and gloves", "厚大衣和手套"), ("a warm jacket", "保暖外套"), ("a jumper", "毛衣"), ("a T-shirt", "T恤"),
)  # fmt: skip
"""What one wears below 0, 10 and 20 °C, and above."""


@dataclass(frozen=True)
class Street:
    """A street in the afternoon: a shop with its hours, a clock, a thermometer, and a light for pedestrians.

    Attributes:
      hours: when the shop opens and closes, in hours after noon.
      minutes: the time on the clock, after noon.
      degrees: what the thermometer shows.
      battery: bars of five on the phone on the poster.
    """

    shop: str
    hours: tuple[int, int]
    minutes: int
    degrees: int
    light: str
    battery: int


def _street(rng: Generator) -> Street:
    opens, closes = between(rng, 1, 5), between(rng, 6, 10)
    return Street(
        invented(rng, 1)[0], (opens, closes), between(rng, 12, 131) * 5, between(rng, -18, 36), pick(rng, list(LIGHTS)),
        between(rng, 1, 5),
    )  # fmt: skip


def _draw_street(scene: Street, size: Size, rng: Generator) -> list[Canvas]:
    canvas = Canvas(size, (206, 222, 236))
    canvas.box(-1, 78, 101, 101, (150, 150, 154))
    for x in range(2, 100, 12):
        canvas.box(x, 88, x + 7, 90, WHITE)
    canvas.box(4, 12, 58, 78, (204, 160, 130), INK, 0.4)
    canvas.box(8, 15, 54, 23, (60, 60, 80))
    canvas.text(31, 19, f"{scene.shop} BAKERY".upper(), 3.6, WHITE)
    draw_clock(canvas, 31, 41, 13, scene.minutes)
    canvas.box(9, 62, 53, 75, WHITE, INK, 0.3)
    canvas.text(31, 65.5, "OPEN (AFTERNOONS)", 2.7)
    canvas.text(31, 71, f"{scene.hours[0]}:00 - {scene.hours[1]}:00", 3.6)
    _thermometer(canvas, 68, scene.degrees)
    canvas.box(84, 24, 92, 46, (40, 40, 44))
    canvas.oval(88, 30, 2.6, 2.6, "red" if scene.light == "red" else (70, 40, 40))
    canvas.oval(88, 40, 2.6, 2.6, "green" if scene.light == "green" else (40, 60, 44))
    canvas.line([(88, 46), (88, 78)], (60, 60, 64), 1)
    canvas.text(72, 84, "phone", 2.7)
    for i in range(5):
        left = 80 + canvas.across(2.6) * i
        canvas.box(left, 82.4, left + canvas.across(2), 85.6, "green" if i < scene.battery else None, INK, 0.3)
    return [canvas]


def _thermometer(canvas: Canvas, x: Number, degrees: int) -> None:
    top, floor = 18, 70

    def height(value: int) -> Number:
        return floor - (floor - top) * (value + 20) / 60

    half = canvas.across(1.3)
    canvas.box(x - half, top - 3, x + half, floor + 2, WHITE, INK, 0.3, 1.2)
    canvas.box(x - half * 0.5, height(degrees), x + half * 0.5, floor + 1, "red")
    canvas.oval(x, floor + 4, 2.6, 2.6, "red", INK, 0.3)
    for value in range(-20, 41, 2):
        length = canvas.across(2.2 if value % 10 == 0 else 1.1)
        canvas.line([(x + half, height(value)), (x + half + length, height(value))], INK, 0.2)
        if value % 10 == 0:
            canvas.text(x + half + canvas.across(2.8), height(value), str(value), 2.5, anchor="lm")


def _street_facts(scene: Street, rng: Generator) -> list[Fact]:
    opens, closes = (60 * hour for hour in scene.hours)
    now = scene.minutes
    status = "closed yet" if now < opens else "open" if now < closes else "closed already"
    next_change = opens if now < opens else closes if now < closes else None
    states: dict[str, Text] = {
        "closed yet": ("still closed", "还没开门"), "open": ("open", "正在营业"), "closed already": ("closed already", "已经关门"),
    }  # fmt: skip
    fitting = WEAR[sum(scene.degrees >= limit for limit in (0, 10, 20))]
    water: tuple[Text, Text] = (("freeze", "结冰"), ("stay liquid", "保持液态"))
    cold = scene.degrees < 0
    slots: dict[str, Words] = {"now": clock_text(now), "open": f"{scene.hours[0]}:00", "close": f"{scene.hours[1]}:00"}
    facts = [
        fact(
            "shop",
            f"{scene.shop} BAKERY".upper(),
            [f"{name} BAKERY".upper() for name in strangers(rng, 4, scene.shop)],
        ),
        fact("clock", clock_text(now), [clock_text(now + shift) for shift in (-65, -5, 5, 60)]),
        fact("status", states[status], [words for name, words in states.items() if name != status], **slots),
    ]
    if next_change is not None and next_change != now:
        wait = next_change - now
        facts.append(
            fact(
                "wait",
                f"{wait} min",
                [f"{n} min" for n in near(rng, wait, 5, low=5)],
                now=clock_text(now),
                then=clock_text(next_change),
            )
        )
    facts += [
        fact("degrees", f"{scene.degrees} °C", [f"{n} °C" for n in near(rng, scene.degrees, 2, low=-20)]),
        fact("wear", fitting, without(WEAR, fitting), degrees=scene.degrees),
        fact(
            "light",
            LIGHTS[scene.light],
            [LIGHTS[name] for name in LIGHTS if name != scene.light],
            light=color(scene.light),
        ),
        fact(
            "battery",
            f"{20 * scene.battery}%",
            [f"{20 * n}%" for n in range(1, 6) if n != scene.battery],
            bars=scene.battery,
        ),
    ]
    if scene.degrees:
        facts.append(fact("water", water[not cold], [water[cold]], degrees=scene.degrees))
    return facts


_STREET_ASKS = {
    "shop": Ask(
        "read", ("What is the name of the shop?", "这家店叫什么名字？"), ("The shop is called {a}.", "这家店叫{a}。"),
    ),
    "clock": Ask(
        "read",
        ("What time does the clock on the house show?", "房子上的钟显示几点？"),
        ("The clock shows {a} in the afternoon.", "钟上显示下午{a}。"),
    ),
    "status": Ask(
        "reason",
        (
            "It is afternoon. Is the shop still closed, open, or closed already?",
            "现在是下午，这家店还没开门、正在营业还是已经关门？",
        ),
        (
            "At {now}, with hours from {open} to {close}, the shop is {a}.",
            "现在{now}，营业时间是{open}到{close}，所以店铺{a}。",
        ),
    ),
    "wait": Ask(
        "calculate",
        ("How long is it until the shop next opens or closes?", "距离这家店下一次开门或关门还有多久？"),
        ("From {now} to {then} it is {a}.", "从{now}到{then}还有{a}。"),
    ),
    "degrees": Ask(
        "read",
        ("What temperature does the thermometer show?", "温度计显示多少度？"),
        ("The thermometer shows {a}.", "温度计显示{a}。"),
    ),
    "wear": Ask(
        "reason",
        ("What should one wear at this temperature?", "这样的气温适合穿什么？"),
        ("At {degrees} °C, {a} is the right thing to wear.", "气温{degrees} °C，适合穿{a}。"),
    ),
    "light": Ask(
        "reason",
        ("May pedestrians cross now, or must they wait?", "行人现在可以通过还是必须等待？"),
        ("The light is {light}, so that pedestrians {a}.", "信号灯是{light}的，行人{a}。"),
    ),
    "battery": Ask(
        "calculate",
        ("With five bars for a full battery, what is the charge of the phone?", "五格表示满电，手机现在的电量是多少？"),
        ("With {bars} of five bars, the phone is charged to {a}.", "五格中有{bars}格，手机电量是{a}。"),
    ),
    "water": Ask(
        "reason",
        ("Would water in the open freeze or stay liquid here?", "这里的露天水会结冰还是保持液态？"),
        ("At {degrees} °C, water will {a}.", "在{degrees} °C，水会{a}。"),
    ),
}  # fmt: skip

STREET = Kind(
    _street, _draw_street, _street_facts, _STREET_ASKS,
    (
        Topic(
            (
                "Can I buy bread now? Explain your reasoning. | Is it a good moment to visit this shop?",
                "我现在能买到面包吗？请说明理由。 | 现在是去这家店的好时候吗？",
            ),
            ("shop", "clock", "status", "wait"),
        ),
        Topic(
            ("How should one dress and behave in this street?", "在这条街上应该怎样穿着和行动？"),
            ("degrees", "wear", "water", "light"),
        ),
    ),
    (
        "The picture shows a shop front with a clock and a sign, a thermometer and a pedestrian light. | A street in "
        "the afternoon, with a bakery on the left.",
        "图中有带钟和告示的店面、温度计和行人信号灯。 | 下午的街道，左边是一家面包店。",
    ),
)  # fmt: skip

DOMAINS = {"commonsense_reasoning": Domain((STREET,))}
