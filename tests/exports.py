"""A project full of items of all kinds, and its exports."""

import dataclasses
import hashlib
import io
import json
import random

import pytest
import yaml

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.export import plots
from mmfuser_jax.mminstruct.export.exporting import FORMATS, export_project
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import CONFIG, Project
from mmfuser_jax.mminstruct.questions.items import LANGUAGES, TYPES, Item, as_body
from mmfuser_jax.mminstruct.review.decisions import decisions
from mmfuser_jax.mminstruct.schema import AnswerRow, ImageRow, ItemRow, Verdict
from tests.test_collect import scene

DOMAINS = ("posters", "ocr")
WORDS = {"en": "What does the red sign over the door say", "zh": "门上方的红色牌子写着什么"}


def item(kind, language, number):
    """A question that no other is like."""
    rng = random.Random(f"{kind} {language} {number}")
    mark = "?" if language == "en" else "？"
    question = f"{WORDS[language]} {number}{mark}"
    if kind == "judgement":
        return Item(kind, question, rng.choice(("yes", "yes", "no")))
    if kind == "choice":
        options = tuple(f"{text} {number}" for text in ("Café", "a|b <i>", "🙂", "停车"))
        return Item(kind, question, rng.choice("ABCD"), options)
    word = "open " if language == "en" else "营业中"
    return Item(kind, question, (word * (1 if kind == "short" else rng.randrange(20, 60))).strip())


def row_of(name, image, domain, kind, language, exchanges, state="good", **fields):
    given = {"answer": f"answer of {name}", "step": "generate", "reason": "" if state == "good" else "length"}
    return ItemRow(
        id=name, image=image, domain=domain, type=kind, language=language, body=as_body(exchanges),
        question=exchanges[0].question, state=state, **{**given, **fields},
    )  # fmt: skip


def fill(project, pictures=3, each=2, domains=DOMAINS):
    """A ledger as the steps before leave it: items of all kinds, some refused, some looked at."""
    rng, count = random.Random(0), 0
    with Ledger(project.ledger) as ledger, ledger.changes():
        for domain in domains:
            for number in range(pictures):
                sha = add_picture(project, ledger, domain, f"{domain} {number}")
                for kind in (*TYPES, "conversation"):
                    for language in LANGUAGES:
                        for _ in range(each):
                            count += 1
                            add_item(ledger, rng, f"i{count:05d}", sha, domain, kind, language)


def add_picture(project, ledger, domain, name, kept=True):
    buffer = io.BytesIO()
    scene(int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)).save(buffer, "PNG")
    content = buffer.getvalue()
    sha = hashlib.sha256(content).hexdigest()
    store.keep(project.images, sha, ".png", content)
    local = project.folder.parent / "pictures" / f"{name}.png"
    origin = f"https://host{len(name) % 2}.org/{name}.png" if domain == "posters" else str(local)
    ledger.add(
        ImageRow(sha, domain, ".png", 160, 120, len(content), origin, "CC BY 4.0", 0, "kept" if kept else "dropped")
    )
    return sha


def add_item(ledger, rng, name, sha, domain, kind, language):
    kinds = ("short", "long", "judgement", "choice") if kind == "conversation" else (kind,)
    exchanges = [item(each, language, f"{name}{place}") for place, each in enumerate(kinds)]
    state = rng.choice(("good", "good", "good", "doubtful", "refused"))
    row = row_of(
        name, sha, domain, kind, language, exchanges, state, step="expand" if kind == "conversation" else "generate"
    )
    ledger.add(row)
    ledger.add(
        AnswerRow(row.answer, row.step, domain, sha, kind, language, f"{kind}.{language} 0a1b2c3d", count_of(name), "m-4",
                  "…", "stop", "", "", 1, 1000, 100, 0.002, 1.0, read=1)
    )  # fmt: skip
    if state != "refused" and rng.random() < 0.6:
        said = rng.choice(("accept", "accept", "edit", "reject"))
        edited = [dataclasses.replace(x, question=f"Edited: {x.question}") for x in exchanges]
        body, reason = (as_body(edited) if said == "edit" else "", "wrong_answer" if said == "reject" else "")
        ledger.add(Verdict(name, "anna", said, reason, body, 0, 7.5))
        if rng.random() < 0.3:
            ledger.add(Verdict(name, "ben", "accept", seconds=4.0))


def count_of(name):
    return int(name.lstrip("i"))


def project_of(folder, **export):
    folder.mkdir(parents=True)
    config = {
        "name": "Tried set",
        "collect": {"sources": [{"domain": "ocr", "folder": "../pictures"}]},
        "export": {"licence": "cc-by-4.0", **export},
    }
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    return Project(folder)


def export(project, folder, formats=("jsonl",), workers=1, *, plotted=False):
    """Plots take most of the time, and few tests look at them."""
    with Ledger(project.ledger) as ledger, pytest.MonkeyPatch.context() as patch:
        if not plotted:
            patch.setattr(plots, "plot_card", lambda *_: [])
        return export_project(project, ledger, folder, formats, workers)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = project_of(tmp_path_factory.mktemp("tried") / "project")
    fill(project)
    return project


@pytest.fixture(scope="module")
def exported(project):
    """Everything in every format."""
    folder = project.folder.parent / "exported"
    return folder, export(project, folder, list(FORMATS), plotted=True)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "tried_set.jsonl").read_text(encoding="utf-8").split("\n") if line]


def decided(project):
    with Ledger(project.ledger) as ledger:
        return {item.id: (item, decision) for item, decision in decisions(ledger)}


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
