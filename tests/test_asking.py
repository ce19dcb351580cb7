"""Questions to a server that is slow, busy, broken or wrong: each is answered or has a reason, and is paid for once."""

import os
import random
import resource
import signal
import threading
import time

import pytest

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.endpoints import ATTEMPTS, AskingError, Endpoint, Pace
from mmfuser_jax.mminstruct.asking.online import Budget, ask_all
from mmfuser_jax.mminstruct.asking.prices import HEAD, NAME, Price, PriceError, Tokens, price_of
from mmfuser_jax.mminstruct.asking.server import Server
from mmfuser_jax.mminstruct.asking.trust import Trust
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import ProjectError
from mmfuser_jax.mminstruct.reasons import PASSING
from mmfuser_jax.mminstruct.schema import AnswerRow
from tests.fake_openai import FakeServer, completion
from tests.nursery import nursery

FREE = Price(0.0, 0.0)
QUESTIONS = 1200


def questions(count, **fields):
    for number in range(count):
        given = {"step": "caption", "domain": "posters", "image": "", "kind": "long", "language": "en", "prompt": "c@1"}
        yield Ask(**{**given, "seed": number, "system": "Be brief.", "text": f"What is {number}?", **fields})


def ask(server, asks, *, variables=("",), taken=None, **settings):
    """(answers with costs, outcome); these are in `taken` too, however it ends."""
    taken = [] if taken is None else taken
    given = {name: settings.pop(name) for name in ("budget", "picture", "proven") if name in settings}
    settings = {"base_url": server.base_url, "model": "m", "patience": 0.02, **settings}
    return taken, asked([Endpoint(Server(**settings), name) for name in variables], asks, taken.extend, **given)


def asked(endpoints, asks, take, *, budget=None, picture=lambda ask: b"a picture", proven=False):
    """The outcome."""
    return ask_all(asks, endpoints, budget or Budget(FREE, 0.0, None), picture, take, Trust(proven))


def test_every_question_has_its_answer():
    with FakeServer(lambda body, before: body["messages"][1]["content"].upper()) as server:
        taken, outcome = ask(server, questions(50))
    assert outcome.asked == 50
    assert outcome.stopped == ""
    assert sorted(answer.text for answer, _ in taken) == sorted(f"WHAT IS {x}?" for x in range(50))
    assert all(answer.text == answer.ask.text.upper() for answer, _ in taken)
    assert {answer.tokens for answer, _ in taken} == {Tokens(100, 20)}
    assert {(answer.finish, answer.reason, answer.model) for answer, _ in taken} == {("stop", "", "m")}


def test_b1_what_is_sent_by_the_client_of_today():
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    with FakeServer() as server:
        ask(server, questions(1, shown=True, schema=schema, tokens=77), temperature=0.0)
        ask(server, questions(1, schema=schema), json_schema=False)
    first, second = server.bodies
    text, image = first["messages"][1]["content"]
    assert text["text"] == "What is 0?"
    assert image["image_url"]["url"] == "data:image/jpeg;base64,YSBwaWN0dXJl"
    assert (first["max_tokens"], first["temperature"], first["seed"]) == (77, 0.0, 0)
    assert first["response_format"]["json_schema"]["schema"] == schema
    assert "response_format" not in second


@pytest.mark.parametrize("status", [429, 500, 503, 409])
def test_b2_a_busy_server_is_asked_again(status):
    def reply(body, before):
        return (status, {"retry-after": "0.01"}, {"error": {"message": "later"}}) if before < 2 else "fine"

    with FakeServer(reply) as server:
        taken, _ = ask(server, questions(4))
    assert [(answer.text, answer.attempts) for answer, _ in taken] == [("fine", 3)] * 4


def test_a_server_that_stays_busy_is_given_up():
    with FakeServer(lambda *_: (503, {}, {"error": {"message": "later"}})) as server:
        ((answer, _),), _ = ask(server, questions(1))
    assert (answer.reason, answer.attempts) == ("busy", ATTEMPTS)
    assert "later" in answer.detail
    assert answer.reason in PASSING


def test_a_server_that_hangs_or_is_gone():
    with FakeServer(lambda body, before: "hang" if before < 1 else "fine") as server:
        ((answer, _),), _ = ask(server, questions(1), timeout_seconds=0.3)
    assert (answer.text, answer.attempts) == ("fine", 2)
    ((answer, _),), _ = ask(server, questions(1))  # which has ended
    assert answer.reason == "unreachable"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((400, {}, {"error": {"message": "bad", "code": "content_policy_violation"}}), "content_filter"),
        ((400, {}, {"error": {"message": "too long"}}), "refused_by_server"),
        ((422, {}, {"error": {"message": "no"}}), "refused_by_server"),
        ((200, {}, "<html>hello</html>"), "garbage"),
        ((200, {"content-type": "application/json"}, '{"choices": [{"mess'), "garbage"),
        ((200, {}, {"choices": []}), "garbage"),
        ((200, {}, {}), "garbage"),
    ],
)
def test_an_answer_that_is_none_has_its_reason(reply, reason):
    with FakeServer(lambda *_: reply) as server:
        ((answer, _),), _ = ask(server, questions(1))
    assert (answer.reason, answer.text, answer.attempts) == (reason, "", 1)
    assert answer.reason not in PASSING


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_how_an_answer_ends_is_a_state(finish):
    with FakeServer(lambda body, _: (200, {}, completion("half of", body, finish))) as server:
        ((answer, _),), _ = ask(server, questions(1))
    assert (answer.text, answer.finish, answer.reason) == ("half of", finish, "")


