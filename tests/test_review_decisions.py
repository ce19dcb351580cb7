"""What verdicts on an item come to, and how far the people who gave them agree."""

import pytest

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.review.agreement import agreements, agreements_of, cohens_kappa
from mmfuser_jax.mminstruct.review.decisions import CONFLICTS, Decision, decision, decisions, standing
from mmfuser_jax.mminstruct.schema import Verdict
from tests.review_project import CHOICE, changed, item, many, project_of, say


def decided(*verdicts, row=None):
    """What (reviewer, verdict, reason or body, final) come to."""
    rows = []
    for given in verdicts:
        who, what, more, final = (*given, *("", 0)[len(given) - 2 :])
        rows.append(
            Verdict("x", who, what, more if what == "reject" else "", more if what == "edit" else "", final, 2.0)
        )
    return decision(row or item("x"), rows)


def test_what_verdicts_come_to():
    made = item("x").body
    reworded = changed(CHOICE, question="Which colour has the frame?")
    assert decided() == Decision("open", made)
    assert decided(("anna", "accept")) == Decision("accepted", made, reviewers=("anna",), seconds=2.0)
    assert decided(("anna", "reject", "unclear")) == Decision("rejected", made, False, "unclear", ("anna",), 2.0)
    assert decided(("anna", "edit", reworded)) == Decision("accepted", reworded, True, "", ("anna",), 2.0)
    both = decided(("anna", "accept"), ("bob", "edit", reworded))
    assert both == Decision("accepted", reworded, True, "", ("anna", "bob"), 4.0)


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        ([("anna", "accept"), ("bob", "reject", "unclear")], "accept_and_reject"),
        ([("anna", "edit", changed(CHOICE, question="Which?")), ("bob", "reject", "unclear")], "accept_and_reject"),
        ([("anna", "edit", changed(CHOICE, question="1?")), ("bob", "edit", changed(CHOICE, question="2?"))], "different_edits"),
        ([("anna", "accept"), ("bob", "edit", changed(CHOICE, answer="A"))], "different_answers"),
        ([("anna", "accept"), ("bob", "edit", changed(CHOICE, question="Which colour?"))], ""),
        ([("anna", "reject", "unclear"), ("bob", "reject", "other")], ""),
        ([("anna", "edit", changed(CHOICE, question="1?")), ("bob", "edit", changed(CHOICE, question="1?"))], ""),
    ],
)  # fmt: skip
def test_where_people_disagree(verdicts, reason):
    found = decided(*verdicts)
    assert found.reason == reason if reason else found.state in ("accepted", "rejected")
    assert (found.state == "conflict") == bool(reason)
    assert {"accept_and_reject", "different_edits", "different_answers"} == set(CONFLICTS)
    assert found.body == item("x").body or not reason


def test_one_last_word_settles_a_conflict_until_it_is_taken_back():
    conflict = [("anna", "accept"), ("bob", "reject", "unclear")]
    settled = decided(*conflict, ("anna", "reject", "wrong_answer", 1))
    assert (settled.state, settled.reason, settled.reviewers) == ("rejected", "wrong_answer", ("bob", "anna"))
    body = changed(CHOICE, answer="C")
    assert decided(*conflict, ("carla", "edit", body, 1)).body == body
    assert decided(*conflict, ("carla", "accept", "", 1), ("carla", "undone")).state == "conflict"
    both = decided(*conflict, ("carla", "accept", "", 1), ("dora", "reject", "other", 1))
    assert (both.state, both.reason) == ("rejected", "other")


def test_an_only_verdict_counts_whatever_it_is():
    made = item("x").body
    assert decided(("anna", "accept", "", 1)) == Decision(
        "accepted", made, reviewers=("anna",), seconds=2.0, settled=True
    )
    assert decided(("anna", "undone")) == Decision("open", made, seconds=2.0)
    assert standing([Verdict("x", "anna", "accept", final=1)], independent=True) == []


def test_undoing_brings_the_verdict_before_it_back():
    assert decided(("anna", "accept"), ("anna", "undone")) == Decision("open", item("x").body, seconds=4.0)
    found = decided(("anna", "accept"), ("anna", "reject", "unclear"), ("anna", "undone"))
    assert (found.state, found.seconds) == ("accepted", 6.0)
    assert decided(("anna", "accept"), ("anna", "accept"), ("anna", "undone"), ("anna", "undone")).state == "open"
    assert decided(("anna", "undone"), ("anna", "accept")).state == "accepted"


def test_decisions_come_in_the_order_of_pictures_and_leave_out_what_is_refused(tmp_path):
    rows = [
        item("c", image="1"),
        item("b", image="2"),
        item("a", image="2"),
        item("d", image="1", state="refused", reason="leak"),
    ]
    project = project_of(tmp_path, rows)
    with Ledger(project.ledger) as ledger:
        say(ledger, "a", "anna", "reject", "other", seconds=3.5)
        found = [(row.id, made.state, made.seconds) for row, made in decisions(ledger)]
    assert found == [("c", "open", 0.0), ("a", "rejected", 3.5), ("b", "open", 0.0)]


def test_kappa_is_what_is_computed_by_hand():
    """45 items: both take 20, both reject 10, anna alone takes 9, bob alone takes 6.

    They agree on 30 of 45 = 2/3. Anna takes 29, bob 26: chance gives (29 * 26 + 16 * 19) / 45² = 1058 / 2025.
    Kappa = (2/3 - 1058/2025) / (1 - 1058/2025) = 292 / 967.
    """
    pairs = [(True, True)] * 20 + [(False, False)] * 10 + [(True, False)] * 9 + [(False, True)] * 6
    assert cohens_kappa(pairs) == pytest.approx(292 / 967)
    assert cohens_kappa([(True, True), (False, False)]) == 1.0
    assert cohens_kappa([(True, False), (False, True)]) == -1.0
    assert cohens_kappa([(True, True), (True, False)]) == 0.0


def test_kappa_is_undefined_where_all_is_the_same_or_nothing_there():
    assert cohens_kappa([]) is None
    assert cohens_kappa([(True, True)] * 7) is None
    (one,) = agreements([{"anna": True, "bob": True}])
    assert "undefined" in str(one)
    assert "1 of 1" in str(one)


def test_agreement_leaves_out_the_words_that_settle_conflicts_and_what_was_taken_back(tmp_path):
    project = project_of(tmp_path, many(4))
    with Ledger(project.ledger) as ledger:
        for name, bob in (("00000", "accept"), ("00001", "reject"), ("00002", "reject")):
            say(ledger, name, "anna", "edit" if name == "00000" else "accept", body=changed(CHOICE, question="Which?"))
            say(ledger, name, "bob", bob)
        say(ledger, "00001", "bob", "accept", final=1)
        say(ledger, "00002", "anna", "reject")
        say(ledger, "00003", "anna", "accept")
        say(ledger, "00003", "bob", "accept")
        say(ledger, "00003", "bob", "undone")
        (one,) = agreements_of(ledger)
    assert (one.first, one.second, one.both, one.same) == ("anna", "bob", 3, 2)
    assert one.kappa == pytest.approx(2 / 5)  # (2/3 - 4/9) / (1 - 4/9)
