"""Which items people are to look at, and who gets which of them next."""

import contextlib
import random

import pytest

from mmfuser_jax.mminstruct.config import Review
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.review.decisions import decisions, verdicts_of
from mmfuser_jax.mminstruct.review.queue import LEASE, Queue, QueueError
from mmfuser_jax.mminstruct.review.sampling import draw, plan
from mmfuser_jax.mminstruct.schema import Verdict
from tests.review_project import LONG, SHORT, item, many, project_of


def planned(tmp_path, rows, **review):
    project = project_of(tmp_path, rows, **review)
    with Ledger(project.ledger) as ledger:
        return plan(ledger, project.config.review)


def test_all_doubtful_items_come_first_and_a_share_of_the_good_ones(tmp_path):
    doubtful = [item(f"doubt {x}", state="doubtful", reason="length", image=f"{x:03d}") for x in range(30)]
    refused = [item("no", state="refused", reason="leak")]
    found = planned(tmp_path, many(1000) + doubtful + refused, share=0.2)
    assert {one.id for one in found[:30]} == {row.id for row in doubtful}
    assert {one.doubt for one in found[:30]} == {"length"}
    good = [one.id for one in found[30:]]
    assert 160 < len(good) < 240
    assert good == [
        row.id for row in sorted(many(1000), key=lambda row: (row.image, row.id)) if draw("look", row.id) < 0.2
    ]
    assert "no" not in good


def test_every_domain_type_and_language_has_its_least_number(tmp_path):
    few = [item(f"zh {x}", language="zh") for x in range(40)] + [item(f"short {x}", SHORT) for x in range(3)]
    found = planned(tmp_path, many(300) + few, share=0.0, least=5)
    counts = {}
    for one in found:
        counts[one.type, one.language] = counts.get((one.type, one.language), 0) + 1
    assert counts == {("choice", "en"): 5, ("choice", "zh"): 5, ("short", "en"): 3}


def test_new_items_move_no_others_into_or_out_of_the_share(tmp_path):
    (tmp_path / "more").mkdir()
    before = planned(tmp_path, many(500), share=0.3, twice=0.5)
    after = planned(tmp_path / "more", many(900), share=0.3, twice=0.5)
    assert [one for one in after if one.id < "00500"] == before
    assert 0.4 < sum(one.people == 2 for one in after) / len(after) < 0.6


@contextlib.contextmanager
def queue_of(tmp_path, rows, clock=lambda: 0.0, **review):
    project = project_of(tmp_path, rows, **review)
    with Ledger(project.ledger) as ledger:
        yield Queue(ledger, project.config.review, clock), ledger


def accept(name, who, seconds=1.0):
    return Verdict(name, who, "accept", seconds=seconds)


def test_two_people_never_have_the_same_item(tmp_path):
    with queue_of(tmp_path, many(60)) as (waiting, ledger):
        seen = {"anna": [], "bob": [], "carla": []}
        has = {}
        chance = random.Random(0)
        while True:
            who = chance.choice(list(seen))
            name = waiting.next(who, {})
            if name is None:
                break
            assert waiting.next(who, {}) == name  # asked again, as by a reload
            has[who] = name
            assert len(set(has.values())) == len(has)
            if chance.random() < 0.7:
                waiting.say(accept(name, who))
                seen[who].append(has.pop(who))
        for who in seen:
            while name := waiting.next(who, {}):
                waiting.say(accept(name, who))
                seen[who].append(name)
        everything = [name for names in seen.values() for name in names]
        assert sorted(everything) == [row.id for row in many(60)]
        assert {made.state for _, made in decisions(ledger)} == {"accepted"}
        assert waiting.progress("anna").done == 60


def test_some_items_go_to_two_people_and_not_to_a_third(tmp_path):
    with queue_of(tmp_path, many(10), twice=1.0) as (waiting, _):
        for who in ("anna", "bob", "carla"):
            while name := waiting.next(who, {}):
                waiting.say(accept(name, who))
        assert [waiting.progress(who).mine for who in ("anna", "bob", "carla")] == [10, 10, 0]
        (agreement,) = waiting.progress("anna").agreements
        assert (agreement.both, agreement.same, agreement.kappa) == (10, 10, None)


def test_an_item_that_nobody_comes_back_to_goes_to_others_after_a_while(tmp_path):
    now = [0.0]
    with queue_of(tmp_path, many(1), clock=lambda: now[0]) as (waiting, _):
        assert waiting.next("anna", {}) == "00000"
        now[0] = LEASE - 1
        assert waiting.next("bob", {}) is None
        now[0] = LEASE + 1
        assert waiting.next("bob", {}) == "00000"
        assert waiting.next("anna", {}) is None


