"""What fails in a step, and passes: it holds nothing else up, is asked again, and ends nothing for ever."""

import shutil
from collections import Counter

import pytest
import yaml

from mmfuser_jax.mminstruct.asking.shards import merge
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import CONFIG, Project
from mmfuser_jax.mminstruct.steps.estimating import estimate
from mmfuser_jax.mminstruct.steps.judging import TOKENS
from mmfuser_jax.mminstruct.steps.servers import StoppedError, Way
from mmfuser_jax.mminstruct.steps.work import UnansweredError, work
from tests import fake_model
from tests.fake_openai import FakeServer
from tests.step_project import STEPS, contents, items_of, project_of, run

BUSY = (503, {}, {"error": {"message": "later"}})


def changed(project, **fields):
    """The project with other fields in its config."""
    path = project.folder / CONFIG
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields, allow_unicode=True))
    return Project(project.folder)


def words(body):
    """What the model is told."""
    content = body["messages"][1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


@pytest.mark.parametrize("fields", [{"caption": {"tokens": 900}}, {"languages": ["en"]}])
def test_what_failed_before_the_project_was_changed_holds_nothing_up(tmp_path, fields):
    with FakeServer(lambda body, _: BUSY if "描述" in words(body) else fake_model.reply(body)) as server:
        project = project_of(tmp_path, server, 2)
        with pytest.raises(UnansweredError, match=r"caption: 2 questions had no answer \(.*later"):
            run(project, "caption")
        server.reply = fake_model.reply
        project = changed(project, **fields)
        run(project, "caption", "generate")
    answers, _ = contents(project)
    if "caption" in fields:
        assert {x["reason"] for x in answers} == {""}, "what failed in other words is not done twice over"
    assert items_of(project, "state = 'good'")


def test_one_slow_subject_costs_the_others_no_repair(tmp_path):
    """A picture whose first caption came late is mended as often as the others, within the same run."""
    asked, late = Counter(), []

    def reply(body, before):
        picture = body["messages"][1]["content"][1]["image_url"]["url"]
        late.append(picture)
        asked[picture] += 1
        if picture == late[0] and asked[picture] <= 6:  # all attempts of its first round
            return BUSY
        answered = asked[picture] - 6 * (picture == late[0])
        return fake_model.reply(body) if answered == 3 else "Too short."

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 4, config={"languages": ["en"]})
        run(project, "caption")
    answers, _ = contents(project)
    good = [x for x in answers if x["reason"] == ""]
    assert len({x["image"] for x in good}) == len(good) == 4


def test_opinions_of_conversations_survive_a_merge(tmp_path):
    def reply(body, before):
        rounds = str(body["messages"]).count("?")
        return "No." if body["max_tokens"] == TOKENS and rounds > 2 else fake_model.reply(body)

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 2, steps=[*STEPS, "judge"], config={"languages": ["en"]})
        copy = tmp_path / "copy"
        shutil.copytree(project.folder, copy)
        run(Project(copy))
        asked = len(server.bodies)
        with Ledger(project.ledger) as ledger:
            merge(ledger, copy / project.ledger.name)
        run(project)
        assert len(server.bodies) == asked
    doubted = items_of(project, "type = 'conversation' AND state = 'doubtful' AND reason = 'judge'")
    assert len(doubted) == len(items_of(Project(copy), "type = 'conversation' AND state = 'doubtful'")) > 0


def ask_for_all(project, ledger, way):
    for step in STEPS:
        work(project, ledger, step, way)


def test_each_part_has_its_share_of_the_money(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 8, config={"budget_usd": 0.002})
        spent = []
        for index in range(2):
            copy = tmp_path / f"copy{index}"
            shutil.copytree(project.folder, copy)
            with Ledger(copy / project.ledger.name) as ledger:
                with pytest.raises(StoppedError, match=r"\$0.002, of which this part has 1 of 2 shares"):
                    ask_for_all(Project(copy), ledger, Way(f"{index}/2"))
                spent.append(ledger.spent())
    assert all(0 < usd <= 0.001 for usd in spent)


def test_a_step_with_nothing_to_ask_needs_no_server_to_be_estimated(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(
            tmp_path, server, 1, steps=["caption", "generate"], config={"expand": {"conversations": False}}
        )
        with Ledger(project.ledger) as ledger:
            assert [x.asks > 0 for x in estimate(project, ledger)] == [True, True, False]


def test_a_judge_who_sees_pictures_is_paid_for_them(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 2, steps=[*STEPS, "judge"], picture_tokens=26_000)
        with Ledger(project.ledger) as ledger:
            judge = estimate(project, ledger)[3]
    assert judge.usd >= 0.3 * judge.asks * 26_000 * 0.15 / 1e6
