"""Public sets come into a project with their pictures, each question once, and what is none has its reason."""

import collections

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


def project_of(folder, *sets):
    (folder / "pictures").mkdir()
    init_project(folder / "project", "tried", "posters", folder / "pictures")
    path = folder / "project" / CONFIG
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"expand": {"sets": list(sets)}}))
    return Project(folder / "project")


def taken(project):
    with Ledger(project.ledger) as ledger:
        take_sets(project, ledger)
        return list(ledger.rows(ItemRow, order="id")), list(ledger.rows(ImageRow))


@pytest.fixture
def published(tmp_path):
    for name in FORMATS:
        getattr(test_public_sets, name)(tmp_path / name)
    return tmp_path


def test_all_sets_come_in_once_and_nothing_disappears(published):
    sets = [{"format": name, "folder": f"../{name}", "licence": "CC BY 4.0"} for name in FORMATS]
    project = project_of(published, *sets)
    items, pictures = taken(project)
    there = {name: list(FORMATS[name](published / name)) for name in FORMATS}
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
    assert taken(project) == (items, pictures)
    with Ledger(project.ledger) as ledger:
        assert not list(images(ledger)), "no model is asked about pictures that have their questions"


def test_the_right_option_does_not_stay_where_the_set_has_it(published):
    project = project_of(published, {"format": "geometry3k", "folder": "../geometry3k"})
    chosen = [from_body(row.body)[0] for row in taken(project)[0] if row.state == "good"]
    original = {x.item.question: x.item for x in FORMATS["geometry3k"](published / "geometry3k") if hasattr(x, "item")}
    assert chosen
    for item in chosen:
        assert item.answer_text == original[item.question].answer_text
        assert sorted(item.options) == sorted(original[item.question].options)


def test_so_many_are_spread_over_the_set(published):
    total = len(list(FORMATS["figureqa"](published / "figureqa")))
    assert total == 5
    project = project_of(published, {"format": "figureqa", "folder": "../figureqa", "most": 2})
    names = sorted(row.answer for row in taken(project)[0])
    every = [found.name for found in FORMATS["figureqa"](published / "figureqa")]
    assert names == sorted([every[0], every[2]])


def test_mistakes_are_named(published):
    project = project_of(published, {"format": "dvqq", "folder": "../dvqa"})
    with pytest.raises(ProjectError, match=r"project.yaml: expand.sets: no format 'dvqq'; known: clevr_math, dvqa"):
        taken(project)
    path = project.folder / CONFIG
    path.write_text(path.read_text().replace("dvqq", "tqa"))
    with pytest.raises(PublicSetError, match="dvqa: does not look like"):
        taken(Project(project.folder))
