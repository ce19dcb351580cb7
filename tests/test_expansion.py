"""Public sets come into a project with their pictures, each question once, and what is none has its reason."""

import collections
import json
import shutil

import pytest
import yaml

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import CONFIG, Project, ProjectError, init_project
from mmfuser_jax.mminstruct.public_sets import FORMATS, PublicSetError
from mmfuser_jax.mminstruct.questions.items import LETTERS, from_body
from mmfuser_jax.mminstruct.reasons import PICTURES, SETS
from mmfuser_jax.mminstruct.schema import ImageRow, ItemRow
from mmfuser_jax.mminstruct.steps.expansion import take_sets
from mmfuser_jax.mminstruct.steps.step import images
from tests import test_public_sets
from tests.test_public_sets import SPLITS, draw, write


def project_of(folder, *sets):
    (folder / "pictures").mkdir()
    init_project(folder / "project", "tried", "posters", folder / "pictures")
    path = folder / "project" / CONFIG
    change(path, expand={"sets": list(sets)})
    return Project(folder / "project")


def change(path, **parts):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | parts))


def taken(project):
    with Ledger(project.ledger) as ledger:
        take_sets(project, ledger)
        return list(ledger.rows(ItemRow, order="id")), list(ledger.rows(ImageRow))


def outcomes(project):
    return {row.answer: row.reason or row.state for row in taken(project)[0]}


def written(project):
    with Ledger(project.ledger) as ledger:
        return ledger.query("SELECT rowid, at FROM items")


@pytest.fixture
def published(tmp_path):
    for name in FORMATS:
        getattr(test_public_sets, name)(tmp_path / name)
    return tmp_path


def test_all_sets_come_in_once_and_nothing_disappears(published):
    sets = [
        {"format": name, "folder": f"../{name}", "splits": SPLITS[name], "licence": "CC BY 4.0"} for name in FORMATS
    ]
    project = project_of(published, *sets)
    items, pictures = taken(project)
    there = {name: list(FORMATS[name](published / name, SPLITS[name])) for name in FORMATS}
    assert collections.Counter(row.step for row in items) == {name: len(found) for name, found in there.items()}
    assert {row.reason for row in items if row.state == "refused"} <= {*SETS, *PICTURES}
    assert all((row.state == "good") == (row.reason == "") for row in items)
    known = {row.sha: row for row in pictures}
    for row in (row for row in items if row.state == "good"):
        picture = known[row.image]
        assert (picture.state, picture.licence, picture.domain) == ("imported", "CC BY 4.0", "chart_and_math")
        assert store.find(project.images, row.image).exists()
        (item,) = from_body(row.body)
        assert item.type == row.type
        assert item.type != "choice" or item.answer in LETTERS[: len(item.options)]
    times = written(project)
    assert taken(project) == (items, pictures)
    assert written(project) == times, "what did not change is not written again"
    with Ledger(project.ledger) as ledger:
        assert not list(images(ledger)), "no model is asked about pictures that have their questions"


def test_the_right_option_does_not_stay_where_the_set_has_it(published):
    project = project_of(published, {"format": "geometry3k", "folder": "../geometry3k"})
    chosen = [from_body(row.body)[0] for row in taken(project)[0] if row.state == "good"]
    original = {
        x.item.question: x.item
        for x in FORMATS["geometry3k"](published / "geometry3k", ["train"])
        if hasattr(x, "item")
    }
    assert chosen
    for item in chosen:
        assert item.answer_text == original[item.question].answer_text
        assert sorted(item.options) == sorted(original[item.question].options)


def test_so_many_are_spread_over_the_set(published):
    every = [found.name for found in FORMATS["figureqa"](published / "figureqa", ["train"])]
    assert len(every) == 4
    project = project_of(published, {"format": "figureqa", "folder": "../figureqa", "most": 2})
    names = sorted(row.answer for row in taken(project)[0])
    assert names == sorted([every[0], every[2]])


def test_mistakes_are_named(published):
    project = project_of(published, {"format": "dvqq", "folder": "../dvqa"})
    with pytest.raises(ProjectError, match=r"project.yaml: expand.sets: no format 'dvqq'; known: clevr_math, dvqa"):
        taken(project)
    path = project.folder / CONFIG
    path.write_text(path.read_text().replace("dvqq", "tqa"))
    with pytest.raises(PublicSetError, match="dvqa: does not look like"):
        taken(Project(project.folder))


