"""Servers that answer nothing, or no more, or some of several: a run ends soon and keeps what it has, or goes on without them."""

import itertools
import os
import signal
import threading
import time
from collections import Counter

import pytest

from mmfuser_jax.mminstruct.asking.ask import Answer
from mmfuser_jax.mminstruct.asking.endpoints import AskingError, Endpoint
from mmfuser_jax.mminstruct.asking.server import Server
from mmfuser_jax.mminstruct.asking.trust import FIRST, IN_A_ROW, Trust, trust_of
from mmfuser_jax.mminstruct.ledger import Ledger
from tests.fake_openai import FakeServer
from tests.test_asking import ask, asked, questions
from tests.test_endpoints import said


def see(trust, *reasons):
    for reason in reasons:
        trust.see(Answer(next(questions(1)), "m", reason=reason, detail="told"))


def test_the_first_questions_in_vain_are_too_many():
    trust = Trust(False)
    see(trust, *["busy", "garbage"] * 3, "refused_by_server")
    with pytest.raises(AskingError, match=r"none of the first 8 questions was answered \(unreachable: told\)"):
        see(trust, "unreachable")
    with pytest.raises(AskingError):
        see(trust, "busy")
    see(trust, "")
    assert trust.proven
    see(trust, *["busy"] * (IN_A_ROW - 1))


@pytest.mark.parametrize("reason", ["busy", "unreachable", "refused_by_server", "garbage"])
def test_later_only_many_in_a_row_are(reason):
    trust = Trust(True)
    see(trust, *[reason] * (IN_A_ROW - 1), "", *[reason] * (IN_A_ROW - 1))
    with pytest.raises(AskingError, match="none of the last 32 questions"):
        see(trust, reason)


def test_a_filter_says_nothing_against_a_server():
    see(Trust(True), *["content_filter"] * 100)
    trust = Trust(False)
    see(trust, *["refused_by_server"] * (FIRST - 1), "content_filter", *["busy"] * (IN_A_ROW - 1))
    assert trust.proven


def test_the_ledger_knows_whether_a_model_has_answered(tmp_path):
    one, two, three = questions(3)
    with Ledger(tmp_path / "ledger") as ledger:
        for answer in (Answer(one, "m", "fine"), Answer(two, "n", reason="busy"), Answer(three, "o", reason="garbage")):
            ledger.add_answer(answer.row(0.0))
        assert trust_of(ledger, "caption", "m").proven
        assert not trust_of(ledger, "generate", "m").proven
        assert not trust_of(ledger, "caption", "n").proven
        assert not trust_of(ledger, "caption", "o").proven


def test_pictures_that_a_filter_refuses_do_not_end_a_run_though_they_come_first():
    def reply(body, before):
        number = int(body["messages"][1]["content"][8:-1])
        return said(400, "flagged", code="content_filter") if number < 12 else "fine"

    with FakeServer(reply) as server:
        taken, outcome = ask(server, questions(30))
    assert outcome.asked == 30
    assert Counter(answer.reason for answer, _ in taken) == {"content_filter": 12, "": 18}


@pytest.mark.parametrize("reply", [said(400, "no such parameter"), (200, {}, "<html>welcome</html>")])
def test_what_the_first_questions_came_to_is_written_so_that_the_next_run_begins_with_others(reply):
    taken = []
    with FakeServer(lambda *_: reply) as server:
        with pytest.raises(AskingError, match="none of the first 8 questions was answered"):
            ask(server, questions(1000), taken=taken)
        assert FIRST <= len(server.bodies) == len(taken) < FIRST + 5
        taken.clear()
        server.reply = lambda body, before: "fine" if len(server.bodies) > 30 else reply
        ask(server, questions(50), taken=taken, proven=True)
    assert len(taken) == 50


def test_a_server_that_is_gone_in_the_middle_ends_the_run_and_what_it_said_is_kept():
    number = itertools.count(1)

    def reply(body, before):
        return said(502, "bad gateway") if next(number) > 60 else "fine"

    taken, begun = [], time.monotonic()
    with FakeServer(reply) as server:
        with pytest.raises(
            AskingError, match=r"none of the last 3\d questions was answered .busy: .*see whether the server"
        ):
            ask(server, questions(100_000), taken=taken)
        assert len(server.bodies) < 600
    assert time.monotonic() - begun < 60
    found = Counter(answer.reason for answer, _ in taken)
    assert found[""] == 60
    assert IN_A_ROW <= found["busy"] < 2 * IN_A_ROW
    assert {answer.attempts for answer, _ in taken if answer.reason} == {6}


