"""Correction by people: what they are shown, what their verdicts come to, how far they agree, and whom the server answers."""

import contextlib
import http.client
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading

import pytest
import yaml
from PIL import Image

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.config import Review
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import CONFIG, Project
from mmfuser_jax.mminstruct.questions.items import Item, as_body, from_body
from mmfuser_jax.mminstruct.review.agreement import agreements, agreements_of, cohens_kappa
from mmfuser_jax.mminstruct.review.decisions import CONFLICTS, REJECTIONS, Decision, decision, decisions, verdicts_of
from mmfuser_jax.mminstruct.review.edits import EditError, edited
from mmfuser_jax.mminstruct.review.guard import HEADER
from mmfuser_jax.mminstruct.review.queue import LEASE, Queue, QueueError
from mmfuser_jax.mminstruct.review.sampling import draw, plan
from mmfuser_jax.mminstruct.review.server import (
    LARGEST,
    MOST_SECONDS,
    ReviewError,
    address,
    opened_review,
    serve_review,
)
from mmfuser_jax.mminstruct.schema import AnswerRow, ImageRow, ItemRow, Verdict
from tests.conftest import ROOT
from tests.test_resume import environment

TOKEN = "a-token-of-the-test"
CHOICE = Item("choice", "What colour is the frame of the poster?", "B", ("Red", "Blue", "Green", "Black"))
LONG = Item(
    "long", "What does the poster announce?", "It announces a chess tournament in the town hall, on a day in May."
)
SHORT = Item("short", "Which day is printed on the poster?", "12 May")
JUDGEMENT = Item("judgement", "Is the frame of the poster blue?", "yes")


def item(name, *exchanges, state="good", reason="", image="picture", domain="posters", language="en"):
    """A row of the ledger."""
    exchanges = exchanges or (CHOICE,)
    kind = exchanges[0].type if len(exchanges) == 1 else "conversation"
    body = as_body(exchanges)
    return ItemRow(name, f"answer {image}", "generate", image, domain, kind, language, body, name, state, reason)


def project_of(tmp_path, items, **review):
    """A project with a picture and its captions for each that the items are about."""
    folder = tmp_path / "project"
    folder.mkdir()
    fields = {"name": "tried", "review": {"share": 1.0, "least": 0, "twice": 0.0, **review}}
    (folder / CONFIG).write_text(yaml.safe_dump(fields))
    project = Project(folder)
    with Ledger(project.ledger) as ledger, ledger.changes():
        for row in items:
            ledger.add(row)
        for number, sha in enumerate(sorted({row.image for row in items})):
            path = store.place(project.images, sha, ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 60), (40 + number % 200, 90, 160)).save(path)
            ledger.add(ImageRow(sha, "posters", ".png", 80, 60, 1, f"/pictures/{sha}.png", "", 0, "kept"))
            ledger.add(answer(f"answer {sha}", "generate", sha, "Q1"))
            ledger.add(answer(f"caption {sha}", "caption", sha, f"A poster with a blue frame, {sha}."))
    return project


def answer(key, step, image, text):
    return AnswerRow(
        key, step, "posters", image, "caption", "en", "caption@1", 0, "a-model", text, "stop", "", "", 1, 1, 1, 0.0, 0.0
    )


@contextlib.contextmanager
def served(project, reviewer="", token=TOKEN):
    """A running server; gives its address, with the token."""
    began = queue.Queue()

    def work():
        with opened_review(project, reviewer, "127.0.0.1", 0, token) as (server, listening):
            began.put((server, address(listening, token)))
            server.run(sockets=[listening])

    thread = threading.Thread(target=work)
    thread.start()
    server, found = began.get(timeout=60)
    try:
        yield found
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


def say(ledger, name, reviewer, verdict, reason="", body="", final=0, seconds=1.0):
    with ledger.changes():
        ledger.add(Verdict(name, reviewer, verdict, reason, body, final, seconds))


def decided(*verdicts, row=None):
    """What (reviewer, verdict, reason or body, final) come to."""
    rows = []
    for given in verdicts:
        who, what, more, final = (*given, *("", 0)[len(given) - 2 :])
        rows.append(
            Verdict("x", who, what, more if what == "reject" else "", more if what == "edit" else "", final, 2.0)
        )
    return decision(row or item("x"), rows)


def changed(one, **fields):
    return as_body(
        [Item(**{"type": one.type, "question": one.question, "answer": one.answer, "options": one.options, **fields})]
    )


# ---- decisions


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


# ---- the sampling plan


def many(count, **fields):
    return [item(f"{number:05d}", image=f"{number % 50:03d}", **fields) for number in range(count)]


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


# ---- the queue


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


# ---- agreement


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


# ---- edits


def edit(tmp_path, row, *exchanges, others=()):
    project = project_of(tmp_path, [row, *others])
    with Ledger(project.ledger) as ledger:
        return from_body(edited(ledger, row, list(exchanges)))


