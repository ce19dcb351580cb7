"""How a step does its work: its servers, its budget, what it records, its order, and mistakes that end it."""

import random
import re
import time

import pytest
import yaml

from mmfuser_jax.locks import LockedError, locked
from mmfuser_jax.mminstruct.asking.endpoints import AskingError
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.collect import collect
from mmfuser_jax.mminstruct.project import CONFIG, Project, ProjectError
from mmfuser_jax.mminstruct.schema import AnswerRow
from mmfuser_jax.mminstruct.steps.estimating import estimate
from mmfuser_jax.mminstruct.steps.servers import StoppedError
from mmfuser_jax.mminstruct.steps.work import work
from tests import fake_model
from tests.fake_openai import FakeServer, completion
from tests.step_project import STEPS, contents, items_of, project_of, run
from tests.test_collect import scene


def test_again_it_asks_and_changes_nothing(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server)
        run(project)
        before, asked = contents(project), len(server.bodies)
        run(project)
        assert len(server.bodies) == asked
    assert contents(project) == before


def test_the_order_of_answers_changes_nothing(tmp_path):
    rng = random.Random(0)

    def late(body, before):
        time.sleep(rng.random() * 0.01)
        return fake_model.reply(body)

    found = []
    for name, reply in (("a", fake_model.reply), ("b", late)):
        with FakeServer(reply) as server:
            project = project_of(tmp_path / name, server)
            run(project)
        found.append(contents(project))
    assert found[0] == found[1]


def test_questions_before_captions_are_told_what_is_missing(tmp_path, caplog):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        with caplog.at_level("WARNING", "mmfuser_jax"):
            run(project, "generate")
        assert "generate: no picture has a caption yet; run caption first" in caplog.text
        caplog.clear()
        run(project)
    assert "no picture has a caption" not in caplog.text


def test_b5_all_that_led_to_an_answer_is_kept(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        run(project)
        with Ledger(project.ledger) as ledger:
            rows = list(ledger.rows(AnswerRow))
            assert ledger.spent() == pytest.approx(len(rows) * (100 * 0.15 + 20 * 0.6) / 1e6)
    for row in rows:
        assert (row.model, row.finish, row.attempts) == ("gpt-4o-mini", "stop", 1)
        assert (row.input_tokens, row.output_tokens) == (100, 20)
        assert re.fullmatch(r"\w+\.(en|zh) [0-9a-f]{8}", row.prompt)
        assert 0 < row.seconds < 60
    assert len({row.seed for row in rows}) == len(rows)
    assert sorted(row.seed for row in rows) == sorted(body["seed"] for body in server.bodies)


def test_the_budget_ends_a_step_and_a_higher_one_goes_on(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 4, config={"budget_usd": 0.001})
        with pytest.raises(StoppedError, match=r"budget_usd \(\$0.001\)"):
            run(project)
        with Ledger(project.ledger) as ledger:
            assert 0 < ledger.spent() <= 0.001
        path = project.folder / CONFIG
        path.write_text(path.read_text().replace("budget_usd: 0.001", "budget_usd: 1.0"))
        project = Project(project.folder)
        run(project)
    assert len(items_of(project, "state = 'good'")) == 4 * 2 * 14


def test_what_was_paid_becomes_items_whatever_ends_the_step(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 6, config={"budget_usd": 0.01})
        run(project, "caption")
        with Ledger(project.ledger) as ledger:
            spent = ledger.spent()
        path = project.folder / CONFIG
        path.write_text(path.read_text().replace("budget_usd: 0.01", f"budget_usd: {spent + 0.0015}"))
        project = Project(project.folder)
        with pytest.raises(StoppedError, match="budget_usd"):
            run(project, "generate")
        with Ledger(project.ledger) as ledger:
            assert ledger.query("SELECT count(*) FROM answers WHERE read = 0") == [(0,)]
            assert spent < ledger.spent() <= spent + 0.0015
    assert items_of(project, "state = 'good'")


def test_what_was_foretold_is_near_what_it_came_to(tmp_path):
    """The server counts tokens as many do: four letters each, or one Chinese character and a half."""

    def tokens(text):
        wide = sum(ord(letter) > 0x2E80 for letter in text)
        return round(wide / 1.5 + (len(text) - wide) / 4)

    def reply(body, before):
        said = fake_model.reply(body)
        content = body["messages"][1]["content"]
        words = content if isinstance(content, str) else content[0]["text"]
        answer = completion(said, body)
        answer["usage"] = {
            "prompt_tokens": tokens(words + body["messages"][0]["content"]) + (765 if words is not content else 0),
            "completion_tokens": tokens(said) * 2, "total_tokens": 0,
        }  # fmt: skip
        return 200, {}, answer

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 12)
        with Ledger(project.ledger) as ledger:
            foretold = {x.step: x for x in estimate(project, ledger)}
            for step in STEPS:
                work(project, ledger, step)
            for step, x in foretold.items():
                asked, usd = ledger.query("SELECT count(*), sum(usd) FROM answers WHERE step = ?", (step,))[0]
                assert not x.measured
                assert x.asks <= asked
                assert 0.3 * usd < x.usd < 3 * usd < 3 * x.most
            scene(77).save(tmp_path / "source" / "new.png")
            collect(project, ledger)
            again = estimate(project, ledger)
            before = ledger.spent()
            for step in STEPS:
                work(project, ledger, step)
            assert all(x.measured for x in again[:2])
            assert sum(x.usd for x in again) == pytest.approx(ledger.spent() - before, rel=0.5)


