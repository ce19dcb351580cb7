"""Questions asked by processes of a Ray cluster, and by machines that share nothing: the same ledger as of one process."""

import dataclasses
import itertools
import os
import signal
import sys
from pathlib import Path

import pytest

from mmfuser_jax.mminstruct.asking import on_ray as ray_asking
from mmfuser_jax.mminstruct.asking.endpoints import AskingError, Endpoint
from mmfuser_jax.mminstruct.asking.on_ray import CHUNK, ask_on_ray, shares
from mmfuser_jax.mminstruct.asking.online import Budget, ask_all
from mmfuser_jax.mminstruct.asking.prices import Price
from mmfuser_jax.mminstruct.asking.server import Server
from mmfuser_jax.mminstruct.asking.trust import Trust
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import ProjectError
from mmfuser_jax.mminstruct.schema import AnswerRow
from mmfuser_jax.mminstruct.steps.servers import Way
from mmfuser_jax.mminstruct.steps.work import work
from tests import batch_asking, fake_model
from tests.batch_asking import shout
from tests.fake_openai import FakeServer
from tests.step_project import project_of
from tests.test_asking import ask, questions

pytestmark = pytest.mark.filterwarnings("ignore:os.fork")  # by Ray, beside what JAX has begun in this process

PRICE = Price(1.0, 1.0)
SECRET = "secret-which-nobody-else-may-see"


