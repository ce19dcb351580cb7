"""Steps that are killed, shared by machines, or asked in files come to the same as one calm run."""

import json
import os
import random
import shutil
import signal
import time

import pytest

from mmfuser_jax.mminstruct.asking.endpoints import AskingError
from mmfuser_jax.mminstruct.asking.shards import merge
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.schema import Batch
from mmfuser_jax.mminstruct.steps.servers import Way
from mmfuser_jax.mminstruct.steps.work import work
from tests import fake_model
from tests.fake_openai import FakeServer
from tests.nursery import nursery
from tests.step_project import STEPS, contents, items_of, project_of, run

KILLED = 10
"""Pictures of the project whose processes are killed."""


def works(folder):
    """In a child that is killed."""
    run(Project(folder / "project"))


def test_thirty_kills_in_all_steps_lose_and_double_nothing(tmp_path):
    with FakeServer(fake_model.reply) as server:
        calm = project_of(tmp_path / "calm", server, KILLED)
        run(calm)
    rng, kills = random.Random(1), 0
    with FakeServer(fake_model.reply, latency=0.005) as server:
        project = project_of(tmp_path / "killed", server, KILLED, most=8)
        path = tmp_path / "killed" / "errors"
        with nursery("tests.test_step_kills", tmp_path / "killed") as children:
            while kills < 30:
                sent, child = len(server.bodies), children.begin("works")
                while len(server.bodies) < sent + rng.randrange(1, 12) and children.lives(child):
                    time.sleep(rng.random() * 0.01)
                if not children.lives(child):
                    break
                os.kill(child, signal.SIGKILL)
                assert children.end() == -signal.SIGKILL, children.errors()
                kills += 1
            children.begin("works")
            assert children.end() == 0, path.read_text()
    assert kills == 30
    answers, items = contents(project)
    expected = contents(calm)
    assert items == expected[1]
    assert answers == expected[0]
    assert len(answers) <= len(server.bodies) <= len(answers) + kills * 8


def mends_late(body, before):
    """Half of the first replies lack something, and what mends them repeats what other types ask."""
    said = fake_model.reply(body)
    text = body["messages"][1]["content"]
    if isinstance(text, list) or "conversation" in body["messages"][0]["content"]:
        return said
    items = json.loads(said)["items"]
    if "asked this before" not in text:
        return json.dumps({"items": items[: 1 + len(text) % 3]})
    return json.dumps({"items": [{**items[0], "question": "Which colour do all things have?"}, *items]})


def test_kills_amid_repairs_change_nothing(tmp_path):
    config = {"languages": ["en"], "generate": {"most_same": 3}}
    with FakeServer(mends_late) as server:
        calm = project_of(tmp_path / "calm", server, 8, config=config)
        run(calm)
    assert "repeated" in {row.reason for row in items_of(calm)}
    rng, kills = random.Random(2), 0
    with FakeServer(mends_late, latency=0.005) as server:
        project = project_of(tmp_path / "killed", server, 8, config=config, most=4)
        with nursery("tests.test_step_kills", tmp_path / "killed") as children:
            while kills < 12:
                sent, child = len(server.bodies) + rng.randrange(1, 14), children.begin("works")
                while len(server.bodies) < sent and children.lives(child):
                    time.sleep(0.002)
                if not children.lives(child):
                    break
                os.kill(child, signal.SIGKILL)
                assert children.end() == -signal.SIGKILL, children.errors()
                kills += 1
            if kills == 12:
                children.begin("works")
            assert children.end() == 0, children.errors()
    assert kills >= 5
    assert contents(project) == contents(calm)


def test_parts_asked_on_two_machines_are_merged_to_the_same(tmp_path):
    with FakeServer(fake_model.reply) as server:
        whole = project_of(tmp_path / "whole", server, 6)
        run(whole)
        main = project_of(tmp_path / "main", server, 6)
        for index in range(2):
            copy = tmp_path / f"copy{index}"
            shutil.copytree(main.folder, copy)
            with Ledger(copy / main.ledger.name) as ledger:
                for step in STEPS:
                    work(Project(copy), ledger, step, Way(f"{index}/2"))
        asked = len(server.bodies)
        with Ledger(main.ledger) as ledger:
            taken = [merge(ledger, tmp_path / f"copy{index}" / main.ledger.name) for index in range(2)]
            assert merge(ledger, tmp_path / "copy0" / main.ledger.name) == 0
        assert min(taken) > 0
        run(main)
        assert len(server.bodies) == asked
    assert contents(main) == contents(whole)


@pytest.mark.parametrize("shard", ["1", "2/2", "a/b", "-1/2"])
def test_a_part_that_is_none_is_refused(tmp_path, shard):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        with Ledger(project.ledger) as ledger, pytest.raises(ValueError, match="shard"):
            work(project, ledger, "caption", Way(shard))


def without_money(rows):
    return [{name: value for name, value in row.items() if name != "usd"} for row in rows]


def test_questions_in_files_come_to_the_same_at_half_the_price(tmp_path):
    with FakeServer(fake_model.reply) as server:
        direct = project_of(tmp_path / "direct", server, 2)
        run(direct)
        filed = project_of(tmp_path / "filed", server, 2, batch=True, patience=0.001)
        run(filed)
    (answers, items), (expected, expected_items) = contents(filed), contents(direct)
    assert items == expected_items
    assert without_money(answers) == without_money(expected)
    assert [x["usd"] for x in answers] == pytest.approx([x["usd"] / 2 for x in expected])


@pytest.mark.parametrize("step", ["caption", "generate"])
def test_files_on_their_way_are_not_paid_for_twice(tmp_path, step):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1, patience=0.001)
        with Ledger(project.ledger) as ledger:
            ledger.add(Batch("file1", server.base_url, "", json.dumps({"step": step}), "sent"))
        with pytest.raises(ProjectError, match=f"take their answers first: {step}, with batch: true"):
            run(project, "caption")
        assert not server.bodies


def test_files_of_other_steps_are_taken_by_any(tmp_path):
    """A judge's file was sent, its answers were not waited for, and now there is something else to be asked."""

    def judges_stuck(method, path):
        stuck = any(path.endswith(x["id"]) and x["metadata"]["step"] == "judge" for x in server.batches)
        return (400, {}, {"error": {"message": "stop"}}) if stuck else None

    steps = [*STEPS, "judge"]
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1, steps=steps, batch=True, patience=0.001)
        run(project, "caption")
        server.trouble = judges_stuck
        with pytest.raises(AskingError, match="stop"):
            run(project, "generate")
        server.trouble = lambda *_: None
        with Ledger(project.ledger) as ledger:
            waiting = ledger.query("SELECT json_extract(keys, '$.step') FROM batches WHERE state <> 'taken'")
        assert waiting == [("judge",)]
        run(project, "expand", "generate")
        with Ledger(project.ledger) as ledger:
            assert not ledger.query("SELECT 1 FROM batches WHERE state <> 'taken'")
            ((opinions,),) = ledger.query("SELECT count(*) FROM answers WHERE step = 'judge' AND read = 1")
    assert opinions >= len(items_of(project, "state = 'good' AND step = 'generate'")) > 0
