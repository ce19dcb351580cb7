"""Items that could be read but are no good are refused by name, good ones by none."""

import pytest

from mmfuser_jax.mminstruct.questions.checks import CHECKS, Expected, faults, language_of
from mmfuser_jax.mminstruct.questions.items import Item

EN, ZH = Expected("en"), Expected("zh")
LONG = "A red car stands at the side of a narrow street, in front of a bakery with two windows."

GOOD = [
    (Item("judgement", "Is there a red car in the image?", "yes"), EN),
    (Item("judgement", "图中有一辆红色的汽车吗？", "no"), ZH),
    (Item("choice", "Which colour is the car?", "B", ("green", "red")), EN),
    (Item("choice", "这张海报属于哪部电影？", "A", ("Titanic", "Avatar")), ZH),
    (Item("short", "What brand is the car?", "奔驰"), EN),
    (Item("short", "What is 3 < 5 and 7 > 6 called?", "an inequality"), EN),
    (Item("long", "Write a detailed description of the picture.", LONG), EN),
    (Item("choice", "Is the car red or green?", "B", ("green", "red")), EN),
]
BAD = [
    ("placeholder", Item("judgement", "Is there a <object> in the image?", "yes"), EN),
    ("placeholder", Item("short", "图中的{物体}是什么颜色？", "红色"), ZH),
    ("placeholder", Item("choice", "Which colour is it?", "A", ("xxx", "red")), EN),
    ("refusal", Item("long", "What is happening in the image?", f"I'm sorry, but I can't say. {LONG}"), EN),
    ("refusal", Item("short", "图中是什么东西？", "作为AI，我无法看到图片"), ZH),
    ("leak", Item("short", "What colour is mentioned in the description?", "red"), EN),
    ("leak", Item("long", "What is happening in the image?", f"According to the caption, {LONG}"), EN),
    ("leak", Item("short", "根据描述，汽车是什么颜色？", "红色"), ZH),
    ("language", Item("short", "图中的汽车是什么颜色？", "红色"), EN),
    (
        "language",
        Item("long", "What is happening in the image?", "一辆红色的汽车停在一条狭窄的街道旁边，前面是一家面包店。"),
        EN,
    ),
    ("language", Item("short", "What colour is the car?", "red"), ZH),
    ("length", Item("short", "What is in the image?", " ".join(["word"] * 40)), EN),
    ("length", Item("long", "What is in the image?", "A car."), EN),
    ("length", Item("short", "Why?", "It rains"), EN),
    ("given_away", Item("choice", "Which colour is the red car?", "B", ("green", "red")), EN),
    ("repeated", Item("short", "What COLOUR is the car", "red"), Expected("en", seen={"what colour is the car"})),
    (
        "benchmark",
        Item("short", "What colour is the car?", "red"),
        Expected("en", benchmark={"what colour is the car"}),
    ),
]


@pytest.mark.parametrize(("item", "expected"), GOOD)
def test_good_items_have_no_fault(item, expected):
    assert list(faults(item, expected)) == []


@pytest.mark.parametrize(("reason", "item", "expected"), BAD)
def test_bad_items_are_refused_by_name(reason, item, expected):
    assert list(faults(item, expected)) == [reason]


def test_every_check_is_seen_to_fail():
    assert {reason for reason, *_ in BAD} == set(CHECKS)


@pytest.mark.parametrize(
    ("text", "language"),
    [("The poster says 你好.", "en"), ("海报上写着 Hello World 两个词", "zh"), ("3 + 4 = 7", ""), ("", "")],
)
def test_language(text, language):
    assert language_of(text) == language
