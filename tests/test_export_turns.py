"""An item becomes the turns of a conversation, whose questions ask for the form of their answers."""

import collections
import dataclasses
import json

import pytest

from mmfuser_jax.data import labels
from mmfuser_jax.data.records import Turn
from mmfuser_jax.mminstruct.export.suffixes import load_suffixes
from mmfuser_jax.mminstruct.export.turns import TurnsError, conversation
from mmfuser_jax.mminstruct.questions.items import LANGUAGES, TYPES, Item, as_body
from tests.exports import WORDS, row_of


def test_turns_of_every_type():
    choice = Item("choice", "Which?", "B", ("one", "two"))
    (human, gpt) = conversation(row_of("a", "s", "ocr", "choice", "en", [choice]), as_body([choice]))
    lines = human.text.split("\n")
    assert lines[:4] == ["<image>", "Which?", "A. one", "B. two"]
    assert lines[4] in load_suffixes()["choice"]["en"]
    assert gpt == Turn("gpt", "B")
    for language, answer, expected in (
        ("en", "no", "No"),
        ("zh", "no", "否"),
        ("zh", "是", "是"),
        ("en", "Yes.", "Yes"),
    ):
        judged = Item("judgement", "有吗？", answer)
        assert (
            conversation(row_of("a", "s", "ocr", "judgement", language, [judged]), as_body([judged]))[1].text
            == expected
        )


def test_within_several_rounds_a_long_answer_is_not_asked_for():
    exchanges = [
        Item("long", "Why?", "Because of this."),
        Item("short", "How many?", "two"),
        Item("long", "So?", "It is."),
    ]
    turns = conversation(row_of("a", "s", "ocr", "conversation", "en", exchanges), as_body(exchanges))
    assert [turn.role for turn in turns] == ["human", "gpt"] * 3
    assert turns[0].text == "<image>\nWhy?"
    assert turns[2].text.startswith("How many? ")
    assert turns[4].text == "So?"


@pytest.mark.parametrize(
    ("reason", "kind", "body"),
    [
        ("image_marker", "short", as_body([Item("short", "Where is the <image> here?", "left")])),
        ("image_marker", "long", as_body([Item("long", "What?", "An <image>.")])),
        ("empty_text", "short", as_body([Item("short", "What?", " \n")])),
        ("not_unicode", "short", json.dumps([dataclasses.asdict(Item("short", "What?", "\ud83d"))])),
        ("few_options", "choice", as_body([Item("choice", "Which?", "A", ("one",))])),
        ("many_options", "choice", as_body([Item("choice", "Which?", "A", tuple("abcdefghi"))])),
        ("answer_is_no_option", "choice", as_body([Item("choice", "Which?", "C", ("one", "two"))])),
        ("answer_is_no_option", "choice", as_body([Item("choice", "Which?", "AB", ("one", "two"))])),
        ("not_yes_or_no", "judgement", as_body([Item("judgement", "Is it?", "perhaps")])),
        ("bad_body", "short", "not JSON"),
        ("bad_body", "short", "[]"),
        ("bad_body", "short", '{"type": "short"}'),
        ("bad_body", "short", '[{"type": "short", "question": 3, "answer": "a", "options": []}]'),
        ("bad_body", "short", as_body([Item("long", "What?", "It is.")])),
        ("bad_body", "short", as_body([Item("short", "What?", "It", ("a", "b"))])),
        ("bad_body", "conversation", as_body([Item("riddle", "What?", "It"), Item("long", "What?", "It is.")])),
    ],
)  # fmt: skip
def test_an_item_that_would_break_a_row_is_refused_with_its_reason(reason, kind, body):
    with pytest.raises(TurnsError) as caught:
        conversation(
            dataclasses.replace(row_of("a", "s", "ocr", kind, "en", [Item("short", "What?", "it")]), body=body), body
        )
    assert caught.value.reason == reason


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", TYPES)
def test_every_suffix_alone_says_what_type_is_wanted(kind, language):
    wordings = load_suffixes()[kind][language]
    assert len(wordings) == len(set(wordings)) == 8
    for wording in wordings:
        gap = "" if language == "zh" else " "
        for answer in ("It.", "word " * 30):  # which alone would say short, and long
            question = f"{WORDS[language]}{gap}{wording}"
            assert labels.exchange_type(question, answer, single=True) == kind, wording
            assert labels.detect([], [Turn("human", question), Turn("gpt", "")])["language"] == language
    assert set(load_suffixes()) == set(TYPES)


def test_a_name_has_the_same_suffix_always_and_names_differ():
    asked = Item("short", "What?", "it")
    texts = [
        conversation(row_of(f"i{x}", "s", "ocr", "short", "en", [asked]), as_body([asked]))[0].text for x in range(400)
    ]
    again = [
        conversation(row_of(f"i{x}", "s", "ocr", "short", "en", [asked]), as_body([asked]))[0].text for x in range(400)
    ]
    assert texts == again
    counts = collections.Counter(texts)
    assert len(counts) == 8
    assert min(counts.values()) > 25
