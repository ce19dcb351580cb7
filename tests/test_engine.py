"""The whole engine: six steps over 24 domains, and from real pictures to a model that was trained on what came of them."""

import base64
import json
import shutil
import time
from pathlib import Path

import yaml

from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.export.exporting import export_project
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.collect import collect
from mmfuser_jax.mminstruct.project import CONFIG, Project
from mmfuser_jax.mminstruct.questions.items import TYPES, as_body, from_body
from mmfuser_jax.mminstruct.questions.seed_questions import domain_names
from mmfuser_jax.mminstruct.review.decisions import decisions
from mmfuser_jax.mminstruct.schema import ItemRow, Verdict
from mmfuser_jax.mminstruct.steps.work import work
from mmfuser_jax.prepare.audit import audit
from mmfuser_jax.synthetic.generate import domain_of, draw_picture
from mmfuser_jax.synthetic.registry import DOMAINS
from tests import fake_model, ground_truth
from tests.fake_openai import FakeServer
from tests.test_cli import launch_script

STEPS = ("caption", "generate", "expand")


def project_at(folder, sources, server, **config):
    """A project with a server."""
    folder.mkdir(parents=True)
    fields = {
        "name": "Tried", "collect": {"sources": sources},
        "servers": [{"base_url": server.base_url, "model": "gpt-4o-mini", "patience": 0.01}], **config,
    }  # fmt: skip
    (folder / CONFIG).write_text(yaml.safe_dump(fields))
    return Project(folder)


def judged(ledger):
    """Verdicts as a person would give them: most accepted, some edited, some rejected."""
    for place, row in enumerate(list(ledger.rows(ItemRow, "state <> 'refused'", order="id"))):
        verdict = Verdict(row.id, "ann", "accept", seconds=4.0)
        if place % 10 == 3:
            verdict = Verdict(row.id, "ann", "reject", "unclear", seconds=6.0)
        elif place % 10 == 7:
            first, *rest = from_body(row.body)
            first = first.__class__(
                first.type, f"{first.question[:-1]}, please{first.question[-1]}", first.answer, first.options
            )
            verdict = Verdict(row.id, "ann", "edit", body=as_body([first, *rest]), seconds=15.0)
        ledger.add(verdict)


def test_six_steps_over_all_domains_in_two_minutes(tmp_path):
    for picture in range(2 * len(DOMAINS)):
        (tmp_path / "pictures" / domain_of(0, picture)).mkdir(parents=True, exist_ok=True)
        draw_picture(0, picture, 1, tmp_path / "pictures", (300, 420))
    begun = time.process_time()
    sources = [{"domain": name, "folder": f"../pictures/{name}", "filtered": False} for name in domain_names()]
    with FakeServer(fake_model.reply) as server:
        project = project_at(tmp_path / "project", sources, server, review={"share": 1.0})
        with Ledger(project.ledger) as ledger:
            collect(project, ledger)
            for step in STEPS:
                work(project, ledger, step)
            with ledger.changes():
                judged(ledger)
            counts = export_project(project, ledger, tmp_path / "out", ["jsonl", "arrayrecord"])
            expected = {row.id: decision for row, decision in decisions(ledger)}
    taken = time.process_time() - begun
    assert taken < 120, f"{taken:.0f} seconds of this machine's time"
    source = open_source(SourceSpec(str(tmp_path / "out")))
    tags = [tag for index in range(len(source)) for tag in source[index].tags]
    assert {tag["domain"] for tag in tags} == set(domain_names())
    assert {tag["type"] for tag in tags} == {*TYPES, "conversation"}
    assert {tag["language"] for tag in tags} == {"en", "zh"}
    assert len(tags) == counts.items
    accepted = [row for row in expected.values() if row.state == "accepted"]
    assert counts.items == len(accepted) - counts.left_out.get("balance", 0)
    words = json.dumps(
        [[turn.text for turn in talk] for index in range(len(source)) for talk in source[index].conversations]
    )
    assert "please" in words


def easy_project(folder, server, count):
    """The set's test pictures in a project; the server is told what they show."""
    truth = dict(sorted(ground_truth.pictures().items())[:count])
    (folder / "pictures").mkdir(parents=True)
    for path in truth:
        shutil.copy(path, folder / "pictures")
    config = {"languages": ["en"], "generate": {"most_same": 100_000}}
    sources = [{"domain": "attribute_recognition", "folder": "../pictures", "filtered": False}]
    project = project_at(folder / "project", sources, server, **config)
    with Ledger(project.ledger) as ledger:
        collect(project, ledger)
        origins = dict(ledger.query("SELECT sha, origin FROM images"))
    names = {Path(path).name: words for path, words in truth.items()}
    server.reply = ground_truth.reply_with(
        {
            base64.b64encode(store.sent(project.images, sha, 1024)).decode(): names[Path(origin).name]
            for sha, origin in origins.items()
        }
    )
    return project


def test_real_pictures_become_a_set_that_a_model_trains_on(tmp_path):
    with FakeServer() as server:
        project = easy_project(tmp_path, server, 40)
        with Ledger(project.ledger) as ledger:
            for step in STEPS:
                work(project, ledger, step)
            counts = export_project(project, ledger, tmp_path / "set", ["jsonl"])
    assert counts.items >= 40 * 13
    report = audit(SourceSpec(str(tmp_path / "set")))
    assert not report["rejected"]
    result = launch_script(
        "train", f"--config=configs/mminstruct.py:{tmp_path / 'set'}", f"--workdir={tmp_path / 'run'}",
        "--config.stages.instruct.validation.source=", "--config.stages.instruct.steps=6",
        "--config.stages.instruct.length=256", "--config.model.llm.depth=1", "--config.checkpoint_every=6",
        "--config.log_every=1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        if '"loss"' in line
    ]
    assert losses[-1] < losses[0]
