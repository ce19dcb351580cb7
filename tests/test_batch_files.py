"""Questions in files: each is sent once and answered once, within the budget, whatever the server does."""

import json

import pytest

from mmfuser_jax.mminstruct.asking import batch_files, batch_server
from mmfuser_jax.mminstruct.asking.endpoints import ATTEMPTS, AskingError, body_of
from mmfuser_jax.mminstruct.asking.online import Budget
from mmfuser_jax.mminstruct.asking.server import Server
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.schema import Batch
from tests.batch_asking import COST, PRICE, ask, asked_once, interrupted, questions, rows, shout, states
from tests.fake_openai import FakeServer


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        yield ledger


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
    asks = list(questions(100, text="x" * 291, tokens=20))  # at most what it costs: 120 tokens
    with FakeServer() as server:
        interrupted(ledger, server, asks[50:60])
        outcome = ask(ledger, server.base_url, asks, Budget(PRICE, 0.0, 45.5 * COST))
        assert (outcome.asked, outcome.stopped) == (45, "budget")
        assert ledger.spent() == pytest.approx(45 * COST)
        outcome = ask(ledger, server.base_url, asks, Budget(PRICE, ledger.spent(), 55.5 * COST))
    assert (outcome.asked, outcome.stopped) == (10, "budget")
    assert asked_once(server, 55)


def test_a_server_that_refuses_everything_gets_no_more_files(ledger, monkeypatch):
    """Two are on their way before the first answer: both are taken."""
    monkeypatch.setattr(batch_files, "AT_ONCE", 2)
    with FakeServer(lambda *_: (400, {}, {"error": {"message": "no schemas here"}})) as server:
        with pytest.raises(
            AskingError, match=r"none of the first 8 questions was answered \(refused.*no schemas here\)"
        ):
            ask(ledger, server.base_url, questions(100))
        assert [row.reason for row in rows(ledger)] == ["refused_by_server"] * 20
        assert len(server.batches) == 2
        assert ledger.spent() == 0
        server.reply = shout
        assert ask(ledger, server.base_url, questions(100)).asked == 80


def test_what_was_sent_before_a_mistake_was_mended_is_taken_once_and_told(ledger):
    with FakeServer(lambda *_: (400, {}, {"error": {"message": "no schemas here"}})) as server:
        interrupted(ledger, server, questions(30), until=lambda states: len(server.batches) == 3 and states == {"sent"})
        for batch in server.batches:
            batch["looks"] = 0  # done long ago
        server.reply = shout
        with pytest.raises(AskingError, match="none of the first 8 questions was answered"):
            ask(ledger, server.base_url, questions(60))
        assert (len(server.batches), states(ledger)) == (3, ["taken"] * 3)
        assert ask(ledger, server.base_url, questions(60)).asked == 30
    assert asked_once(server, 60)


def test_one_answer_in_a_file_is_enough_to_go_on(ledger):
    """Whether or not it is among the first; and what one file lacks does not count against the next."""

    def reply(body, before):
        last = body["messages"][1]["content"].removesuffix("?").endswith("9")
        return "fine" if last else (500, {}, {"error": {"message": "broken"}})

    with FakeServer(reply) as server:
        assert ask(ledger, server.base_url, questions(100)).asked == 100
    assert [row.reason for row in rows(ledger)].count("busy") == 90


def test_money_that_comes_back_is_used(ledger):
    """Answers cost an eighth of what is set aside for them."""
    budget = Budget(PRICE, 0.0, 110 * COST)
    with FakeServer() as server:
        outcome = ask(ledger, server.base_url, questions(100), budget)
    assert (outcome.asked, outcome.stopped) == (100, "")
    assert asked_once(server, 100)
    assert budget.spent == pytest.approx(100 * COST)
    assert budget._reserved == pytest.approx(0.0)
