"""One address and key: what is sent, what errors mean, how much a minute, and that the key stays where it is."""

import asyncio
import dataclasses
import itertools
import os
import time

import pydantic
import pytest

from mmfuser_jax.mminstruct.asking.endpoints import ATTEMPTS, AskingError, Endpoint, Pace, body_of
from mmfuser_jax.mminstruct.asking.server import Server
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.reasons import PASSING
from mmfuser_jax.mminstruct.schema import AnswerRow
from tests.fake_openai import FakeServer, completion
from tests.test_asking import ask, questions

KEY = "sk-Proj-Secret"


def said(status, message="no", **error):
    return status, {}, {"error": {"message": message, **error}}


@pytest.mark.parametrize("status", [408, 425])
def test_a_server_that_was_too_slow_or_is_asked_too_early_is_asked_again(status):
    with FakeServer(lambda body, before: "fine" if before else said(status)) as server:
        ((answer, _),), _ = ask(server, questions(1))
    assert (answer.text, answer.attempts) == ("fine", 2)
    with FakeServer(lambda *_: said(status)) as server:
        ((answer, _),), _ = ask(server, questions(1))
    assert (answer.reason, answer.attempts) == ("busy", ATTEMPTS)


def test_where_something_was_answered_only_the_question_is_forbidden():
    def reply(body, before):
        return said(403, "not this one") if body["messages"][1]["content"] == "What is 3?" else "fine"

    with FakeServer(reply) as server:
        taken, _ = ask(server, questions(6), proven=True)
        assert {answer.ask.seed: answer.reason for answer, _ in taken if answer.reason} == {3: "refused_by_server"}
        assert len(taken) == 6
        with pytest.raises(AskingError, match="not this one"):
            ask(server, list(questions(4))[3:])


@pytest.mark.parametrize("message", ["This model requires moderation", "Your input was Flagged for violence"])
def test_a_question_that_a_filter_forbids_is_not_what_all_would_meet(message):
    def reply(body, before):
        return said(403, message) if body["messages"][1]["content"] == "What is 0?" else "fine"

    with FakeServer(reply) as server:
        taken, _ = ask(server, questions(4))
    assert {answer.ask.seed: answer.reason for answer, _ in taken if answer.reason} == {0: "content_filter"}


@pytest.mark.parametrize("error", [{"code": "insufficient_quota"}, {"type": "insufficient_quota", "code": None}])
def test_a_server_whose_account_is_empty_is_not_thought_busy(error):
    number = itertools.count(1)

    def reply(body, before):
        return said(429, "you exceeded your current quota", **error) if next(number) > 10 else "fine"

    taken = []
    with FakeServer(reply) as server:
        with pytest.raises(AskingError, match=r"model m: .*exceeded your current quota"):
            ask(server, questions(1000), taken=taken)
        assert len(server.bodies) < 30
    assert [answer.text for answer, _ in taken] == ["fine"] * 10