def test_servers_of_a_step_are_alike_and_there_is_one(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1, steps=["caption"])
        run(project, "caption")
        with pytest.raises(ProjectError, match=r"project.yaml: servers: none for generate; add one"):
            run(project, "generate")
        path = project.folder / CONFIG
        fields = yaml.safe_load(path.read_text())
        fields["servers"].append(fields["servers"][0] | {"model": "gpt-4o"})
        path.write_text(yaml.safe_dump(fields))
        with pytest.raises(
            ProjectError, match=r"servers of caption: model is gpt-4o and gpt-4o-mini; make it the same"
        ):
            run(Project(project.folder), "caption")


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ((503, {}, {"error": {"message": "later"}}), "none of the first 8 questions was answered .busy"),
        ((400, {}, {"error": {"message": "no such parameter"}}), "refused_by_server: .*no such parameter"),
        ((200, {}, "<html>welcome</html>"), "garbage"),
        ((402, {}, {"error": {"message": "no credit"}}), "no credit"),
    ],
)
def test_a_server_that_answers_nothing_ends_it_before_it_costs_every_question(tmp_path, said, match):
    with FakeServer(lambda *_: said) as server:
        project = project_of(tmp_path, server, 12)
        with pytest.raises(AskingError, match=match):
            run(project, "caption")
        refused = {x["reason"] for x in contents(project)[0]}
        assert refused <= {"busy", "refused_by_server", "garbage"}
        server.reply = fake_model.reply
        run(project, "caption")
    assert {x["reason"] for x in contents(project)[0]} == {""}


def test_a_question_that_was_refused_is_asked_again_once_the_project_has_changed(tmp_path):
    def reply(body, before):
        if "response_format" in body and "one to five words" in str(body["messages"]):
            return 400, {}, {"error": {"message": "no schema here"}}
        return fake_model.reply(body)

    with FakeServer(reply) as server:
        project = project_of(
            tmp_path, server, 1, config={"languages": ["en"], "generate": {"types": ["short", "choice"]}}
        )
        run(project, "caption", "generate")
        refused = [x["kind"] for x in contents(project)[0] if x["reason"]]
        assert refused == ["short"]
        asked = len(server.bodies)
        run(project, "generate")
        assert len(server.bodies) == asked
        path = project.folder / CONFIG
        fields = yaml.safe_load(path.read_text())
        fields["servers"][0]["json_schema"] = False
        path.write_text(yaml.safe_dump(fields))
        run(Project(project.folder), "generate")
    assert len(items_of(project, "state = 'good' AND type = 'short'")) == 3


def test_what_was_refused_before_anything_was_answered_is_asked_again(tmp_path):
    """Of a small project that is every question, and the mistake may be in what is no part of the questions."""
    with FakeServer(lambda *_: (400, {}, {"error": {"message": "no max_tokens"}})) as server:
        project = project_of(tmp_path, server, 1)
        run(project, "caption")
        assert {x["reason"] for x in contents(project)[0]} == {"refused_by_server"}
        server.reply = fake_model.reply
        run(project, "caption")
    assert {x["reason"] for x in contents(project)[0]} == {""}


def test_two_processes_cannot_ask_at_once(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        with locked(project.folder), pytest.raises(LockedError, match="a run is going on here"):
            run(project)


def test_mistakes_with_seeds_and_keys_are_named(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        path = project.folder / CONFIG
        text = path.read_text()
        for old, new, match in (
            ("generate:\n", "generate:\n  seeds: gone\n", "gone: no such folder of seed questions"),
            ("generate:\n", "generate:\n  seeds: own\n", "no domain is called poster;"),
            ("model: gpt", "keys: [sk-proj-SECRET]\n  model: gpt", "keys themselves stand in no file"),
            ("languages:", "languages: [en, en]\nx:", "languages: .*each only once"),
        ):
            (project.folder / "own").mkdir(exist_ok=True)
            (project.folder / "own" / "poster.yaml").write_text("a: b")
            assert old in text
            path.write_text(text.replace(old, new, 1))
            with pytest.raises(ValueError, match=match) as error:
                run(Project(project.folder), "generate")
            assert "SECRET" not in str(error.value)


def test_mistakes_with_benchmarks_are_named(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1, config={"generate": {"benchmarks": ["gone.txt"]}})
        with pytest.raises(ProjectError, match=r"gone.txt: generate.benchmarks: No such file"):
            run(project, "generate")
        (project.folder / "gone.txt").write_text("\n")
        with pytest.raises(ProjectError, match=r"gone.txt: no question in it"):
            run(project, "generate")