def test_a_server_that_is_busy_for_a_while_ends_nothing():
    """All of many questions on their way are pushed back at once, and some of them again."""

    busy = iter([False] * 200 + [True] * 2 * IN_A_ROW)

    def reply(body, before):
        return said(429, "slow down") if next(busy, False) else "fine"

    with FakeServer(reply, latency=0.02) as server:
        taken, outcome = ask(server, questions(400), patience=0.1)
    assert outcome.asked == 400
    assert {answer.reason for answer, _ in taken} == {""}
    assert sum(answer.attempts - 1 for answer, _ in taken) == 2 * IN_A_ROW


def test_a_server_that_answers_nothing_gets_few_questions_at_a_time():
    with FakeServer(lambda *_: said(503, "later")) as server:
        with pytest.raises(AskingError, match="none of the first 8"):
            ask(server, questions(1000), patience=0.1)
        assert len(server._seen) < 2 * FIRST
        assert len(server.bodies) < 100


def two_servers(good, bad, **settings):
    return [Endpoint(Server(base_url=url, model="m", patience=0.02, **settings), "") for url in (good, bad)]


def test_where_one_of_two_servers_is_down_the_other_is_asked():
    taken = []
    with FakeServer() as gone:
        pass
    with FakeServer(latency=0.02) as good:
        asked(two_servers(good.base_url, gone.base_url, most=4), questions(500), taken.extend)
    assert {answer.reason for answer, _ in taken} == {""}
    assert len(taken) == 500
    assert sum(answer.attempts - 1 for answer, _ in taken) < 100


def test_a_server_that_comes_back_is_asked_again():
    taken = []
    with FakeServer(latency=0.01) as good, FakeServer(latency=0.01) as back:
        back.reply = lambda *_: said(503) if len(good.bodies) < 100 else "fine"
        asked(two_servers(good.base_url, back.base_url, most=4), questions(800), taken.extend)
        assert len(back.bodies) > 100
    assert {answer.reason for answer, _ in taken} == {""}


def test_a_slow_server_is_waited_for_where_another_one_refuses_everything():
    taken = []
    with FakeServer(latency=0.5) as slow, FakeServer(lambda *_: said(400, "no such model")) as wrong:
        asked(two_servers(slow.base_url, wrong.base_url, most=4), questions(20), taken.extend)
    assert len(taken) == 20
    assert sum(not answer.reason for answer, _ in taken) >= 4


def test_answers_on_their_way_are_written_where_a_key_is_revoked():
    taken, answers = [], iter(["fine", "fine"])
    with (
        FakeServer(latency=0.6) as good,
        FakeServer(lambda *_: next(answers, said(401, "revoked")), latency=0.05) as revoked,
    ):
        with pytest.raises(AskingError, match="revoked"):
            asked(two_servers(good.base_url, revoked.base_url), questions(40), taken.extend)
        assert len(good.bodies) >= 4
        assert len(taken) == len(good.bodies) + 2
    assert {answer.text for answer, _ in taken} == {"fine"}


@pytest.mark.parametrize("where", ["picture", "questions"])
def test_answers_on_their_way_are_written_where_a_picture_or_question_cannot_be_had(where):
    taken = []

    def picture(ask):
        if where == "picture" and ask.seed == 4:
            raise FileNotFoundError("ab12.jpg")
        return b"a picture"

    def asks():
        yield from questions(4, shown=True)
        if where == "questions":
            raise FileNotFoundError("ab12.jpg")
        yield from list(questions(100, shown=True))[4:]

    with FakeServer(latency=lambda body: 0.1 if body["seed"] == 0 else 0.8) as server:
        with pytest.raises(FileNotFoundError, match="ab12"):
            ask(server, asks(), taken=taken, picture=picture)
        assert len(server.bodies) == 4
    assert [answer.text for answer, _ in taken] == ["fine"] * 4


def interrupted(server, count, **settings):
    """(seconds until the end, questions asked after a signal that comes once `count` were asked, and answers)."""
    at, taken = [], []

    def watch():
        while len(server.bodies) < count:
            time.sleep(0.005)
        time.sleep(0.1)
        at.extend([time.monotonic(), len(server.bodies)])
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch).start()
    _, outcome = ask(server, questions(4000), taken=taken, **settings)
    assert outcome.stopped == "SIGINT"
    return time.monotonic() - at[0], len(server.bodies) - at[1], taken


def test_after_a_signal_questions_that_wait_for_their_minute_are_not_sent():
    with FakeServer() as server:
        seconds, more, taken = interrupted(server, 2, requests_per_minute=60)
        assert len(taken) == len(server.bodies)
    assert more == 0
    assert seconds < 5


def test_after_a_signal_nothing_is_asked_again():
    number = itertools.count(1)
    with FakeServer(lambda *_: "fine" if next(number) < 5 else said(503, "later")) as server:
        seconds, more, taken = interrupted(server, 12, patience=3.0)
    assert more == 0
    assert seconds < 5
    assert [answer.text for answer, _ in taken] == ["fine"] * 4