def fields(one, place=0, **changes):
    return {"place": place, "question": one.question, "answer": one.answer, "options": list(one.options), **changes}


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
        (CHOICE, {"options": ["Red", "red."], "answer": "A"}, "two options are the same"),
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


# ---- the server


def request(url, path="", method="GET", token=None, host=None, body=None, headers=()):
    """(status, headers, body) of an answer; `token` goes into the header."""
    place = url.split("/")[2]
    connection = http.client.HTTPConnection(place, timeout=30)
    connection.putrequest(method, path or "/", skip_host=True)
    sent = {"Host": host or place, **dict(headers), **({HEADER: token} if token else {})}
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    if method == "POST":
        sent = {"Content-Type": "application/json", "Content-Length": str(len(content)), **sent}
    for name, value in sent.items():
        connection.putheader(name, value)
    connection.endheaders(content if method == "POST" else None)
    reply = connection.getresponse()
    found = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return found


PATHS = ("/", "/page.js", "/picture/picture", "/api/start", "/api/next?reviewer=anna", "/api/item/x?reviewer=anna")


def test_nothing_is_served_without_the_token(tmp_path):
    project = project_of(tmp_path, [item("x")])
    with served(project) as url:
        for path in PATHS:
            assert request(url, path)[0] == 403
            assert request(url, path, token="another")[0] == 403
            assert request(url, f"{path.partition('?')[0]}?token=another")[0] == 403
            assert request(url, path, token=TOKEN)[0] == 200
            assert request(url, path, headers={"Cookie": f"token={TOKEN}"})[0] == 403
        assert request(url, "/nothing")[0] == 403
        said = {"item": "x", "reviewer": "anna", "verdict": "accept"}
        assert request(url, "/api/verdict", "POST", body=said)[0] == 403
    with Ledger(project.ledger) as ledger:
        assert not verdicts_of(ledger, "x")


def test_the_cookie_shows_but_does_not_change(tmp_path):
    with served(project_of(tmp_path, [item("x")])) as url:
        status, headers, _ = request(url, "/?" + url.partition("?")[2])
        cookie = headers["set-cookie"]
        assert status == 200
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        sent = {"Cookie": cookie.partition(";")[0]}
        assert {request(url, path, headers=sent)[0] for path in PATHS} == {200}
        assert "set-cookie" not in request(url, "/", headers=sent)[1]
        for path in ("/api/verdict", "/api/undo", f"/api/undo?token={TOKEN}"):
            assert request(url, path, "POST", headers=sent, body={"reviewer": "anna"})[0] == 403


def test_a_name_that_is_led_here_by_others_is_not_answered(tmp_path):
    with served(project_of(tmp_path, [item("x")])) as url:
        port = url.split("/")[2].rpartition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "localhost.evil.example:80"):
            assert request(url, "/api/start", token=TOKEN, host=host or " ")[0] in (400, 403)
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert request(url, "/api/start", token=TOKEN, host=host)[0] == 200


def test_every_answer_forbids_scripts_of_others_and_being_kept(tmp_path):
    with served(project_of(tmp_path, [item("x")])) as url:
        for path, token in (("/", TOKEN), ("/picture/picture", TOKEN), ("/", None), ("/nothing", TOKEN)):
            _, headers, body = request(url, path, token=token)
            assert headers["cache-control"] == "no-store"
            assert "script-src 'self';" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert b"<script>" not in body


def posted(url, path, body, **more):
    status, _, content = request(url, path, "POST", token=TOKEN, body=body, **more)
    return status, json.loads(content)


def test_verdicts_are_written_and_wrong_ones_are_refused_in_words(tmp_path):
    project = project_of(tmp_path, [item("x")])
    good = {
        "item": "x",
        "reviewer": " anna  b ",
        "verdict": "edit",
        "seconds": 1e9,
        "exchanges": [fields(CHOICE, answer="A")],
    }
    with served(project) as url:
        for wrong, match in (
            ({"item": "y"}, "no item 'y'"), ({"verdict": "maybe"}, "verdict"), ({"reviewer": " "}, "name"),
            ({"reviewer": "a\x00b"}, "name"), ({"verdict": "reject", "reason": "mood"}, "needs a reason"),
            ({"seconds": -1}, "seconds"), ({"exchanges": None}, "exchange"), ({"final": True}, "no conflict"),
            ({"exchanges": [fields(CHOICE, answer="Z")]}, "none of the options"), ({"more": 1}, "more"),
        ):  # fmt: skip
            status, answer = posted(url, "/api/verdict", {**good, **wrong})
            assert status == 400
            assert match in answer["error"]
        for content in (b"[]", b"{", b"[" * 100_000, b'{"a":' * 50_000, b'"' + b"x" * LARGEST + b'"', b"\xff"):
            assert posted(url, "/api/verdict", content)[0] == 400
        assert posted(url, "/api/verdict", good, headers={"Content-Type": "text/plain"})[0] == 400
        status, answer = posted(url, "/api/verdict", good)
        assert (status, answer["progress"]["mine"]) == (200, 1)
    with Ledger(project.ledger) as ledger:
        (verdict,) = verdicts_of(ledger, "x")
    assert verdict == Verdict("x", "anna b", "edit", body=changed(CHOICE, answer="A"), seconds=MOST_SECONDS)