@pytest.fixture(scope="module")
def ray():
    """A cluster of two workers, whose environment has a key."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("KEY_FOR_RAY", SECRET)
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
        yield ray
        ray.shutdown()


def server_of(fake, **settings):
    return Server(**{"base_url": fake.base_url, "model": "m", "keys": ["KEY_FOR_RAY"], "patience": 0.02, **settings})


def on_ray(servers, asks, budget=None, workers=2, trust=None, taken=None):
    """(answers with costs, outcome)."""
    taken = [] if taken is None else taken
    budget = budget or Budget(PRICE, 0.0, None)
    outcome = ask_on_ray(asks, servers, budget, lambda ask: b"a picture", taken.extend, trust or Trust(False), workers)
    return taken, outcome


def written(folder, taken):
    """What a ledger has of answers, but times."""
    folder.mkdir()
    with Ledger(folder / "ledger") as ledger:
        with ledger.changes():
            for answer, cost in taken:
                ledger.add_answer(answer.row(cost))
        return contents(ledger)


def contents(ledger):
    return [dataclasses.replace(row, seconds=0.0) for row in ledger.rows(AnswerRow, order="key")]


def picky(body, before):
    """Answers most, declines some, is busy once for some and for ever for one."""
    text = str(body["messages"][1]["content"])
    if "What is 7?" in text or ("3?" in text and not before):
        return 503, {"retry-after": "0.01"}, {"error": {"message": "later"}}
    return (400, {}, {"error": {"message": "never"}}) if "5?" in text else text


def test_the_ledger_is_as_that_of_one_process(ray, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_FOR_RAY", SECRET)
    asks = [*batch_asking.questions(60), *batch_asking.questions(20, shown=True, kind="short")]
    with FakeServer(picky) as fake:
        alone = []
        endpoint = Endpoint(server_of(fake), "KEY_FOR_RAY")
        ask_all(asks, [endpoint], Budget(PRICE, 0.0, None), lambda ask: b"a picture", alone.extend, Trust(False))
    with FakeServer(picky) as fake:
        together, outcome = on_ray([server_of(fake)], asks)
        assert {body["authorization"] for body in fake.bodies} == {f"bearer {SECRET}"}
    assert (outcome.asked, outcome.stopped) == (80, "")
    first, second = written(tmp_path / "alone", alone), written(tmp_path / "together", together)
    assert {row.reason for row in first} == {"", "busy", "refused_by_server"}
    assert len(first) == 80
    assert first == [  # but where a busy server has said so: its port
        dataclasses.replace(row, detail=mine.detail) if row.reason else row
        for row, mine in zip(second, first, strict=True)
    ]


def test_the_key_is_in_no_log_and_no_argument(ray, monkeypatch):
    monkeypatch.setenv("KEY_FOR_RAY", "of the driver, which is not asked for it")
    sent = []
    begin = ray_asking._Driver._begin

    def watched(self, servers):
        sent.append(repr(servers))
        return begin(self, servers)

    monkeypatch.setattr(ray_asking._Driver, "_begin", watched)
    with FakeServer() as fake:
        taken, _ = on_ray([server_of(fake)], questions(20), workers=1)
        assert {body["authorization"] for body in fake.bodies} == {f"bearer {SECRET}"}
    assert len(taken) == 20
    assert "KEY_FOR_RAY" in sent[0]
    assert SECRET not in "".join(sent)
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"
    files = [path for path in logs.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_prices_of_files_hold_only_for_files(ray, tmp_path):
    with FakeServer(fake_model.reply) as fake:
        project = project_of(tmp_path, fake, 1, batch=True, patience=0.001)
        with Ledger(project.ledger) as ledger:
            work(project, ledger, "caption", Way(ray=1))
            rows = list(ledger.rows(AnswerRow))
    assert [x.usd for x in rows] == pytest.approx([(100 * 0.15 + 20 * 0.6) / 1e6] * 2)


@pytest.mark.parametrize("status", [400, 401])
def test_a_key_that_a_server_repeats_is_written_nowhere(ray, status):
    taken = []

    def reply(body, before):
        return status, {}, {"error": {"message": f"what is {body['authorization']}"}}

    with FakeServer(reply) as fake, pytest.raises(AskingError, match="what is bearer …") as raised:
        on_ray([server_of(fake)], questions(20), taken=taken)
    assert SECRET not in "".join([str(raised.value), *(answer.detail for answer, _ in taken)])


def test_what_a_lost_worker_had_is_asked_by_another(ray, monkeypatch):
    hands, taken, on_its_way = [], [], []
    begin = ray_asking._Driver._begin

    def watched(self, servers):
        hands.append(begin(self, servers))
        return hands[-1]

    def take(answers):
        taken.extend(answers)
        if len(taken) > 50 and not on_its_way:
            on_its_way.append(hands[0].chunks)
            ray.kill(hands[0].actor)

    monkeypatch.setattr(ray_asking._Driver, "_begin", watched)
    with FakeServer(shout, latency=0.02) as fake:
        budget = Budget(PRICE, 0.0, None)
        outcome = ask_on_ray(questions(400), [server_of(fake, most=16)], budget, lambda ask: b"", take, Trust(False), 2)
        assert 400 <= len(fake.bodies) <= 400 + (on_its_way[0] + 1) * CHUNK
    assert len(hands) == 3
    assert outcome.asked == 400
    assert sorted(answer.text for answer, _ in taken) == sorted(f"WHAT IS {x}?" for x in range(400))
    assert budget.spent == pytest.approx(400 * 120e-6)
    assert budget._reserved == pytest.approx(0.0)


def test_a_cluster_that_loses_worker_after_worker_is_given_up(ray, monkeypatch):
    monkeypatch.setattr(ray_asking, "_Worker", Doomed)
    monkeypatch.setattr(ray_asking, "LOSSES", 2)
    with FakeServer() as fake, pytest.raises(AskingError, match="Ray lost 2 workers; look into its logs"):
        on_ray([server_of(fake)], questions(20))


class Doomed(ray_asking._Worker):
    async def ask(self, chunk):
        """Ends the process."""
        os._exit(1)


def test_what_no_question_would_survive_ends_it_all_with_the_same_error(ray):
    with FakeServer(lambda *_: (401, {}, {"error": {"message": "no such key"}})) as fake:
        with pytest.raises(AskingError) as alone:
            ask(fake, questions(1))
        with pytest.raises(AskingError) as together:
            on_ray([server_of(fake)], questions(1000), workers=1)
    assert str(together.value) == str(alone.value)
    assert "no such key" in str(alone.value)


def test_answers_on_their_way_are_written_before_an_error_ends_it(ray):
    """More than a hundred questions are with the workers; those that are not sent yet are left for another time."""

    number = itertools.count(1)

    def reply(body, before):  # so soon that no worker is at full speed
        return (401, {}, {"error": {"message": "no such key"}}) if next(number) == 3 else "fine"

    with FakeServer(reply, latency=0.5) as fake:
        taken = []
        with pytest.raises(AskingError, match="no such key"):
            on_ray([server_of(fake)], questions(1000), taken=taken, trust=Trust(True))
        assert len(taken) + 1 == len(fake.bodies) < 60
    assert {answer.text for answer, _ in taken} == {"fine"}


def test_answers_on_their_way_are_written_before_a_lost_picture_ends_it(ray):
    def lost(asks):
        yield from asks
        raise OSError("picture 100 is gone")

    with FakeServer(latency=0.2) as fake:
        taken = []
        with pytest.raises(OSError, match="is gone"):
            on_ray([server_of(fake)], lost(questions(40)), taken=taken, trust=Trust(True))
        assert len(taken) == len(fake.bodies) > 0


@pytest.mark.parametrize("known", [False, True])
def test_a_server_that_answers_nothing_ends_it_soon(ray, known):
    """It refuses all questions, or is not there."""
    taken = []
    with FakeServer(lambda *_: (400, {}, {"error": {"message": "no schemas here"}})) as fake:
        with pytest.raises(AskingError, match=r"none of the (first 8|last 32) questions was .*no schemas here"):
            on_ray([server_of(fake)], questions(2000), trust=Trust(known), taken=taken)
        assert len(taken) == len(fake.bodies) < (300 if known else 20)
    with pytest.raises(AskingError, match=r"none of the (first 8|last 32) questions was answered \(unreachable"):
        on_ray([server_of(fake)], questions(2000), trust=Trust(known), taken=taken)
    assert len(taken) < 600


def test_a_worker_whose_environment_lacks_the_key_says_so(ray, monkeypatch):
    monkeypatch.setenv("NOT_SET", "but in the driver")
    with FakeServer() as fake, pytest.raises(AskingError, match="the environment has no NOT_SET, which project"):
        on_ray([server_of(fake, keys=["NOT_SET"])], questions(10), workers=1)


def test_the_budget_ends_it_cleanly(ray):
    with FakeServer() as fake:
        budget = Budget(PRICE, 0.0, 99.5 * 120e-6)
        taken, outcome = on_ray([server_of(fake)], questions(1000, text="x" * 291, tokens=20), budget, workers=1)
        assert outcome.stopped == "budget"
        assert len(taken) == len(fake.bodies)
        assert 90 < len(taken) < 100
    assert budget.spent == pytest.approx(len(taken) * 120e-6)


def test_money_that_comes_back_is_used(ray):
    """Answers cost an eighth of what is set aside for them."""
    with FakeServer() as fake:
        budget = Budget(PRICE, 0.0, 110 * 120e-6)
        taken, outcome = on_ray([server_of(fake)], questions(100), budget)
    assert (len(taken), outcome.stopped) == (100, "")
    assert budget.spent == pytest.approx(100 * 120e-6)
    assert budget._reserved == pytest.approx(0.0)


def test_a_signal_waits_for_what_is_on_its_way(ray):
    told = []

    def reply(body, before):
        if len(fake.bodies) >= 6 and not told:  # surely it is listening by now
            told.append(os.getpid())
            os.kill(os.getpid(), signal.SIGTERM)
        return "fine"

    with FakeServer(reply, latency=0.2) as fake:
        taken, outcome = on_ray([server_of(fake, most=4)], questions(500), workers=1)
        assert outcome.stopped == "SIGTERM"
        assert 6 <= len(taken) == len(fake.bodies) < 100
    assert all(answer.text == "fine" for answer, _ in taken)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AskingError, match=r"needs Ray .*: pip install 'mmfuser-jax\[ray\]'$"):
        on_ray([Server(base_url="http://x", model="m")], questions(1))


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_workers_together_may_do_what_the_server_allows(workers):
    servers = [
        Server(base_url="http://x", model="m", most=5, requests_per_minute=100, keys=["A", "B"]),
        Server(base_url="http://y", model="m", most=64, tokens_per_minute=100_001),
    ]
    parts = shares(servers, workers)
    for server in servers:
        mine = [share for part in parts for share in part if share.base_url == server.base_url]
        for name in ("most", "requests_per_minute", "tokens_per_minute"):
            assert sum(getattr(share, name) for share in mine) == getattr(server, name)
        assert all(share.requests_per_minute for share in mine) == bool(server.requests_per_minute)
    assert len(parts) == workers
    assert sum(len(part) == 2 for part in parts) == min(workers, 5)


def test_no_more_workers_than_may_send_a_picture_in_a_minute():
    server = Server(base_url="http://x", model="m", tokens_per_minute=60_000, picture_tokens=26_000)
    for tokens, count in ((60_000, 2), (30_000, 1), (20_000, 1), (0, 8)):
        parts = shares([server.model_copy(update={"tokens_per_minute": tokens})], 8)
        assert [share.tokens_per_minute for part in parts for share in part] == [tokens // count] * count


def test_no_more_workers_than_have_something_to_do():
    assert len(shares([Server(base_url="http://x", model="m", most=3)], 8)) == 3
    with pytest.raises(ProjectError, match="no server to ask"):
        shares([], 2)
    with pytest.raises(ProjectError, match="0 workers: give one"):
        shares([Server(base_url="http://x", model="m")], 0)


def test_an_endpoint_that_rests_is_waited_for():
    """All questions on their way have failed, and the server wants a pause: those that are left are asked after it."""

    def reply(body, before):
        first = body["messages"][1]["content"] in [f"What is {number}?" for number in range(4)]
        return (503, {"retry-after": "0.2"}, {"error": {"message": "later"}}) if first else "fine"

    with FakeServer(reply) as fake:
        taken, outcome = ask(fake, questions(30))
    assert (outcome.asked, outcome.stopped) == (30, "")
    assert {answer.reason for answer, _ in taken} == {"busy", ""}


def test_a_chunk_that_fails_late_does_not_end_it(ray):
    """All questions of the third chunk are at fault, and no others."""

    def reply(body, before):
        number = int(body["messages"][1]["content"].removeprefix("What is ").rstrip("?"))
        return (400, {}, {"error": {"message": "never"}}) if 2 * CHUNK <= number < 3 * CHUNK else "fine"

    with FakeServer(reply) as fake:
        taken, outcome = on_ray([server_of(fake)], questions(5 * CHUNK))
    assert (outcome.asked, outcome.stopped) == (5 * CHUNK, "")
    assert sum(answer.reason == "refused_by_server" for answer, _ in taken) == CHUNK
