"""Files of questions that outlive the process which sent them: what it left is taken by the next one, once."""

import os
import random
import signal
import sqlite3
import time
import weakref

import pytest

from mmfuser_jax.mminstruct.asking import batch_files, batch_rows, batch_server
from mmfuser_jax.mminstruct.asking.endpoints import AskingError
from mmfuser_jax.mminstruct.ledger import Ledger
from tests.batch_asking import COST, ask, asked_once, interrupted, questions, rows, shout, states
from tests.fake_openai import FakeServer
from tests.nursery import nursery

QUESTIONS = 400


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        yield ledger


def test_after_a_signal_files_stay_and_the_next_run_takes_their_answers(ledger, caplog):
    with FakeServer(shout) as server:
        assert interrupted(ledger, server, questions(10)).stopped == "SIGINT"
        assert "the next run takes their answers" in caplog.text
        assert states(ledger) == ["sent"]
        assert rows(ledger) == []
        assert ask(ledger, server.base_url, questions(15)).asked == 15
    assert asked_once(server, 15)
    assert len(rows(ledger)) == 15


def test_files_are_fetched_from_where_they_are(ledger):
    with FakeServer(shout) as server, FakeServer(shout) as other:
        interrupted(ledger, server, questions(10))
        other.prefix = "other"
        with pytest.raises(AskingError, match=r"on their way at http://127.0.0.1:\d+/v1 with key none: put it back"):
            ask(ledger, other.base_url, questions(10))
        batches, server.batches = server.batches, []
        with pytest.raises(AskingError, match=r"batch_0 \(if it is gone for good, take it out of the ledger's table"):
            ask(ledger, server.base_url, questions(10))
        server.batches = batches
        assert ask(ledger, server.base_url, questions(10)).asked == 10
    assert asked_once(server, 10)


def test_an_answer_is_one_to_the_question_that_was_sent_whatever_is_asked_today(ledger):
    """No words of a question are needed to take its answer, and what it is about is not asked in other words meanwhile."""
    with FakeServer(shout) as server:
        interrupted(ledger, server, questions(10, about="a", domain="memes"))
        today = questions(12, about="a", text="What else?", prompt="c@2")
        assert ask(ledger, server.base_url, today).asked == 12
    assert asked_once(server, 12)
    assert [row.text for row in rows(ledger)] == [f"WHAT IS {x}?" for x in range(10)] + ["WHAT ELSE?"] * 2
    keys = {question.key("m") for question in questions(10, about="a", domain="memes")}
    assert {row.key for row in rows(ledger)[:10]} == keys
    fields = {(x.domain, x.kind, x.language, x.prompt, x.about, x.model, x.reason) for x in rows(ledger)[:10]}
    assert fields == {("memes", "long", "en", "c@1", "a", "m", "")}
    assert ledger.spent() == pytest.approx(12 * COST)


def test_a_file_that_came_back_and_was_not_sent_again_is_no_loss(ledger):
    """The server has room for one file, and the process ends while the other one waits for it."""

    def ending(number):
        return ("token_limit_exceeded", "too many at once") if number else "completed"

    def came_back(states):
        return states == {"sent", "sending"} and server.batches[-1]["status"] == "failed"

    with FakeServer(shout) as server:
        server.ending = ending
        server.after = lambda method, path: server.batches[1].update(looks=0) if len(server.batches) == 2 else None
        interrupted(ledger, server, questions(20), until=came_back)
        assert sorted(states(ledger)) == ["sending", "sent"]
        server.ending, server.after = (lambda number: "completed"), (lambda method, path: None)
        assert ask(ledger, server.base_url, questions(20)).asked == 20
    assert asked_once(server, 20)
    assert states(ledger) == ["taken"] * 2


def test_the_words_of_questions_on_their_way_are_not_held(ledger):
    drawn, held = [], []

    def watched():
        for question in questions(60):
            drawn.append(weakref.ref(question))
            yield question

    def looked_at(method, path):
        if len(server.batches) == 6:
            held.append(sum(question() is not None for question in drawn))

    with FakeServer() as server:
        server.trouble, server.looks = looked_at, 2
        assert ask(ledger, server.base_url, watched()).asked == 60
    assert held
    assert max(held) < 10


def asks_all(folder):
    """In a child that is killed."""
    batch_files.AT_ONCE = 3
    with Ledger(folder / "ledger") as ledger:
        return ask(ledger, (folder / "address").read_text(), questions(QUESTIONS), lines=7).asked < 0


def test_twenty_kills_lose_and_double_nothing(tmp_path):
    """At any moment: while files are sent, while they are looked at, while their answers are written."""
    rng, kills = random.Random(0), 0
    events = [0]

    def slow(method, path):
        events[0] += 1
        time.sleep(0.002)

    with FakeServer(shout) as server, nursery("tests.test_batch_kills", tmp_path) as children:
        server.trouble = server.after = slow
        (tmp_path / "address").write_text(server.base_url)
        while kills < 20:
            until, child = events[0] + rng.randrange(1, 40), children.begin("asks_all")
            while events[0] < until and children.lives(child):
                time.sleep(rng.random() * 0.003)
            os.kill(child, signal.SIGKILL)
            assert children.end() == -signal.SIGKILL, children.errors()
            kills += 1
        with sqlite3.connect(tmp_path / "ledger") as db:
            done = db.execute("SELECT count(*) FROM answers").fetchone()[0]
        children.begin("asks_all")
        assert children.end() == 0, children.errors()
    with Ledger(tmp_path / "ledger") as ledger:
        assert 0 < done < QUESTIONS, "kills that hit nothing"
        assert [row.text for row in rows(ledger)] == [f"WHAT IS {x}?" for x in range(QUESTIONS)]
        assert ledger.spent() == pytest.approx(QUESTIONS * COST)
        assert {row.attempts for row in rows(ledger)} == {1}
        assert set(states(ledger)) == {"taken"}
    assert asked_once(server, QUESTIONS)


class Killed(BaseException):
    """Stands for kill -9 at one moment."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_while_a_file_is_sent(ledger, monkeypatch, moment):
    """Right before the server has it, and right after, when the ledger does not know its name."""
    begin = batch_server.BatchServer.begin

    async def killed(self, uploaded, tags):
        if moment == "after":
            await begin(self, uploaded, tags)
        raise Killed

    monkeypatch.setattr(batch_server, "SETTLING", 0.0)
    with FakeServer(shout) as server:
        with monkeypatch.context() as patch:
            patch.setattr(batch_server.BatchServer, "begin", killed)
            with pytest.raises(Killed):
                ask(ledger, server.base_url, questions(10))
        assert states(ledger) == ["sending"]
        assert len(server.batches) == (moment == "after")
        ask(ledger, server.base_url, questions(10))
    assert asked_once(server, 10)
    assert len(server.batches) == 1
    assert states(ledger) == ["taken"]
    assert len(rows(ledger)) == 10


def test_answers_are_written_with_the_mark_that_their_file_is_taken_or_not_at_all(ledger, monkeypatch):
    def killed(self):
        raise Killed

    with FakeServer(shout) as server:
        with monkeypatch.context() as patch:
            patch.setattr(batch_rows.FileRow, "write_taken", killed)
            with pytest.raises(Killed):
                ask(ledger, server.base_url, questions(10))
        assert rows(ledger) == []
        assert states(ledger) == ["sent"]
        ask(ledger, server.base_url, questions(10))
    assert len(rows(ledger)) == 10
    assert ledger.spent() == pytest.approx(10 * COST)