def test_an_edit_that_changes_nothing_is_an_acceptance(tmp_path):
    project = project_of(tmp_path, [item("x")])
    with served(project) as url:
        assert (
            posted(
                url, "/api/verdict", {"item": "x", "reviewer": "anna", "verdict": "edit", "exchanges": [fields(CHOICE)]}
            )[0]
            == 200
        )
    with Ledger(project.ledger) as ledger:
        assert verdicts_of(ledger, "x") == [Verdict("x", "anna", "accept")]


def test_only_pictures_of_the_store_are_served_and_in_a_form_that_browsers_show(tmp_path):
    project = project_of(tmp_path, [item("x"), item("y", image="scan")])
    with Ledger(project.ledger) as ledger:
        ledger.query("UPDATE images SET suffix = '.tif' WHERE sha = 'scan'")
    store.place(project.images, "scan", ".png").unlink()
    Image.new("RGB", (9, 9)).save(store.place(project.images, "scan", ".tif"))
    with served(project) as url:
        for path in (
            "/picture/nothing",
            "/picture/..%2f..%2fproject.yaml",
            "/picture/../../project.yaml",
            "/../project.yaml",
        ):
            assert request(url, path, token=TOKEN)[0] == 404
        for sha in ("picture", "scan"):
            status, headers, body = request(url, f"/picture/{sha}", token=TOKEN)
            assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")


def test_a_person_sees_the_words_of_others_only_where_they_are_to_be_settled(tmp_path):
    project = project_of(tmp_path, [item("x", state="doubtful", reason="judge")], twice=1.0)
    with served(project) as url:
        posted(url, "/api/verdict", {"item": "x", "reviewer": "anna", "verdict": "reject", "reason": "unclear"})
        seen = json.loads(request(url, "/api/next?reviewer=bob", token=TOKEN)[2])["item"]
        assert (seen["others"], seen["verdict"], seen["conflict"]) == ([], None, "")
        assert seen["doubt"] == "another model says that it is wrong"
        assert (seen["model"], seen["prompt"]) == ("a-model", "caption@1")
        assert [caption["text"] for caption in seen["captions"]] == ["A poster with a blue frame, picture."]
        posted(url, "/api/verdict", {"item": "x", "reviewer": "bob", "verdict": "accept"})
        seen = json.loads(request(url, "/api/next?reviewer=carla&queue=conflicts", token=TOKEN)[2])["item"]
        assert [(one["reviewer"], one["verdict"]) for one in seen["others"]] == [("anna", "reject"), ("bob", "accept")]
        assert seen["conflict"] == CONFLICTS["accept_and_reject"]
        status, answer = posted(
            url, "/api/verdict", {"item": "x", "reviewer": "carla", "verdict": "accept", "final": True}
        )
        assert (status, answer["progress"]["conflicts"]) == (200, 0)


def test_mistakes_are_said_in_one_line(tmp_path):
    project = project_of(tmp_path, [])
    with pytest.raises(
        ReviewError, match=r"no items yet; run generate first: launch/mminstruct\.py generate --project="
    ):
        serve_review(project, "anna")
    with Ledger(project.ledger) as ledger:
        ledger.add(item("x"))
    unplanned = nothing_planned(project)
    with pytest.raises(ReviewError, match=r"nothing to review: .* review\.share"):
        serve_review(unplanned, "anna")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ReviewError, match="is in use; give another --port"),
    ):
        serve_review(project, "anna", port=taken.getsockname()[1])
    with pytest.raises(ReviewError, match=r"cannot listen at nowhere\.invalid:"):
        serve_review(project, "anna", host="nowhere.invalid")
    with pytest.raises(ValueError, match="a name of 1 to 60 letters"):
        serve_review(project, "x" * 61)
    assert len(REJECTIONS) == 9  # keys 1 to 9


def nothing_planned(project):
    path = project.folder / CONFIG
    path.write_text(path.read_text().replace("share: 1.0", "share: 0.0"))
    planned_none = Project(project.folder)
    path.write_text(path.read_text().replace("share: 0.0", "share: 1.0"))
    return planned_none


def test_the_printed_address_opens_the_page(tmp_path):
    """The command's own function, in a process of its own; interrupted, it ends."""
    project = project_of(tmp_path, [item("x")])
    program = (
        "from pathlib import Path; from mmfuser_jax.mminstruct.project import Project; "
        "from mmfuser_jax.mminstruct.review.server import serve_review; "
        f"serve_review(Project(Path({str(project.folder)!r})), 'anna', port=0)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        words = process.stdout.readline().split()
        url = words[-1]
        assert url.startswith("http://127.0.0.1:")
        status, _, page = request(url, "/?" + url.partition("?")[2])
        assert status == 200
        assert url.partition("token=")[2].encode() in page  # for the header of what the page posts
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert len(url.partition("token=")[2]) >= 40