def test_a_refusal_is_a_state():
    with FakeServer(lambda body, _: (200, {}, completion(None, body, refusal="I will not."))) as server:
        ((answer, _),), _ = ask(server, questions(1))
    assert (answer.text, answer.finish) == ("I will not.", "refusal")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_question_would_survive_ends_it_all(status):
    with FakeServer(lambda *_: (status, {}, {"error": {"message": "no such key"}})) as server:
        with pytest.raises(AskingError, match=r"127.0.0.1:\d+/v1, model m: .*no such key"):
            ask(server, questions(1000))
        assert len(server.bodies) < 20


def test_b3_keys_come_from_the_environment_and_share_the_work(monkeypatch):
    monkeypatch.setenv("ONE", "secret1")
    monkeypatch.setenv("TWO", "secret2")
    with FakeServer(latency=0.01) as server:
        ask(server, questions(60), variables=("ONE", "TWO"))
        counts = [
            sum(body["authorization"] == f"bearer {key}" for body in server.bodies) for key in ("secret1", "secret2")
        ]
        assert sum(counts) == 60
        assert min(counts) > 10
        with pytest.raises(AskingError, match="the environment has no THREE") as error:
            ask(server, questions(1), variables=("THREE",))
    assert "secret" not in str(error.value)
    with pytest.raises(ProjectError, match="no server to ask"):
        asked([], questions(1), lambda answers: None)


def test_pace_grows_with_answers_and_is_cut_once_a_round():
    pace = Pace(64)
    for _ in range(200):
        pace.answered()
    grown = pace.limit
    assert 15 < grown < 25
    began = time.monotonic()
    for _ in range(10):  # all of one round
        pace.pushed_back(began, 0.0)
    assert pace.limit == pytest.approx(0.75 * grown)
    pace.pushed_back(time.monotonic(), 30.0)
    assert pace.limit == pytest.approx(0.75**2 * grown)
    assert not pace.free(time.monotonic())
    assert pace.free(time.monotonic() + 31)
    for _ in range(10_000):
        pace.answered()
    assert pace.limit == 64


def test_a_server_with_room_for_few_is_not_flooded():
    """It pushes back above eight; asked for as many as it can bear, it seldom has to."""
    with FakeServer(latency=0.02) as server:
        server.reply = lambda *_: (429, {}, {"error": {"message": "busy"}}) if server._now > 8 else "fine"
        taken, _ = ask(server, questions(400), most=64)
    assert sum(answer.text == "fine" for answer, _ in taken) == 400
    assert len(server.bodies) < 800
    assert server.most < 40


def test_requests_a_minute():
    with FakeServer() as server:
        begun = time.monotonic()
        ask(server, questions(21), requests_per_minute=240)  # never more than a quarter of a second's
    assert 4.9 < time.monotonic() - begun < 30


def test_the_budget_ends_it_cleanly():
    price = Price(1000.0, 1000.0)  # 0.12 an answer
    budget = Budget(price, 0.5, 5.0)
    with FakeServer(latency=0.01) as server:
        taken, outcome = ask(server, questions(1000, text="x" * 291, tokens=20), budget=budget)
    assert outcome.stopped == "budget"
    assert all(answer.text for answer, _ in taken)
    assert len(taken) == len(server.bodies)
    assert sum(cost for _, cost in taken) == pytest.approx(0.12 * len(taken))
    assert 4.5 < budget.spent <= 5.0


def test_b4_questions_wait_beside_each_other_with_flat_memory():
    """At a latency of 50 ms; memory does not grow with the number of questions."""
    count = [0]

    def take(taken):
        count[0] += len(taken)

    with FakeServer(latency=0.05) as fake:
        fake.bodies, fake._seen = Forgetful(), Nothing()
        server = Server(base_url=fake.base_url, model="m", most=64)
        begun = time.monotonic()
        asked([Endpoint(server, "")], questions(1500), take)
        rate = 1500 / (time.monotonic() - begun)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fake.latency = 0.0
        asked([Endpoint(server, "")], questions(3000), take)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert count[0] == 4500
    assert grown < 20_000, "kilobytes"
    print(f"{rate:.0f} a second")
    assert rate > 40  # beside whatever else the machine does


class Forgetful(list):
    def append(self, _):
        """Keeps nothing."""


class Nothing(dict):
    def __setitem__(self, *_):
        """Keeps nothing."""


def settled(ledger, step="caption"):
    """Keys of questions that need not be asked again."""
    marks = ", ".join("?" * len(PASSING))
    sql = f"SELECT key FROM answers WHERE step = ? AND reason NOT IN ({marks})"
    return {key for (key,) in ledger.query(sql, (step, *PASSING))}