def test_filters(tmp_path):
    rows = [*many(5), item("zh", language="zh"), item("long", LONG), item("odd", state="doubtful", reason="judge")]
    with queue_of(tmp_path, [*rows, item("sea", domain="landmark")]) as (waiting, _):
        assert waiting.next("anna", {"language": "zh"}) == "zh"
        assert waiting.next("anna", {"type": "long"}) == "long"
        assert waiting.next("bob", {"language": "zh"}) == "zh"  # given back, as it did not fit
        assert waiting.next("anna", {"doubt": "judge"}) == "odd"
        assert waiting.next("anna", {"domain": "landmark", "language": "zh"}) is None
        assert waiting.choices()["language"] == {"en": 8, "zh": 1}
        assert waiting.choices()["doubt"] == {"judge": 1}


def test_verdicts_are_taken_back_one_after_the_other_even_by_another_server(tmp_path):
    with queue_of(tmp_path, many(4)) as (waiting, ledger):
        for _ in range(3):
            waiting.say(accept(waiting.next("anna", {}), "anna", 6.0))
        waiting.say(accept(waiting.next("bob", {}), "bob"))
        assert waiting.progress("anna").seconds == 6.0
        order = [name for (name,) in ledger.query("SELECT item FROM verdicts WHERE reviewer = 'anna' ORDER BY number")]
        again = Queue(ledger, Review(share=1.0, least=0, twice=0.0))
        assert again.progress("anna") == waiting.progress("anna")
        assert [again.undo("anna") for _ in range(4)] == [*reversed(order), None]
        assert again.next("bob", {}) is None  # anna has them again
        assert again.next("anna", {}) in order
        assert (again.progress("anna").mine, again.progress("anna").done) == (0, 1)


def test_the_same_verdict_twice_is_written_once(tmp_path):
    with queue_of(tmp_path, many(1)) as (waiting, ledger):
        for seconds in (1.0, 2.0):
            waiting.say(accept("00000", "anna", seconds))
        assert len(verdicts_of(ledger, "00000")) == 1


def test_a_conflict_waits_for_one_last_word(tmp_path):
    with queue_of(tmp_path, many(3), twice=1.0) as (waiting, ledger):
        waiting.say(accept("00000", "anna"))
        with pytest.raises(QueueError, match="no conflict about item '00000'"):
            waiting.say(Verdict("00000", "carla", "accept", final=1))
        waiting.say(Verdict("00000", "bob", "reject", "unclear"))
        assert (waiting.progress("anna").conflicts, waiting.progress("anna").done) == (1, 1)
        assert waiting.next("carla", {}, conflicts=True) == "00000"
        assert waiting.next("dora", {}, conflicts=True) is None
        waiting.say(Verdict("00000", "carla", "reject", "other", final=1))
        assert waiting.next("dora", {}, conflicts=True) is None
        assert [made.state for row, made in decisions(ledger) if row.id == "00000"] == ["rejected"]
        assert waiting.undo("carla") == "00000"
        assert waiting.to_settle("00000")
        waiting.say(Verdict("00000", "anna", "reject", "other"))  # changes her mind
        assert not waiting.to_settle("00000")


def test_no_verdict_on_what_is_no_item(tmp_path):
    with queue_of(tmp_path, [*many(1), item("no", state="refused", reason="leak")]) as (waiting, _):
        for name in ("no", "nowhere"):
            with pytest.raises(QueueError, match=name):
                waiting.say(accept(name, "anna"))


def test_what_waits_for_a_second_person_is_counted(tmp_path):
    with queue_of(tmp_path, many(6), twice=1.0) as (waiting, ledger):
        for name in (row.id for row in many(5)):
            waiting.say(accept(name, "anna"))
        assert (waiting.progress("anna").done, waiting.progress("anna").waiting) == (0, 5)
        assert waiting.progress("bob").waiting == 0
        assert Queue(ledger, Review(share=1.0, least=0, twice=1.0)).progress("anna") == waiting.progress("anna")
        waiting.say(accept("00000", "bob"))
        assert (waiting.progress("anna").waiting, waiting.progress("bob").waiting) == (4, 0)
        waiting.say(Verdict("00001", "bob", "reject", "other"))  # a conflict waits for no second person
        assert waiting.progress("anna").waiting == 3
        assert waiting.undo("anna") == "00004"
        assert waiting.progress("anna").waiting == 2
        assert waiting.undo("bob") == "00001"
        assert (waiting.progress("anna").waiting, waiting.progress("bob").waiting) == (3, 0)
    with queue_of(make(tmp_path / "one"), many(3)) as (waiting, _):
        waiting.say(accept("00000", "anna"))
        assert waiting.progress("anna").waiting == 0


