"""What people may change in an item, and what is said of the rest."""

import pytest

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions.items import Item, from_body, plain
from mmfuser_jax.mminstruct.review.edits import EditError, edited, places
from tests.review_project import CHOICE, JUDGEMENT, LONG, SHORT, changed, fields, item, project_of, say


def edit(tmp_path, row, *exchanges, others=(), verdicts=(), benchmark=frozenset()):
    project = project_of(tmp_path, [row, *others])
    with Ledger(project.ledger) as ledger:
        for given in verdicts:
            say(ledger, *given)
        return from_body(edited(ledger, row, list(exchanges), benchmark))


def test_an_edit_keeps_what_was_written_and_drops_blanks(tmp_path):
    (kept,) = edit(
        tmp_path,
        item("x"),
        fields(CHOICE, question=" How many\nlines? ", options=["“One”", " ", " A. Two "], answer="B"),
    )
    assert kept == Item("choice", "How many\nlines?", "B", ("“One”", "A. Two"))


@pytest.mark.parametrize(
    ("one", "changes", "match"),
    [
        (CHOICE, {"question": " "}, "an answer without a question"),
        (CHOICE, {"answer": "E"}, "the answer is none of the options"),
        (CHOICE, {"answer": "AB"}, "the answer is none of the options"),
        (CHOICE, {"answer": ""}, "a question without an answer"),
        (CHOICE, {"options": ["Red"]}, "fewer than two options"),
        (CHOICE, {"options": ["Red", "Red."], "answer": "A"}, "two options are the same"),
        (CHOICE, {"options": list("abcdefghi")}, "more options than letters"),
        (JUDGEMENT, {"answer": "maybe"}, "neither yes nor no"),
        (LONG, {"answer": "According to the description above, it is a chess tournament in the town hall of May."}, "description"),
        (LONG, {"question": "这张海报宣传的是什么活动？"}, "another language"),
        (SHORT, {"question": "What does <object> say?"}, "placeholder"),
        (SHORT, {"question": JUDGEMENT.question}, "the picture has this question already"),
        (SHORT, {"place": 1}, "at least one of the 1 exchanges"),
        (SHORT, {"more": "x"}, "more: Extra inputs are not permitted"),
        (SHORT, {"question": 7}, "question: Input should be a valid string"),
        (SHORT, {"question": "x" * 20_001}, "at most 20000"),
    ],
)  # fmt: skip
def test_an_edit_that_breaks_a_rule_is_refused_in_words(tmp_path, one, changes, match):
    with pytest.raises(EditError, match=match):
        edit(tmp_path, item("x", one), fields(one, **changes), others=[item("y", JUDGEMENT)])


def test_a_fault_that_the_item_had_is_no_reason_to_refuse_an_edit(tmp_path):
    odd = Item("short", "What does <object> say?", "12 May")
    (kept,) = edit(tmp_path, item("x", odd), fields(odd, answer="13 May"))
    assert kept.answer == "13 May"


def test_rounds_of_a_conversation_may_be_left_out_but_not_all_and_not_moved(tmp_path):
    row = item("x", LONG, SHORT, JUDGEMENT)
    kept = edit(tmp_path, row, fields(LONG), fields(JUDGEMENT, 2, answer="no"))
    assert [(one.type, one.answer) for one in kept] == [("long", LONG.answer), ("judgement", "no")]
    for number, wrong in enumerate(([], [fields(SHORT, 1), fields(LONG, 0)], [fields(LONG), fields(LONG)])):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(EditError, match="at least one of the 3"):
            edit(tmp_path / str(number), row, *wrong)


ASKED = "Which month is printed on the poster?"


def test_edits_are_checked_against_what_others_were_edited_to(tmp_path):
    other = item("y", JUDGEMENT)
    verdict = ("y", "bob", "edit", "", changed(JUDGEMENT, question=ASKED))
    with pytest.raises(EditError, match="the picture has this question already"):
        edit(tmp_path, item("x", SHORT), fields(SHORT, question=ASKED), others=[other], verdicts=[verdict])


@pytest.mark.parametrize(
    "verdict", [("y", "bob", "edit", "", changed(JUDGEMENT, question=ASKED)), ("y", "bob", "reject", "unclear")]
)
def test_a_question_that_was_edited_away_or_rejected_is_free(tmp_path, verdict):
    (kept,) = edit(
        tmp_path, item("x", SHORT), fields(SHORT, question=JUDGEMENT.question),
        others=[item("y", JUDGEMENT), item("z", state="refused", reason="leak")], verdicts=[verdict],
    )  # fmt: skip
    assert kept.question == JUDGEMENT.question


@pytest.mark.parametrize("place", [0, 2])
def test_two_rounds_of_a_conversation_cannot_ask_the_same(tmp_path, place):
    rounds = [fields(one, at) for at, one in enumerate((LONG, SHORT, JUDGEMENT))]
    rounds[place]["question"] = SHORT.question
    with pytest.raises(EditError, match=f"round {max(2, place + 1)}: the picture has this question already"):
        edit(tmp_path, item("x", LONG, SHORT, JUDGEMENT), *rounds)


def test_no_edit_asks_what_a_benchmark_asks(tmp_path):
    with pytest.raises(EditError, match="benchmark"):
        edit(tmp_path, item("x", SHORT), fields(SHORT, question=ASKED), benchmark={plain(ASKED)})


def test_rounds_of_an_edit_have_the_places_of_their_own_types_with_the_least_changes():
    new_choice = Item("choice", "What is round?", "A", ("The sun", "The frame"))
    assert places([CHOICE, LONG, SHORT], [new_choice, LONG]) == [0, 1]
    assert places([SHORT, LONG, SHORT], [SHORT]) == [0]
    other = Item("short", "What does the ticket cost?", "5 dollars")
    assert places([SHORT, other, LONG, other], [other, LONG]) == [1, 2]
    assert places([SHORT, other], [Item("short", other.question, "6 dollars")]) == [1]
    assert places([CHOICE, new_choice], [Item("choice", "?", "B", new_choice.options)]) == [1]
    assert places([LONG, SHORT], [SHORT, LONG]) is None
    assert places([LONG], [LONG, LONG]) is None
