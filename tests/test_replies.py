"""Replies of models, as carelessly as they are written, become items or named rejections: nothing is dropped."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfuser_jax.mminstruct.questions.items import TYPES, Item, plain
from mmfuser_jax.mminstruct.questions.refusals import declines
from mmfuser_jax.mminstruct.questions.replies import read_reply
from mmfuser_jax.mminstruct.reasons import REPLIES as REASONS

COLOURS = ("red", "green", "blue", "pink")


def one(text, kind, **options):
    """The only thing that a reply holds."""
    reply = read_reply(text, kind, **options)
    (found,) = (*reply.items, *reply.rejected)
    return found


def test_the_reference_s_own_format():
    text = (
        "<Q1>Which colour is the car?</Q1> <C1>A. red B. green C. blue D. pink</C1> <A1>B</A1>\n"
        "<Q2>Which colour is the sky?</Q2> <C2>A. red\nB. green\nC. blue\nD. pink</C2> <A2>C. blue</A2>"
    )
    reply = read_reply(text, "choice")
    assert reply.items == (
        Item("choice", "Which colour is the car?", "B", COLOURS),
        Item("choice", "Which colour is the sky?", "C", COLOURS),
    )
    assert not reply.rejected
    assert reply.items[1].answer_text == "blue"


@pytest.mark.parametrize(
    "text",
    [
        "<Q1>What is it?<A1>A car.",  # no closing tags
        "<q1>What is it?</q1><a1>A car.</a1>",
        "<A1>A car.</A1>\n<Q1>What is it?</Q1>",  # out of order
        "Here you are:\n<Q1> What is it? </Q1>\n\n<A1>\nA car.\n</A1>\nAnything else?",
        "＜Q1＞What is it?＜/Q1＞＜A1＞A car.＜/A1＞",
        "< Q 1 >What is it?</ Q1 >< A1 >A car.</A1>",
        "<Q>What is it?</Q><A>A car.</A>",
        '{"items": [{"question": "What is it?", "answer": "A car."}]}',
        '[{"question": "What is it?", "answer": "A car."}]',
        'Sure!\n```json\n{"question": "What is it?", "answer": "A car."}\n```',
    ],
)
def test_one_item_however_it_is_written(text):
    assert one(text, "short") == Item("short", "What is it?", "A car.")


@pytest.mark.parametrize(
    ("text", "opening", "refused"),
    [
        ("门上的牌子写着“抱歉，我今日停业”。", 60, False),
        ("The sign says \"I'm sorry, I can't see\". It hangs on a door.", 60, False),
        ("A sign. I cannot see more.", 10, False),
        ("A sign. I cannot see more.", None, True),
        ("I’m sorry, but I can’t view the picture.", 60, True),
        ("对不起，我看不到图片。", 60, True),
    ],
)
def test_words_of_the_picture_are_no_refusal(text, opening, refused):
    assert declines(text, opening) == refused


def test_words_around_the_items_are_kept():
    assert read_reply("Here you are:\n<Q1>What?</Q1><A1>Car</A1>\nMore?", "short").rest == "Here you are:\nMore?"


@pytest.mark.parametrize(
    "answer",
    [
        "Yes", "yes.", "是。", "对", "{是}", "True", "Yes, it is there.", "是的，有一辆车", "**Yes**", "Yes it is", "Y", "Correct.",
        "有。", "能", "会", "可以", "存在", "答案：是", "答案为：是的", "正确答案是：对", "Answer: Yes", "The answer is yes.",
        "**Answer:** Yes", "选是", "应选：对",
    ],
)  # fmt: skip
def test_yes(answer):
    assert one(f'<Q1>Is it red?</Q1><C1>{{"是","否"}}</C1><A1>{answer}</A1>', "judgement").answer == "yes"


@pytest.mark.parametrize(
    "answer",
    [
        "No", "no!", "否", "不是。", "错误", "False", "No. There is none.", "不对，没有", "No there is none", "N", "没有", "不能", "不会。",
        "不可以", "不存在", "答案：否", "答案是否", "答案是不是", "The correct answer is: no", "`No`",
    ],
)  # fmt: skip
def test_no(answer):
    assert one(f"<Q1>Is it red?</Q1><A1>{answer}</A1>", "judgement").answer == "no"


@pytest.mark.parametrize(
    "answer",
    [
        "No information is given", "No idea", "Not sure", "Right side", "Wrong lane", "Correct spelling", "Yes or No",
        "yes and no", "是或否", "Yes/No", "有一辆车", "会议室", "不知道",
    ],
)  # fmt: skip
def test_neither_yes_nor_no(answer):
    assert one(f"<Q1>Is it red?</Q1><A1>{answer}</A1>", "judgement").reason == "not_yes_or_no"


@pytest.mark.parametrize(
    "text",
    [
        "**<Q1>**What is it?**</Q1>** **<A1>**Red**</A1>**",
        "<Q1>**What is it?**</Q1><A1>**Red**</A1>",
        "`<Q1>``What is it?``</Q1>` <A1>`Red`</A1>",
        "<Q1>_What is it?_</Q1><A1>__Red__</A1>",
    ],
)
def test_signs_of_emphasis_are_no_words(text):
    assert one(text, "short") == Item("short", "What is it?", "Red")
    letter = text.replace("Red", "B").replace("<A1>", "<C1>**A. blue**\n**B. red**</C1><A1>")
    assert one(letter, "choice") == Item("choice", "What is it?", "B", ("blue", "red"))


def test_a_blank_to_be_filled_in_is_no_emphasis():
    assert one("<Q1>____ is the colour of ____</Q1><A1>Red</A1>", "short").question == "____ is the colour of ____"


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("", "short", "empty"),
        (" \n", "short", "empty"),
        ("error", "short", "error_text"),
        ("Error: 429 Too Many Requests", "short", "error_text"),
        ("I'm sorry, I cannot assist with that.", "short", "refusal"),
        ("作为AI，我无法看到图片。", "long", "refusal"),
        ("很抱歉，我无法查看这张图片。", "long", "refusal"),
        ("As an AI language model, I see nothing.", "long", "refusal"),
        ("It is used as an airport, as an aid and as an aisle.", "long", "no_items"),
        ("What a nice picture.", "long", "no_items"),
        ("<Q1>What?</Q1>", "short", "no_answer"),
        ("<Q1>What?</Q1><A1></A1>", "short", "no_answer"),
        ("<A1>A car</A1>", "short", "no_question"),
        ("<Q1>Is it?</Q1><A1>Perhaps</A1>", "judgement", "not_yes_or_no"),
        ("<Q1>Which?</Q1><A1>A</A1>", "choice", "few_options"),
        ("<Q1>Which?</Q1><C1>A. red</C1><A1>A</A1>", "choice", "few_options"),
        ("<Q1>Which?</Q1><C1>" + "\n".join(f"no {x}" for x in range(10)) + "</C1><A1>A</A1>", "choice", "many_options"),
        ("<Q1>Which?</Q1><C1>A. red B. red.</C1><A1>A</A1>", "choice", "same_options"),
    ],
)
def test_what_is_no_item_says_why(text, kind, reason):
    found = one(text, kind)
    assert found.reason == reason
    assert reason in REASONS


def test_a_reply_that_was_cut_off_loses_only_its_last_item():
    text = "<Q1>What?</Q1><A1>A car</A1><Q2>Where?</Q2><A2>In a str"
    reply = read_reply(text, "short", whole=False)
    assert [item.question for item in reply.items] == ["What?"]
    assert [(found.reason, found.text) for found in reply.rejected] == [("truncated", "Where?\nIn a str")]
    assert len(read_reply(text, "short").items) == 2
    assert len(read_reply(text + "eet</A2>", "short", whole=False).items) == 2
    half = '{"items": [{"question": "What?", "answer": "A car"}, {"question": "Whe'
    cut = read_reply(half, "short", whole=False)
    assert cut.items == (Item("short", "What?", "A car"),)
    assert [(found.reason, found.text) for found in cut.rejected] == [("truncated", '{"question": "Whe')]


def test_the_same_number_twice_is_two_items():
    reply = read_reply("<Q1>What?</Q1><A1>A car</A1><Q1>Where?</Q1><A1>Here</A1>", "short")
    assert [item.answer for item in reply.items] == ["A car", "Here"]


def test_plain_texts():
    assert plain("Ａ． The red  one!") == "a the red one"
    assert plain("It is 5. Red, blue.") == "it is 5 red blue"


@pytest.mark.parametrize(
    "signs", ["<>=≠≤≥", "+-×÷/", "$€£¥", ["1.5", "1,5", "15", "1 5"], ["5", "−5", "5°", "5%", "√5"]]
)
def test_questions_that_differ_in_a_sum_are_not_the_same(signs):
    assert len({plain(f"Is x {sign} 7?") for sign in signs}) == len(signs)


BASE = (
    "<Q1>Which colour?</Q1> <C1>A. red B. green C. blue D. pink</C1> <A1>B</A1>\n"
    "<Q2>红色吗？</Q2> <C2>{“是”，“否”}</C2> <A2>是。</A2>\n"
    '{"items": [{"question": "What?", "options": ["a", "b"], "answer": "A"}]}'
)
PIECES = [
    "<Q1>",
    "</Q1>",
    "<C2>",
    "<A1>",
    "</A9>",
    "{",
    "}",
    "[",
    '"',
    "A.",
    "B、",
    "是",
    "error",
    "\x00",
    "＜Q3＞",
    "答案是",
    "\n",
]


def damaged(rng):
    """The base with some pieces cut out, doubled, moved or put in."""
    text = BASE
    for _ in range(rng.randrange(1, 12)):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + 30)
        part = rng.choice(["", text[at:end] * 2, rng.choice(PIECES), text[at:end][::-1]])
        text = text[:at] + part + text[end:]
    return text


def assert_accounted_for(text, kind, whole):
    reply = read_reply(text, kind, whole=whole)
    assert reply.items or reply.rejected
    assert all(found.reason in REASONS for found in reply.rejected)
    for item in reply.items:
        assert item.question.strip()
        assert item.answer.strip()
        assert (len(item.options) >= 2) == (kind == "choice")
        assert item.answer_text
        assert kind != "judgement" or item.answer in ("yes", "no")


def test_ten_thousand_damaged_replies_are_accounted_for():
    rng, rejected = random.Random(0), 0
    for _ in range(10_000):
        text, kind = damaged(rng), rng.choice(TYPES)
        assert_accounted_for(text, kind, rng.random() < 0.5)
        rejected += bool(read_reply(text, kind).rejected)
    assert 1_000 < rejected < 10_000, "some are whole and some are not"


@settings(max_examples=300, deadline=None)
@given(st.text(), st.sampled_from(TYPES), st.booleans())
def test_any_text_is_accounted_for(text, kind, whole):
    assert_accounted_for(text, kind, whole)


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["question", "options", "answer", "x"]), inner)
        ),
        max_leaves=12,
    ),
    st.sampled_from(TYPES),
)
def test_any_json_is_accounted_for(value, kind):
    assert_accounted_for(json.dumps(value), kind, True)