def test_models_that_reason_are_asked_in_their_words():
    """They refuse max_tokens, and any temperature but their own."""

    def reply(body, before):
        if "max_tokens" in body:
            return said(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return said(400, "Unsupported value: 'temperature'") if body.get("temperature", 1) != 1 else "fine"

    settings = {"tokens_field": "max_completion_tokens", "extra": {"reasoning_effort": "low", "a": {"b": [1]}}}
    with FakeServer(reply) as server:
        ((answer, _),), _ = ask(server, questions(1, tokens=77), temperature=None, **settings)
        (body,) = server.bodies
        assert answer.text == "fine"
        assert (body["max_completion_tokens"], body["reasoning_effort"], body["a"]) == (77, "low", {"b": [1]})
        taken, _ = ask(server, questions(1), temperature=1.0, **settings)
        assert taken[0][0].text == "fine"
        with pytest.raises(AskingError, match=r"max_completion_tokens.*look at .*tokens_field, temperature and extra"):
            ask(server, questions(30))
    asked = next(questions(1, tokens=77))
    whole = body_of(asked, Server(base_url="http://x", model="m", temperature=None, **settings), None)
    assert whole == {name: value for name, value in body.items() if name != "authorization"}


def test_what_a_config_says_of_a_server_is_checked():
    for fields, match in (
        ({"base_url": "api.example.org/v1"}, "'api.example.org/v1' is no address; write it as https://"),
        ({"base_url": "ftp://example.org"}, "is no address"),
        ({"extra": {"stream": True}}, "stream is given by the program"),
        ({"extra": {"temperature": 1}}, "temperature is given by the program"),
        ({"tokens_field": "tokens"}, "max_completion_tokens"),
    ):
        with pytest.raises(pydantic.ValidationError, match=match):
            Server(**{"base_url": "http://x", "model": "m", **fields})


@pytest.mark.parametrize(
    "reply",
    [
        lambda text: said(400, text),
        lambda text: said(503, text),
        lambda text: (200, {}, {"choices": [], "seen": text}),
    ],
)
def test_a_key_that_a_server_repeats_is_not_written_down(reply, monkeypatch, caplog):
    """The server of the test repeats it in small letters, and where details are cut off."""
    monkeypatch.setenv("KEY", KEY)
    for shift in range(0, len(KEY), 5):
        with FakeServer(lambda body, _, x="x" * shift: reply(x + 30 * body["authorization"][7:])) as server:
            ((answer, _),), _ = ask(server, questions(1), variables=("KEY",))
        assert answer.reason
        assert "sk-" not in answer.detail.lower() + caplog.text.lower()
        assert len(answer.detail) <= 350


def test_a_key_that_a_server_repeats_is_in_no_message(monkeypatch):
    monkeypatch.setenv("KEY", KEY)
    for status in (401, 400):
        with (
            FakeServer(lambda body, _, status=status: said(status, f"wrong: {body['authorization']}")) as server,
            pytest.raises(AskingError, match="wrong: bearer …") as error,
        ):
            ask(server, questions(20), variables=("KEY",))
        assert "secret" not in str(error.value).lower()


def test_an_address_where_nothing_listens_is_told_with_its_cause_and_soon(caplog):
    with FakeServer() as server:
        pass
    begun = time.monotonic()
    with pytest.raises(
        AskingError, match=rf"first 8 .*{server.base_url}: .*connection attempts failed.*base_url"
    ) as error:
        ask(server, questions(1000), patience=1.0)
    assert time.monotonic() - begun < 20
    assert "unreachable" in str(error.value)
    assert caplog.text.count(f"{server.base_url}: APIConnectionError") == 1


def test_questions_larger_than_what_a_minute_allows_wait_longer():
    """A thousand tokens a second, of which those of a minute may go at once."""
    with FakeServer() as server:
        begun = time.monotonic()
        taken, _ = ask(server, questions(1, tokens=61_500), tokens_per_minute=60_000)
    assert 1.5 < time.monotonic() - begun < 30
    assert taken[0][0].text == "fine"


def test_a_pace_that_gets_no_answer_is_avoided_for_longer_and_longer():
    pace, waits = Pace(64), []
    for _ in range(8):
        pace.pushed_back(time.monotonic(), 0.0)
        waits.append(pace.avoided_until - time.monotonic())
        time.sleep(0.001)
    assert waits[0] <= 0  # it may be chance
    assert 1 <= waits[1] <= 3
    assert 15 <= waits[5] <= 90
    assert waits[7] <= 90
    assert pace.free(time.monotonic())  # where there is no other
    pace.answered()
    assert pace.avoided_until <= time.monotonic()


def test_a_question_is_asked_once_at_a_time():
    async def once(server):
        endpoint = Endpoint(Server(base_url=server.base_url, model="m"), "")
        try:
            return await endpoint.ask(next(questions(1)), None, False)
        finally:
            await endpoint.close()

    with FakeServer(lambda *_: said(503)) as server:
        answer = asyncio.run(once(server))
        assert len(server.bodies) == 1
    assert answer.reason in PASSING


@pytest.mark.parametrize("key", ["sk secret", "sk-sécret", "sk-secret\x00"])
def test_what_can_be_no_key_is_not_said(monkeypatch, key):
    monkeypatch.setattr(os, "environ", {**os.environ, "A_KEY": key})
    with pytest.raises(AskingError, match="A_KEY: what it holds is no key") as error:
        Endpoint(Server(base_url="http://localhost/v1", model="m"), "A_KEY")
    assert "cret" not in str(error.value)


def test_a_line_s_end_after_a_key_is_none_of_it(monkeypatch):
    monkeypatch.setenv("A_KEY", f"{KEY}\n")
    with FakeServer() as server:
        ask(server, questions(1), variables=("A_KEY",))
        assert server.bodies[0]["authorization"] == f"bearer {KEY.lower()}"


ODD = {
    "What is 0?": ("cut \ud83d", "cut ?", ""),
    "What is 1?": ([{"type": "text", "text": "in parts"}], "", "garbage"),
    "What is 2?": (7, "", "garbage"),
    "What is 3?": (None, "", ""),
}


def odd(body, before):
    """A reply that no ledger could hold."""
    answer = completion(ODD[body["messages"][1]["content"]][0], body)
    answer["usage"]["prompt_tokens"] = "many"
    return 200, {}, answer


def test_odd_replies_are_states_and_can_be_written(tmp_path):
    with FakeServer(odd) as server:
        taken, _ = ask(server, questions(4))
    with Ledger(tmp_path / "ledger") as ledger:
        for answer, usd in taken:
            ledger.add_answer(dataclasses.replace(answer.row(usd), image=f"{answer.ask.seed}"))
        rows = list(ledger.rows(AnswerRow, order="image"))
    assert [(row.text, row.reason) for row in rows] == [said[1:] for said in ODD.values()]
    assert {row.input_tokens for row in rows} == {0}