def test_two_folders_of_a_format_come_in_under_their_names(published):
    shutil.copytree(published / "clevr_math", published / "multihop")
    path = published / "multihop/clevr-math-train.json"
    path.write_text(path.read_text().replace("all cubes", "all cubes and cylinders"))
    single = {"format": "clevr_math", "folder": "../clevr_math"}
    project = project_of(published, single)
    before = taken(project)[0]
    change(project.folder / CONFIG, expand={"sets": [single, {**single, "folder": "../multihop", "name": "multihop"}]})
    items = taken(Project(project.folder))[0]
    steps = {step: [row for row in items if row.step == step] for step in ("clevr_math", "multihop")}
    assert steps["clevr_math"] == before
    assert sorted(row.answer for row in steps["multihop"]) == sorted(row.answer for row in before)
    questions = {from_body(row.body)[0].question for row in steps["multihop"] if row.state == "good"}
    assert questions == {"Remove all cubes and cylinders. How many things are left?"}


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("", ""), r"expand.sets: .*two sets are called 'tqa'; give the new one another, as name: tqa_2$"),
        (("a", "a"), r"expand.sets: .*two sets are called 'a'; give the new one another, as name: a_2$"),
        (("", "expand"), r"expand.sets: .*'expand' is a step; give the set another name$"),
        (("", "two words"), r"expand.sets.2.name: .*should match pattern"),
    ],
)
def test_sets_that_could_not_be_told_apart_are_refused(published, names, match):
    with pytest.raises(ProjectError, match=match):
        project_of(published, *({"format": "tqa", "folder": "../tqa", "name": name} for name in names))


def test_what_failed_is_taken_once_its_files_are_mended(published):
    project = project_of(published, {"format": "dvqa", "folder": "../dvqa", "splits": ["train", "val_easy"]})
    folder = published / "dvqa"
    picture = folder / "images/bar_train_00000001.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:40])
    first = outcomes(project)
    assert first == {
        "train/7": "bad_image", "train/8": "bad_image", "train/9": "missing_image", "train/10": "image_path",
        "train/row 4": "field", "val_easy/7": "bad_image", "val_easy/row 1": "bad_json",
    }  # fmt: skip
    times = written(project)
    assert outcomes(project) == first
    assert written(project) == times
    picture.write_bytes(content)
    draw(folder / "images/gone.png")
    path = folder / "train_qa.json"
    path.write_text(path.read_text().replace('"answer": 3', '"answer": "3"'))
    path = folder / "val_easy_qa.json"
    row = {"image": "gone.png", "question": "What is the title?", "answer": "Years"}
    path.write_text(path.read_text().replace('{"question_id": tru}', json.dumps(row)))
    items, pictures = taken(project)
    assert {row.answer: row.reason or row.state for row in items} == {
        **dict.fromkeys(first, "good"),
        "train/10": "image_path",
    }
    assert len(pictures) == len({row.image for row in items if row.state == "good"}) == 1, "both files are the same"
    assert taken(project) == (items, pictures)
    picture.unlink()
    assert taken(project) == (items, pictures), "what is there stays, whatever becomes of its file"


def test_a_kill_amid_a_second_run_leaves_what_was_there(published, monkeypatch):
    project = project_of(published, {"format": "figureqa", "folder": "../figureqa"})
    first = taken(project)
    for place in (1, 5):
        draw(published / f"figureqa/train1/png/{place}.png")
    real, calls = Ledger.add, []

    def add(ledger, row, conflict=""):
        real(ledger, row, conflict)
        calls.append(row)
        if isinstance(row, ItemRow):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "add", add)
        with pytest.raises(KeyboardInterrupt):
            taken(project)
    assert calls[-1].state == "good"
    with Ledger(project.ledger) as ledger:
        assert (list(ledger.rows(ItemRow, order="id")), list(ledger.rows(ImageRow))) == first
    assert sorted(outcomes(project).values()) == ["field", "good", "good", "good"]


@pytest.mark.parametrize(
    ("name", "chosen", "expected"),
    [
        ("geometry3k", {}, {"train"}),
        ("geometry3k", {"splits": ["train", "val"]}, {"train", "val"}),
        ("dvqa", {}, {"train"}),
        ("figureqa", {}, {"train1"}),
    ],
)
def test_questions_to_test_with_are_taken_only_when_asked_for(published, name, chosen, expected):
    project = project_of(published, {"format": name, "folder": f"../{name}", **chosen})
    assert {row.answer.split("/")[0] for row in taken(project)[0]} == expected


@pytest.mark.parametrize("asked", ["what do both COST", "What do both cost? (Unit: $)"])
def test_questions_of_benchmarks_are_refused_in_sets_too(published, asked):
    project = project_of(published, {"format": "tabmwp", "folder": "../tabmwp"})
    write(published / "benchmark.jsonl", json.dumps({"question": asked}))
    change(project.folder / CONFIG, generate={"benchmarks": ["../benchmark.jsonl"]})
    items, pictures = taken(Project(project.folder))
    found = {row.answer: row.reason for row in items if row.state == "refused"}
    assert (found["train/16"], found["train/16/long"]) == ("benchmark", "benchmark")
    assert "benchmark" not in {reason for name, reason in found.items() if not name.startswith("train/16")}
    assert {row.answer for row in items if row.state == "good"} == {
        "train/17",
        "train/17/long",
        "train/18",
        "train/18/long",
    }
    assert all(row.image == "" for row in items if row.reason == "benchmark")
    assert pictures
