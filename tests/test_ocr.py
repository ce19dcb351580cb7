"""Words in pictures are read once, and pictures without words are remembered as such."""

import json
import sys

import pytest
from PIL import Image, ImageDraw, ImageFont

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures import ocr
from mmfuser_jax.mminstruct.pictures.collect import collect
from mmfuser_jax.mminstruct.project import Project, ProjectError, init_project
from mmfuser_jax.mminstruct.steps.captions import texts_of
from tests.test_collect import scene


@pytest.fixture
def project(tmp_path):
    (tmp_path / "pictures").mkdir()
    poster = Image.new("RGB", (480, 200), "white")
    draw = ImageDraw.Draw(poster)
    draw.text((20, 20), "GRAND OPENING 2024", (0, 0, 0), ImageFont.load_default(36))
    draw.text((20, 110), "Coffee $3.50", (200, 0, 0), ImageFont.load_default(30))
    poster.save(tmp_path / "pictures" / "poster.png")
    scene(1).save(tmp_path / "pictures" / "scene.png")
    init_project(tmp_path / "project", "tried", "ocr", tmp_path / "pictures")
    project = Project(tmp_path / "project")
    with Ledger(project.ledger) as ledger:
        collect(project, ledger)
    return project


def test_words_are_read_once(project, monkeypatch):
    with Ledger(project.ledger) as ledger:
        ocr.read_texts(project, ledger)
        shas = {origin.rpartition("/")[2]: sha for sha, origin in ledger.query("SELECT sha, origin FROM images")}
        assert texts_of(ledger, shas["poster.png"]) == ["GRAND OPENING 2024", "Coffee $3.50"]
        assert texts_of(ledger, shas["scene.png"]) == []
        assert ledger.query("SELECT count(*) FROM texts") == [(2,)]
        monkeypatch.setattr(ocr, "lines_of", None)  # would fail if it were called
        ocr.read_texts(project, ledger)
        assert json.loads(ledger.query("SELECT lines FROM texts WHERE image = ?", (shas["scene.png"],))[0][0]) == []


def test_without_the_package_it_says_how_to_get_it(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    ocr._reader.cache_clear()
    with Ledger(project.ledger) as ledger, pytest.raises(ProjectError, match=r"pip install 'mmfuser-jax\[ocr\]'"):
        ocr.read_texts(project, ledger)
