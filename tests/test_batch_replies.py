"""What a server says about questions in a file: every question has an answer or a reason."""

import json
import logging

import pytest

from mmfuser_jax.mminstruct.asking.batch_replies import Line, answer_of, lines_of
from mmfuser_jax.mminstruct.asking.endpoints import AskingError
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import ProjectError
from mmfuser_jax.mminstruct.reasons import ANSWERS as REASONS
from tests.batch_asking import COST, ask, asked_once, interrupted, questions, rows, shout, states
from tests.fake_openai import FakeServer, completion
from tests.test_endpoints import ODD, odd


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        yield ledger


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
    answers = [answer_of(question, "m", line, False, str) for line in lines]
    assert [line.key for line in lines] == ["a", "b", "c"]
    assert [(answer.text, answer.finish, answer.reason) for answer in answers] == [
        ("x", "stop", ""), ("", "", "refused_by_server"), ("", "", "busy"),
    ]  # fmt: skip
    assert "no such picture" in answers[1].detail
    assert answer_of(question, "m", Line("a", 503, {}, {}), False, str).reason == "busy"


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


@pytest.mark.parametrize("status", [400, 401])
def test_a_key_that_a_server_repeats_is_written_nowhere(ledger, monkeypatch, caplog, status):
    monkeypatch.setenv("KEY", "secret-key")
    error = {"error": {"message": f"{'x' * 270} your key Secret-Key is known"}}  # cut in the middle of it
    with FakeServer(lambda *_: (status, {}, error)) as server:
        with pytest.raises(AskingError, match="your key … is") as raised:
            ask(ledger, server.base_url, questions(10), variables=["KEY"])
        server.trouble = lambda method, path: (400, {}, {"error": {"message": "your key Secret-Key"}})
        with pytest.raises(AskingError, match="your key …") as again:
            ask(ledger, server.base_url, questions(20), variables=["KEY"])
    assert "your key …" in rows(ledger)[0].detail
    said = "".join([str(raised.value), str(again.value), caplog.text, *(row.detail for row in rows(ledger))])
    assert "secret" not in said.lower()


def test_a_forbidden_question_is_no_wrong_key_where_others_were_answered(ledger):
    def reply(body, before):
        number = int(body["messages"][1]["content"].removeprefix("What is ").removesuffix("?"))
        message = {3: "flagged by moderation", 4: "not this one"}.get(number, "")
        return (403, {}, {"error": {"message": message}}) if message else "fine"

    with FakeServer(reply) as server:
        assert ask(ledger, server.base_url, questions(10)).asked == 10
    assert [row.reason for row in rows(ledger)][3:5] == ["content_filter", "refused_by_server"]
    assert {row.text for row in rows(ledger)[5:]} == {"fine"}


def test_no_money_ends_it_whatever_status_says_so(ledger):
    error = {"error": {"message": "look at your bill", "code": "insufficient_quota"}}
    with FakeServer(lambda *_: (429, {}, error)) as server, pytest.raises(AskingError, match="look at your bill"):
        ask(ledger, server.base_url, questions(5))
    assert {row.reason for row in rows(ledger)} == {"busy"}


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


def test_odd_replies_are_states_and_hold_no_file_up(ledger):
    with FakeServer(odd) as server:
        assert ask(ledger, server.base_url, questions(4)).asked == 4
    assert [(row.text, row.reason) for row in rows(ledger)] == [said[1:] for said in ODD.values()]
    assert states(ledger) == ["taken"]


def test_an_address_that_is_none_of_a_server_of_files_is_said(ledger):
    with FakeServer() as server:
        server.trouble = lambda method, path: (200, {}, "<html>welcome</html>")
        with pytest.raises(
            AskingError, match=r"a file of questions: not what a server of files answers .*look at base_url"
        ):
            ask(ledger, server.base_url, questions(4))


def test_a_file_that_is_gone_keeps_no_other_from_being_taken(ledger):
    with FakeServer(shout) as server:
        interrupted(ledger, server, questions(20), until=lambda states: len(server.batches) == 2)
        gone = server.batches[0]["id"]
        server.batches[1]["looks"] = 0
        server.trouble = lambda method, path: (404, {}, {"error": {"message": "gone"}}) if path.endswith(gone) else None
        with pytest.raises(AskingError, match="gone"):
            ask(ledger, server.base_url, questions(20))
    assert len(rows(ledger)) == 10
