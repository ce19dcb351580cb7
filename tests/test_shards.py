"""Work that is parted among machines without a cluster, and put together again."""

import dataclasses

import pytest

from mmfuser_jax.mminstruct.asking.ask import Answer
from mmfuser_jax.mminstruct.asking.endpoints import Endpoint
from mmfuser_jax.mminstruct.asking.online import Budget, ask_all
from mmfuser_jax.mminstruct.asking.server import Server
from mmfuser_jax.mminstruct.asking.shards import in_shard, merge
from mmfuser_jax.mminstruct.asking.trust import Trust
from mmfuser_jax.mminstruct.ledger import Ledger, LedgerError
from mmfuser_jax.mminstruct.reasons import PASSING
from mmfuser_jax.mminstruct.schema import AnswerRow
from tests.batch_asking import shout
from tests.fake_openai import FakeServer
from tests.test_asking import questions
from tests.test_ray import PRICE, contents


def test_shards_cover_everything_once():
    keys = [ask.key("m") for ask in questions(1000)]
    for count in (1, 2, 7):
        parts = [{key for key in keys if in_shard(key, index, count)} for index in range(count)]
        assert sorted(key for part in parts for key in part) == sorted(keys)
        assert min(map(len, parts)) > 0.7 * len(keys) / count
    for index, count in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"no shard {index}/{count}: of four, they are 0/4 to 3/4"):
            in_shard("x", index, count)


def asked_into(path, asks):
    """Another machine's part of the work."""
    path.parent.mkdir()
    with Ledger(path) as ledger, FakeServer(shout) as fake:
        server = Server(base_url=fake.base_url, model="m")

        def take(taken):
            with ledger.changes():
                for answer, cost in taken:
                    ledger.add_answer(dataclasses.replace(answer.row(cost), read=1))

        ask_all(asks, [Endpoint(server, "")], Budget(PRICE, 0.0, None), lambda ask: b"", take, Trust(False))
    return path


def test_two_shards_merged_twice_are_one_process(tmp_path):
    asks = list(questions(40))
    whole = asked_into(tmp_path / "whole" / "ledger", asks)
    parts = [
        asked_into(tmp_path / f"part{index}" / "ledger", [ask for ask in asks if in_shard(ask.key("m"), index, 2)])
        for index in range(2)
    ]
    with Ledger(tmp_path / "ledger") as ledger, Ledger(whole) as one:
        counts = [merge(ledger, part) for part in parts]
        assert sum(counts) == 40
        assert min(counts) > 5
        assert [merge(ledger, part) for part in parts] == [0, 0]
        assert contents(ledger) == [dataclasses.replace(row, read=0) for row in contents(one)]
        assert ledger.spent() == pytest.approx(one.spent())


def test_merging_takes_what_is_not_settled_here_and_adds_its_cost(tmp_path):
    asks = list(questions(4))
    (tmp_path / "part").mkdir()
    with Ledger(tmp_path / "ledger") as ledger, Ledger(tmp_path / "part" / "ledger") as part:
        ledger.add_answer(Answer(asks[0], "m", "mine").row(1.0))
        ledger.add_answer(Answer(asks[1], "m", reason="busy").row(2.0))
        part.add_answer(Answer(asks[0], "m", "theirs").row(4.0))
        part.add_answer(Answer(asks[1], "m", "theirs").row(8.0))
        part.add_answer(Answer(asks[2], "m", reason="refused_by_server").row(16.0))
        part.add_answer(Answer(asks[3], "m", reason=PASSING[0]).row(32.0))
        for _ in range(2):
            merge(ledger, tmp_path / "part" / "ledger")
            rows = sorted(ledger.rows(AnswerRow), key=lambda row: row.seed)
            assert [(row.text, row.reason, row.usd, row.attempts) for row in rows] == [
                ("mine", "", 1.0, 1), ("theirs", "", 10.0, 2), ("", "refused_by_server", 16.0, 1),
            ]  # fmt: skip


def test_a_ledger_that_cannot_be_merged_is_an_error(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        with pytest.raises(LedgerError, match="nowhere: no ledger there"):
            merge(ledger, tmp_path / "nowhere")
        assert not (tmp_path / "nowhere").exists()
        with Ledger(tmp_path / "other") as other:
            other.query("PRAGMA user_version = 99")
        with pytest.raises(LedgerError, match="other: is of version 99, and this program writes version"):
            merge(ledger, tmp_path / "other")
        (tmp_path / "text").write_text("no ledger, but long enough to be one of its pages " * 100)
        with pytest.raises(LedgerError, match="text: not a ledger"):
            merge(ledger, tmp_path / "text")