def make(folder):
    folder.mkdir()
    return folder


def test_a_queue_begins_where_the_verdicts_of_the_ledger_end(tmp_path):
    """What is counted verdict by verdict is what another server counts at once, of planned items, others and refused ones."""
    rows = [*many(30), item("no"), *(item(f"left {x}", LONG) for x in range(4))]
    with queue_of(tmp_path, rows, twice=0.5) as (waiting, ledger):
        chance = random.Random(0)
        names = [row.id for row in rows]
        for _ in range(150):
            who, name = chance.choice(("anna", "bob", "carla")), chance.choice(names)
            if chance.random() < 0.3:
                waiting.undo(who)
            elif chance.random() < 0.5:
                waiting.say(Verdict(name, who, "reject", "other", final=int(waiting.to_settle(name)), seconds=2.0))
            else:
                waiting.say(accept(name, who, 3.0))
        for who in ("anna", "bob", "carla"):
            again = Queue(ledger, Review(share=1.0, least=0, twice=0.5))
            assert again.progress(who) == waiting.progress(who)
            assert again.open_items() != []
            assert set(again.open_items()) == set(waiting.open_items())
            assert [again.to_settle(name) for name in names] == [waiting.to_settle(name) for name in names]
        ledger.query("UPDATE items SET state = 'refused' WHERE id = 'no'")
        ledger.query("UPDATE items SET domain = 'sea' WHERE type = 'long'")
        few = Queue(ledger, Review(share=0.0, least=0, twice=0.5))
        assert len(few) == 0
        assert few.progress("anna").mine > 10


def test_items_that_were_made_since_are_planned_when_nothing_is_left(tmp_path):
    with queue_of(tmp_path, many(2)) as (waiting, ledger):
        for _ in range(2):
            waiting.say(accept(waiting.next("anna", {}), "anna"))
        assert waiting.next("anna", {}) is None
        assert not waiting.renew()
        ledger.add(item("new", LONG))
        assert waiting.next("anna", {"type": "short"}) is None
        assert waiting.choices()["type"] == {"choice": 2, "long": 1}
        assert waiting.next("anna", {}) == "new"
        assert (waiting.progress("anna").planned, waiting.progress("anna").done) == (3, 2)
        ledger.query("UPDATE items SET state = 'doubtful', reason = 'judge' WHERE id = '00000'")
        assert waiting.renew()
        assert waiting.choices()["doubt"] == {"judge": 1}


def test_an_item_that_is_refused_since_is_given_to_nobody(tmp_path):
    with queue_of(tmp_path, many(3)) as (waiting, ledger):
        first = waiting.next("anna", {})
        ledger.query("UPDATE items SET state = 'refused', reason = 'leak' WHERE id = ?", (first,))
        second = waiting.next("anna", {})
        assert second not in (first, None)
        assert waiting.progress("anna").planned == 2
        waiting.say(accept(second, "anna"))
        ledger.query("UPDATE items SET state = 'refused', reason = 'leak' WHERE id = ?", (second,))
        assert waiting.renew()
        assert waiting.progress("anna").mine == 0


DROPPED = "UPDATE images SET state = 'dropped', reason = 'replaced' WHERE sha = ?"


def test_nobody_looks_at_items_whose_pictures_were_dropped(tmp_path):
    rows = [item("a", image="1"), item("b", image="2", state="doubtful", reason="judge"), item("c", image="3")]
    with queue_of(tmp_path, rows, twice=1.0) as (waiting, ledger):
        assert waiting.next("anna", {}) == "b"
        ledger.query(DROPPED, ("2",))
        assert waiting.next("anna", {}) == "a"  # planned anew without the one that they had
        assert (len(waiting), waiting.choices()["doubt"]) == (2, {})
        assert [one.id for one in plan(ledger, Review())] == ["a", "c"]
        waiting.say(accept("a", "anna"))
        waiting.say(Verdict("a", "bob", "reject", "unclear"))
        assert waiting.next("carla", {}, conflicts=True) == "a"
        ledger.query(DROPPED, ("1",))
        assert waiting.next("carla", {}, conflicts=True) is None
        assert waiting.progress("anna").conflicts == 0
        ledger.query("UPDATE images SET state = 'kept' WHERE sha = '2'")
        ledger.query(DROPPED, ("3",))  # as many as before
        assert waiting.renew()
        assert waiting.open_items() == ["b"]