def asked_into(ledger, server, count):
    """Asks whatever the ledger has no answer of."""
    known = settled(ledger)

    def take(taken):
        with ledger.changes():
            for answer, cost in taken:
                ledger.add_answer(answer.row(cost))

    asks = (ask for ask in questions(count) if ask.key("m") not in known)
    return asked([Endpoint(server, "")], asks, take, budget=Budget(Price(1.0, 1.0), ledger.spent(), None))


def asks_all(folder):
    """In a child that is killed."""
    with Ledger(folder / "ledger") as ledger:
        address = (folder / "address").read_text()
        return asked_into(ledger, Server(base_url=address, model="m", most=8), QUESTIONS).asked < 0


def test_b6_thirty_kills_lose_and_double_nothing(tmp_path):
    """In the end all are answered, and no more were paid twice than were on their way."""
    rng, kills = random.Random(0), 0
    with (
        FakeServer(lambda body, before: body["messages"][1]["content"].upper(), latency=0.01) as server,
        nursery("tests.test_asking", tmp_path) as children,
    ):
        (tmp_path / "address").write_text(server.base_url)
        while kills < 30:
            sent, child = len(server.bodies), children.begin("asks_all")
            while len(server.bodies) < sent + rng.randrange(1, 60) and children.lives(child):
                time.sleep(rng.random() * 0.01)
            os.kill(child, signal.SIGKILL)
            assert children.end() == -signal.SIGKILL, children.errors()
            kills += 1
        children.begin("asks_all")
        assert children.end() == 0, children.errors()
    with Ledger(tmp_path / "ledger") as ledger:
        rows = list(ledger.rows(AnswerRow, "step = 'caption'", order="key"))
        assert ledger.spent() == pytest.approx(QUESTIONS * 120e-6)
    assert [x.text for x in sorted(rows, key=lambda x: x.seed)] == [f"WHAT IS {x}?" for x in range(QUESTIONS)]
    assert QUESTIONS < len(server.bodies) <= QUESTIONS + kills * 8


def test_what_failed_for_a_passing_reason_is_asked_by_the_next_run(tmp_path):
    up = threading.Event()

    def reply(body, before):
        if "What is 3?" in body["messages"][1]["content"] and not up.is_set():
            return 503, {}, {"error": {"message": "later"}}
        if "What is 4?" in body["messages"][1]["content"]:
            return 400, {}, {"error": {"message": "never"}}
        return "fine"

    with FakeServer(reply) as fake, Ledger(tmp_path / "ledger") as ledger:
        server = Server(base_url=fake.base_url, model="m", patience=0.01)
        asked_into(ledger, server, 6)
        assert {x.seed: x.reason for x in ledger.rows(AnswerRow, "step = 'caption'", order="key") if x.reason} == {
            3: "busy",
            4: "refused_by_server",
        }
        up.set()
        fake.bodies.clear()
        assert asked_into(ledger, server, 6).asked == 1
        (late,) = (x for x in ledger.rows(AnswerRow, "step = 'caption'", order="key") if x.seed == 3)
        assert (late.text, late.attempts) == ("fine", ATTEMPTS + 1)


def test_a_signal_waits_for_what_is_on_its_way():
    told = []

    def reply(body, before):
        if len(server.bodies) >= 6 and not told:  # surely it is listening by now
            told.append(os.getpid())
            os.kill(os.getpid(), signal.SIGTERM)
        return "fine"

    with FakeServer(reply, latency=0.2) as server:
        taken, outcome = ask(server, questions(500), most=4)
    assert outcome.stopped == "SIGTERM"
    assert 6 <= len(taken) == len(server.bodies) < 50
    assert all(answer.text == "fine" for answer, _ in taken)


def test_equal_questions_have_equal_keys():
    (one,), (other,) = questions(1), questions(1, text="What else?")
    assert one.key("m") == next(questions(1)).key("m")
    assert len({one.key("m"), one.key("n"), other.key("m")}) == 3
    assert isinstance(Answer(one, "m").tokens, Tokens)


def test_prices_are_looked_up_once_and_kept_with_their_date(tmp_path):
    price = price_of("gpt-4o-mini", tmp_path)
    assert price.input > 0
    assert price.of(Tokens(1_000_000, 0)) == price.input
    text = (tmp_path / NAME).read_text()
    assert "genai-prices" in text
    assert "date: '20" in text
    (tmp_path / NAME).write_text("gpt-4o-mini: {input: 1, output: 2}\nllava: {input: 0, output: 0}\n")
    assert price_of("gpt-4o-mini", tmp_path) == Price(1.0, 2.0)
    assert price_of("llava", tmp_path) == FREE
    with pytest.raises(
        PriceError, match=r"no price is known of 'vicuna'; write one into .*prices.yaml, such as: vicuna: "
    ):
        price_of("vicuna", tmp_path)
    (tmp_path / NAME).write_text(HEAD)
    assert price_of("gpt-4o-mini", tmp_path) == price
    (tmp_path / NAME).write_text("- 3\n")
    with pytest.raises(PriceError, match="not models with input and output"):
        price_of("llava", tmp_path)
