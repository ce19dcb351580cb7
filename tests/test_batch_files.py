"""Questions in files: each is sent once and answered once, whatever kills the process and whatever the server does."""

import json
import logging
import os
import random
import signal
import sqlite3
import threading
import time

import pytest

from mmfuser_jax.mminstruct.asking import batch_files, batch_server
from mmfuser_jax.mminstruct.asking.batch_files import ask_in_files
from mmfuser_jax.mminstruct.asking.batch_replies import Line, answer_of, lines_of
from mmfuser_jax.mminstruct.asking.endpoints import ATTEMPTS, AskingError, Endpoint, body_of
from mmfuser_jax.mminstruct.asking.online import Budget
from mmfuser_jax.mminstruct.asking.prices import Price
from mmfuser_jax.mminstruct.config import Server
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import ProjectError
from mmfuser_jax.mminstruct.reasons import ANSWERS as REASONS
from mmfuser_jax.mminstruct.schema import AnswerRow, Batch
from tests.fake_openai import FakeServer, completion
from tests.nursery import nursery
from tests.test_asking import questions, settled

PRICE = Price(1.0, 1.0)
COST = 120e-6
"""Of an answer of the fake server."""

QUESTIONS = 400


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Files with few questions."""
    monkeypatch.setattr(batch_files, "LINES", 10)


def shout(body, before):
    return body["messages"][1]["content"].upper()


def ask(ledger, address, asks, budget=None, variables=("",), step="caption", **settings):
    """Asks whatever the ledger has no answer of."""
    server = Server(base_url=address, model="m", **{"patience": 0.002, **settings})
    known = settled(ledger, step)

    def take(taken):
        for answer, cost in taken:
            ledger.add_answer(answer.row(cost))

    return ask_in_files(
        (ask for ask in asks if ask.key("m") not in known), [Endpoint(server, name) for name in variables], ledger,
        budget or Budget(PRICE, ledger.spent(), None), lambda ask: b"a picture", take, project="tried", step=step,
    )  # fmt: skip


def rows(ledger):
    return sorted(ledger.rows(AnswerRow, "step = 'caption'"), key=lambda row: row.seed)


def states(ledger):
    return [batch.state for batch in ledger.rows(Batch)]


def asked_once(server, count):
    names = [body["custom_id"] for body in server.bodies]
    return len(names) == len(set(names)) == count


def test_every_question_has_its_answer(ledger):
    with FakeServer(shout) as server:
        outcome = ask(ledger, server.base_url, questions(25))
    assert (outcome.asked, outcome.stopped) == (25, "")
    assert [row.text for row in rows(ledger)] == [f"WHAT IS {x}?" for x in range(25)]
    assert {(row.finish, row.reason, row.model, row.input_tokens, row.output_tokens) for row in rows(ledger)} == {
        ("stop", "", "m", 100, 20)
    }
    assert ledger.spent() == pytest.approx(25 * COST)
    assert states(ledger) == ["taken"] * 3
    assert asked_once(server, 25)


def test_what_is_sent(ledger):
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    (question,) = questions(1, shown=True, schema=schema)
    with FakeServer() as server:
        ask(ledger, server.base_url, [question], temperature=0.0)
    (line,) = map(json.loads, server.files["file-0"].splitlines())
    settings = Server(base_url="http://x", model="m", temperature=0.0)
    assert line == {
        "custom_id": question.key("m"), "method": "POST", "url": "/v1/chat/completions",
        "body": body_of(question, settings, b"a picture"),
    }  # fmt: skip
    (batch,) = server.batches
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")
    assert (batch["metadata"]["project"], batch["metadata"]["step"]) == ("tried", "caption")


def test_a_file_has_as_many_bytes_as_it_may(ledger, monkeypatch):
    monkeypatch.setattr(batch_files, "BYTES", 2000)
    with FakeServer(shout) as server:
        ask(ledger, server.base_url, questions(30, system="x" * 500))
    assert max(map(len, (server.files[batch["input_file_id"]] for batch in server.batches))) <= 2000
    assert len(server.batches) == 15
    assert asked_once(server, 30)
    assert len(rows(ledger)) == 30


def test_a_question_that_is_given_twice_is_sent_once(ledger):
    with FakeServer() as server:
        outcome = ask(ledger, server.base_url, [*questions(15), *questions(15)])
    assert outcome.asked == 15
    assert asked_once(server, 15)


def test_few_files_are_on_their_way_at_a_time(ledger, monkeypatch):
    monkeypatch.setattr(batch_files, "AT_ONCE", 2)
    most = [0]

    def watch(method, path):
        going = sum(batch["looks"] >= 0 for batch in server.batches)
        most[0] = max(most[0], going)

    with FakeServer() as server:
        server.trouble, server.looks = watch, 2
        ask(ledger, server.base_url, questions(75))
    assert most[0] == 2
    assert asked_once(server, 75)


def test_keys_share_the_files(ledger, monkeypatch):
    monkeypatch.setenv("ONE", "secret1")
    monkeypatch.setenv("TWO", "secret2")
    with FakeServer() as server:
        ask(ledger, server.base_url, questions(40), variables=("ONE", "TWO"))
    assert [batch.key_name for batch in ledger.rows(Batch)] == ["ONE", "TWO", "ONE", "TWO"]
    assert b"secret" not in b"".join(server.files.values())


REPLIES = {
    "What is 1?": (400, {}, {"error": {"message": "no", "code": "content_policy_violation"}}),
    "What is 2?": (400, {}, {"error": {"message": "too long", "code": "context_length_exceeded"}}),
    "What is 3?": (429, {}, {"error": {"message": "later"}}),
    "What is 4?": (500, {}, {"error": {"message": "broken"}}),
    "What is 5?": None,
    "What is 6?": (200, {}, {"choices": []}),
    "What is 7?": (200, {}, {"choices": "all", "usage": 7}),
    "What is 8?": (200, {}, completion(None, {"model": "m"}, refusal="I will not.")),
    "What is 9?": (200, {}, completion("half of", {"model": "m"}, "length")),
}


def test_what_comes_of_a_question_is_a_state(ledger):
    with FakeServer(lambda body, _: REPLIES.get(body["messages"][1]["content"], "fine")) as server:
        outcome = ask(ledger, server.base_url, questions(10))
        got = [(row.text, row.finish, row.reason) for row in rows(ledger)]
        assert outcome.asked == 10
        assert got == [
            ("fine", "stop", ""),
            ("", "", "content_filter"),
            ("", "", "refused_by_server"),
            ("", "", "busy"),
            ("", "", "busy"),
            ("", "", "busy"),
            ("", "", "garbage"),
            ("", "", "garbage"),
            ("I will not.", "refusal", ""),
            ("half of", "length", ""),
        ]
        assert "too long" in rows(ledger)[2].detail
        assert "batch_0 completed" in rows(ledger)[5].detail
        assert {reason for _, _, reason in got} - {""} <= set(REASONS)
        server.reply = lambda *_: "fine"
        assert ask(ledger, server.base_url, questions(10)).asked == 3  # those that were busy
    assert [row.text for row in rows(ledger)[3:6]] == ["fine"] * 3
    assert ledger.spent() == pytest.approx(6 * COST)


def test_lines_in_the_form_of_other_servers():
    fine = {"custom_id": "a", "response": {"status_code": 200, "body": {"choices": [{"message": {"content": "x"}}]}}}
    wrong = {"custom_id": "b", "response": {"status_code": 400, "body": None}, "error": "no such picture"}
    none = {"custom_id": "c", "response": None, "error": {"message": "gone"}}
    text = "\n".join([json.dumps(fine), "{", "3", "{}", '{"custom_id": 4}', json.dumps(wrong), json.dumps(none), ""])
    (question,) = questions(1)
    lines = list(lines_of(text.encode()))
    answers = [answer_of(question, "m", line) for line in lines]
    assert [line.key for line in lines] == ["a", "b", "c"]
    assert [(answer.text, answer.finish, answer.reason) for answer in answers] == [
        ("x", "stop", ""), ("", "", "refused_by_server"), ("", "", "busy"),
    ]  # fmt: skip
    assert "no such picture" in answers[1].detail
    assert answer_of(question, "m", Line("a", 503, {}, {})).reason == "busy"


def test_answers_of_an_expired_file_count_and_the_rest_is_asked_again(ledger):
    with FakeServer(shout) as server:
        server.ending = lambda number: "completed" if number else "expired"
        ask(ledger, server.base_url, questions(10))
        assert [row.reason for row in rows(ledger)] == [""] * 5 + ["busy"] * 5
        assert "batch_expired" in rows(ledger)[9].detail
        assert ledger.spent() == pytest.approx(5 * COST)
        ask(ledger, server.base_url, questions(10))
    assert asked_once(server, 10)
    assert [row.text for row in rows(ledger)] == [f"WHAT IS {x}?" for x in range(10)]


@pytest.mark.parametrize("ending", ["cancelled", ("invalid_request", "no such model")])
def test_a_file_that_comes_to_nothing_ends_it_with_the_reason(ledger, ending):
    with FakeServer() as server:
        server.ending = lambda number: ending
        with pytest.raises(AskingError, match=r"batch_0 (cancelled|failed invalid_request no such model)"):
            ask(ledger, server.base_url, questions(10))
        assert {row.reason for row in rows(ledger)} == ({"", "busy"} if ending == "cancelled" else {"busy"})
        assert states(ledger) == ["taken"]
        server.ending = lambda number: "completed"
        ask(ledger, server.base_url, questions(10))
    assert [row.text for row in rows(ledger)] == ["fine"] * 10
    assert asked_once(server, 10)


def test_a_server_that_holds_few_files_gets_few_at_a_time(ledger):
    def ending(number):
        going = sum(batch["looks"] >= 0 and batch["then"]["status"] != "failed" for batch in server.batches)
        return "completed" if going < 2 else ("token_limit_exceeded", "too many at once")

    with FakeServer() as server:
        server.ending, server.looks = ending, 3
        outcome = ask(ledger, server.base_url, questions(60))
    assert outcome.asked == 60
    assert {row.text for row in rows(ledger)} == {"fine"}
    assert asked_once(server, 60)
    assert set(states(ledger)) == {"taken"}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_question_would_survive_ends_it_all(ledger, status):
    error = status, {}, {"error": {"message": "no such key"}}
    with FakeServer(lambda *_: error) as server:
        with pytest.raises(AskingError, match=r"127.0.0.1:\d+/v1, key none, model m: .*no such key"):
            ask(ledger, server.base_url, questions(5))  # says so for every line
        assert {row.reason for row in rows(ledger)} == {"busy"}
        server.trouble = lambda method, path: error
        with pytest.raises(AskingError, match=r"127.0.0.1:\d+/v1, key none: .*no such key"):
            ask(ledger, server.base_url, questions(5))
    with pytest.raises(ProjectError, match="no server to ask"):
        ask(ledger, server.base_url, questions(5), variables=())


def test_trouble_that_goes_by_is_waited_for(ledger):
    seen = {}

    def trouble(method, path):
        seen[method, path] = seen.get((method, path), 0) + 1
        return (503, {}, {"error": {"message": "later"}}) if seen[method, path] < 3 else None

    with FakeServer(shout) as server:
        server.trouble = trouble
        assert ask(ledger, server.base_url, questions(10)).asked == 10
        assert asked_once(server, 10)
        server.trouble = lambda method, path: (503, {}, {"error": {"message": "later"}})
        with pytest.raises(AskingError, match=r"later.*run it again later"):
            ask(ledger, server.base_url, questions(20))
    assert seen["POST", "/files"] == 3 < ATTEMPTS
    assert [row.text for row in rows(ledger)] == [f"WHAT IS {x}?" for x in range(10)]


def test_a_file_whose_arrival_was_not_confirmed_is_not_sent_again(ledger, monkeypatch):
    monkeypatch.setattr(batch_server, "SETTLING", 10.0)
    lost = []

    def after(method, path):
        if (method, path) == ("POST", "/batches") and len(lost) < 4:
            lost.append(path)
            return 500, {}, {"error": {"message": "we lost your answer"}}
        return None

    with FakeServer(shout) as server:
        server.after = after
        assert ask(ledger, server.base_url, questions(60)).asked == 60
    assert len(lost) == 4
    assert asked_once(server, 60)
    assert len(rows(ledger)) == 60


def test_the_budget_ends_it_cleanly_and_knows_what_is_on_its_way(ledger):
    """Money of files on their way since an earlier run is not spent again: here, of another step."""
    asks = list(questions(100, text="x" * 291, tokens=20))  # at most what it costs: 120 tokens
    other = json.dumps({"step": "generate", "usd": {"a": 10 * COST, "b": 20 * COST}})
    ledger.add(Batch("batch_x", "http://other/v1", "", other, "sent"))
    with FakeServer() as server:
        outcome = ask(ledger, server.base_url, asks, Budget(PRICE, 0.0, 75.5 * COST))
        assert (outcome.asked, outcome.stopped) == (45, "budget")
        assert ledger.spent() == pytest.approx(45 * COST)
        outcome = ask(ledger, server.base_url, asks, Budget(PRICE, ledger.spent(), 85.5 * COST))
    assert (outcome.asked, outcome.stopped) == (10, "budget")
    assert asked_once(server, 55)


def interrupted(ledger, server, asks, **settings):
    """Sends all and is told to end while it waits."""

    def end():
        while not server.batches or states_apart(path) != {"sent"}:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    (_, _, path), *_ = ledger.query("PRAGMA database_list")

    server.looks = 10**6
    thread = threading.Thread(target=end)
    thread.start()
    outcome = ask(ledger, server.base_url, asks, **settings)
    thread.join()
    for batch in server.batches:
        batch["looks"] = 1
    server.looks = 1
    return outcome


def states_apart(path):
    """As another thread may ask for them."""
    with sqlite3.connect(path) as db:
        return {state for (state,) in db.execute("SELECT state FROM batches")}


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
        judged = list(questions(5, step="judge"))  # another step has nothing to do with it
        assert ask(ledger, other.base_url, judged, step="judge").asked == 5
        batches, server.batches = server.batches, []
        with pytest.raises(AskingError, match=r"batch_0 \(if it is gone for good, take it out of the ledger's table"):
            ask(ledger, server.base_url, questions(10))
        server.batches = batches
        assert ask(ledger, server.base_url, questions(10)).asked == 10
    assert asked_once(server, 10)


def test_what_is_no_longer_asked_is_paid_for_and_has_its_reason(ledger, caplog):
    with FakeServer(shout) as server:
        interrupted(ledger, server, questions(10))
        asks = [*list(questions(10))[4:], *questions(3, text="What else?")]
        assert ask(ledger, server.base_url, asks).asked == 9
    assert [row.reason for row in ledger.rows(AnswerRow, "step = 'caption'")].count("no_longer_asked") == 4
    (row, *_) = ledger.rows(AnswerRow, "reason = 'no_longer_asked'")
    assert row.text.startswith("WHAT IS")
    assert (row.read, row.image) == (1, "")
    assert "no_longer_asked" in REASONS
    assert ledger.spent() == pytest.approx(13 * COST)


def test_a_strange_line_is_told(ledger, caplog):
    with FakeServer(shout) as server:
        interrupted(ledger, server, questions(2))
        line = {"custom_id": "strange", "response": {"status_code": 200, "body": completion("x", {"model": "m"})}}
        name = server.batches[0]["then"]["output_file_id"]
        first = server.files[name].splitlines()[0]
        server.files[name] += b"\n" + json.dumps(line).encode() + b"\n" + first + b"\n"
        with caplog.at_level(logging.WARNING):
            ask(ledger, server.base_url, questions(2))
    assert caplog.text.count("was not asked or is answered") == 2
    assert len(rows(ledger)) == 2
    assert ledger.spent() == pytest.approx(2 * COST)


def asks_all(folder):
    """In a child that is killed."""
    batch_files.LINES, batch_files.AT_ONCE = 7, 3
    with Ledger(folder / "ledger") as ledger:
        return ask(ledger, (folder / "address").read_text(), questions(QUESTIONS)).asked < 0


def test_twenty_kills_lose_and_double_nothing(tmp_path):
    """At any moment: while files are sent, while they are looked at, while their answers are written."""
    rng, kills = random.Random(0), 0
    events = [0]

    def slow(method, path):
        events[0] += 1
        time.sleep(0.002)

    with FakeServer(shout) as server, nursery("tests.test_batch_files", tmp_path) as children:
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
    send = batch_server.BatchServer.send

    async def killed(self, file, tags):
        if moment == "after":
            await send(self, file, tags)
        raise Killed

    monkeypatch.setattr(batch_server, "SETTLING", 0.0)
    with FakeServer(shout) as server:
        with monkeypatch.context() as patch:
            patch.setattr(batch_server.BatchServer, "send", killed)
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
    def killed(self, sent):
        raise Killed

    with FakeServer(shout) as server:
        with monkeypatch.context() as patch:
            patch.setattr(batch_files._Filing, "_taken", killed)
            with pytest.raises(Killed):
                ask(ledger, server.base_url, questions(10))
        assert rows(ledger) == []
        assert states(ledger) == ["sent"]
        ask(ledger, server.base_url, questions(10))
    assert len(rows(ledger)) == 10
    assert ledger.spent() == pytest.approx(10 * COST)
