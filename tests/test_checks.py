"""Items that could be read but are no good are refused by name, good ones by none."""

import re

import pytest

from mmfuser_jax.mminstruct.questions.checks import CHECKS, Expected, faults, language_of
from mmfuser_jax.mminstruct.questions.items import LANGUAGES, TYPES, Item
from mmfuser_jax.mminstruct.questions.keeping import DOUBTFUL
from mmfuser_jax.mminstruct.questions.seed_questions import load_domains

EN, ZH = Expected("en"), Expected("zh")
LONG = "A red car stands at the side of a narrow street, in front of a bakery with two windows."
LONG_ZH = "一辆红色的汽车停在一条狭窄的街道旁边，前面是一家面包店。"

GOOD = [
    (Item("judgement", "Is there a red car in the image?", "yes"), EN),
    (Item("judgement", "图中有一辆红色的汽车吗？", "no"), ZH),
    (Item("choice", "Which colour is the car?", "B", ("green", "red")), EN),
    (Item("choice", "这张海报属于哪部电影？", "A", ("Titanic", "Avatar")), ZH),
    (Item("short", "What brand is the car?", "奔驰"), EN),
    (Item("short", "What is 3 < 5 and 7 > 6 called?", "an inequality"), EN),
    (Item("long", "Write a detailed description of the picture.", LONG), EN),
    (Item("choice", "Is the car red or green?", "B", ("green", "red")), EN),
    (Item("short", "What does the text on the sign say?", "SALE"), EN),
    (Item("short", "What does the caption of the meme say?", "When you see it"), EN),
    (Item("short", "Where does the passage lead?", "To a yard"), EN),
    (Item("short", "What is the product description on the label?", "Fine tea"), EN),
    (Item("short", "Who comes first according to the text on the poster?", "Ann"), EN),
    (Item("short", "Which price is stated in the text of the sign?", "5 dollars"), EN),
    (Item("long", "What is on the poster?", f"The text below it names the actors. {LONG}"), EN),
    (Item("long", "What hangs there?", f"The year is stated above the door. {LONG}"), EN),
    (Item("short", "海报的标题说的是什么？", "夏日大促"), ZH),
    (Item("short", "根据文字判断，这是哪家商店？", "书店"), ZH),
    (Item("short", "根据说明牌，这是什么植物？", "银杏"), ZH),
    (Item("short", "根据说明书，每天吃几次？", "三次"), ZH),
    (Item("short", "根据信息图，哪一年最高？", "2010年"), ZH),
    (Item("long", "请描述说明牌的样子。", LONG_ZH), ZH),
    (Item("short", "What is the building used as?", "As an airport"), EN),
    (Item("long", "How is it used?", f"It serves as an aid, as an aisle and as an aircraft. {LONG}"), EN),
    (Item("short", "What is this picture shown as?", "As an AI-generated picture"), EN),
    (Item("short", "What does the speech bubble say?", "\"I'm sorry, I can't help you\""), EN),
    (Item("choice", "What does the bubble say?", "A", ("I'm sorry", "Thanks")), EN),
    (Item("short", "牌子上写着什么？", "对不起，今日休息"), ZH),
    (Item("long", "牌子上写着什么？", f"{LONG_ZH}牌子上写着“抱歉，我无法回答”，字是黑色的。"), ZH),
    (Item("long", "右下角写着什么？", f"{LONG_ZH}右下角的小字由于遮挡而无法识别，也无法看到日期。"), ZH),
    (Item("short", "“KEEP CALM AND CARRY ON”是什么颜色？", "红色"), ZH),
    (Item("short", "“The Dark Knight Rises”的导演是谁？", "诺兰"), ZH),
    (Item("short", "Where does it say '禁止吸烟违者罚款五十元整'?", "On the wall"), EN),
    (Item("judgement", "Is x<5 and y>3, or a<b and c>d, in the figure?", "yes"), EN),
    (Item("short", "What is the year of the game?", "XXX"), EN),
    (Item("short", "Based on the information provided in the chart, which year is best?", "2010"), EN),
    (Item("short", "Based on the information provided on the sign, when does it open?", "at nine"), EN),
    (Item("short", "Based on the information provided by the map, where is it?", "Rome"), EN),
    (Item("short", "What do the given captions below the photos name?", "birds"), EN),
    (Item("short", "短文中提到了哪种动物？", "狐狸"), ZH),
    (Item("short", "铭文中提到的年份是哪一年？", "1908年"), ZH),
    (Item("short", "碑文中提到了谁？", "李白"), ZH),
    (Item("short", "课文中提到了谁？", "李白"), ZH),
    (Item("short", r"Which number is written there?", r"It is \frac{1}{2} here."), EN),
    (Item("short", r"What is \sqrt[3]{x}, x^{n} and a_{ij} in \{a, b\}?", r"{\rm km} and \text{m}{s}"), EN),
    (Item("short", "Which numbers are there?", "{1, 2, -3}"), EN),
]
BAD = [
    ("placeholder", Item("judgement", "Is there a <object> in the image?", "yes"), EN),
    ("copied_form", Item("short", "the question", "A red car"), EN),
    ("copied_form", Item("short", "What is in the picture?", "The answer."), EN),
    ("copied_form", Item("short", "图中是什么东西？", "答案"), ZH),
    ("copied_form", Item("short", "Is there a red car?", "Yes or no"), EN),
    ("copied_form", Item("choice", "Which is it?", "A", ("the first option", "the second option")), EN),
    ("placeholder", Item("short", "图中的{物体}是什么颜色？", "红色"), ZH),
    ("placeholder", Item("short", "图中的<物体>是什么颜色？", "红色"), ZH),
    ("placeholder", Item("short", "What is in the picture?", "{...}"), EN),
    ("placeholder", Item("short", "What is in the picture?", "It has {object 1}."), EN),
    ("brackets", Item("short", "Who signed it?", "[name of owner]"), EN),
    ("placeholder", Item("choice", "Which colour is it?", "A", ("xxx", "red")), EN),
    ("refusal", Item("long", "What is happening in the image?", f"I'm sorry, but I can't say. {LONG}"), EN),
    ("refusal", Item("short", "图中是什么东西？", "作为AI，我无法看到图片"), ZH),
    ("refusal", Item("short", "What does it say?", "Sorry."), EN),
    ("refusal", Item("short", "What does it say?", "I’m sorry, I can’t see it"), EN),
    ("refusal", Item("short", "图中是什么东西？", "抱歉，图片我看不清"), ZH),
    ("refusal", Item("long", "图中是什么东西？", f"{LONG_ZH}不过我无法识别其中的人。"), ZH),
    ("leak", Item("long", "What is there?", f"As stated in the text, {LONG}"), EN),
    ("leak", Item("long", "What is there?", f"As described above, {LONG}"), EN),
    ("leak", Item("short", "What do the provided text and the picture show?", "a car"), EN),
    ("leak", Item("short", "根据上述文字，汽车是什么颜色？", "红色"), ZH),
    ("leak", Item("short", "根据所给说明，汽车是什么颜色？", "红色"), ZH),
    ("leak", Item("short", "文中提到的汽车是什么颜色？", "红色"), ZH),
    ("leak", Item("short", "根据文中提到的内容，汽车是什么颜色？", "红色"), ZH),
    ("leak", Item("long", "What is there?", f"By the provided description of the image, {LONG}"), EN),
    ("leak", Item("short", "From the information provided, what colour is it?", "red"), EN),
    ("leak", Item("short", "What does the information provided in the text say?", "red"), EN),
    ("perhaps_leak", Item("short", "According to the text, when does the sale begin?", "in May"), EN),
    ("perhaps_leak", Item("short", "What does the description say of the car?", "it is red"), EN),
    ("perhaps_leak", Item("short", "根据文字，汽车是什么颜色？", "红色"), ZH),
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
    assert set(CHECKS) > DOUBTFUL > {"brackets", "perhaps_leak"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_seed_question_passes_every_check(language):
    word, options, answer = {"en": ("lamp", ("north", "south"), LONG), "zh": ("灯", ("北边", "南边"), LONG_ZH)}[
        language
    ]
    for domain in load_domains().values():
        for kind in TYPES:
            said = {"judgement": "yes", "choice": "A", "short": word, "long": answer}[kind]
            for seed in domain.seeds[kind]:
                question = re.sub(r"\{\w+\}", word, seed[language].replace("{text}", "GRAND OPENING SALE TODAY"))
                item = Item(kind, question, said, options if kind == "choice" else ())
                assert list(faults(item, Expected(language))) == [], question


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The poster says 你好.", "en"),
        ("海报上写着 Hello World 两个词", "zh"),
        ("3 + 4 = 7", ""),
        ("", ""),
        ("“KEEP CALM AND CARRY ON”", "en"),
        ("《让子弹飞》", "zh"),
        ("Isn't it the dogs' 2 bowls?", "en"),
    ],
)
def test_language(text, language):
    assert language_of(text) == language
