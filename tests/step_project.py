"""A small project whose steps are run against a server of the test, and what came of it."""

import yaml

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.collect import collect
from mmfuser_jax.mminstruct.project import CONFIG, Project, init_project
from mmfuser_jax.mminstruct.schema import AnswerRow, ItemRow
from mmfuser_jax.mminstruct.steps.work import work
from tests.test_collect import scene

STEPS = ("caption", "generate", "expand")


def project_of(folder, server, pictures=3, *, domain="posters", tags=(), steps=STEPS, config=None, **settings):
    """A project with pictures in its store, and a server."""
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    for seed in range(pictures):
        scene(seed).save(source / f"{seed}.png")
    init_project(folder / "project", "tried", domain, source)
    path = folder / "project" / CONFIG
    fields = yaml.safe_load(path.read_text()) | (config or {})
    fields["collect"]["sources"][0]["tags"] = list(tags)
    fields["servers"] = [
        {"base_url": server.base_url, "model": "gpt-4o-mini", "steps": list(steps), "patience": 0.01, **settings}
    ]
    path.write_text(yaml.safe_dump(fields, allow_unicode=True))
    project = Project(folder / "project")
    with Ledger(project.ledger) as ledger:
        collect(project, ledger)
    return project


def run(project, *steps):
    """Does the work of the steps, or of all."""
    with Ledger(project.ledger) as ledger:
        for step in steps or STEPS:
            work(project, ledger, step)


def contents(project):
    """What came of it, without times."""
    with Ledger(project.ledger) as ledger:
        dropped = {"seconds", "attempts"}
        answers = [
            {name: value for name, value in vars(row).items() if name not in dropped}
            for row in ledger.rows(AnswerRow, order="key")
        ]
        return answers, [vars(row) for row in ledger.rows(ItemRow, order="id")]


def items_of(project, where="1", values=()):
    """Rows of its items, by their ids."""
    with Ledger(project.ledger) as ledger:
        return list(ledger.rows(ItemRow, where, values, "id"))
