"""Everybody's tools read what was written, in every format; the same ledger gives the same bytes."""

import hashlib
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from mmfuser_jax.data import labels
from mmfuser_jax.data.grouping import modality_lengths
from mmfuser_jax.data.records import Turn
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.export.exporting import FORMATS
from mmfuser_jax.mminstruct.questions.items import TYPES
from mmfuser_jax.prepare.audit import audit
from mmfuser_jax.prepare.build import verify
from tests import exports
from tests.exports import DOMAINS, bytes_of, export, rows_of

project, exported = exports.project, exports.exported  # fixtures


def conversations_of(source):
    """Id of an item → its turns, of every record."""
    return {
        tags["item"]: [(turn.role, turn.text) for turn in turns]
        for record in source
        for turns, tags in zip(record.conversations, record.tags, strict=True)
    }


def expected_conversations(folder):
    return {row["id"]: [(x["from"], x["value"]) for x in row["conversations"]] for row in rows_of(folder)}


@pytest.mark.parametrize("name", ["tried_set.jsonl", "tried_set.json", "tried_set", "data"])
def test_the_data_path_reads_back_what_was_written(project, exported, name):
    folder, counts = exported
    source = open_source(SourceSpec(str(folder / name)))
    assert conversations_of(source) == expected_conversations(folder)
    assert len(source) == (counts.pictures if name == "tried_set" else counts.items)
    for record in source:
        (picture,) = record.images
        content = picture if isinstance(picture, bytes) else picture.read_bytes()
        assert {tags["sha256"] for tags in record.tags} == {hashlib.sha256(content).hexdigest()}
    tags = {tag["item"]: dict(tag) for record in source for tag in record.tags}
    assert tags == {row["id"]: row["tags"] for row in rows_of(folder)}


def test_types_of_all_rows_are_recognised_from_their_words(exported):
    for row in rows_of(exported[0]):
        turns = [Turn(entry["from"], entry["value"]) for entry in row["conversations"]]
        found = labels.detect([row["image"]], turns)
        kind = row["tags"]["type"]
        assert found["type"] == ("mixed" if kind == "conversation" else kind)


def test_e2_the_rows_a_line_are_found_by_the_reader_of_a_release(exported, tmp_path):
    """The reference's loader looks for .json only, and its release is .jsonl."""
    release = tmp_path / "release"
    (release / "jsons_all").mkdir(parents=True)
    shutil.copy(exported[0] / "tried_set.jsonl", release / "jsons_all/qa.jsonl")
    source = open_source(SourceSpec(str(release), image_folder=str(exported[0])))
    assert conversations_of(source) == expected_conversations(exported[0])
    assert all(Path(image).is_file() for record in source for image in record.images)


def test_e4_chinese_rows_are_as_long_as_they_are(exported):
    """The reference counts words between blanks, by which a Chinese row is one or two words long."""
    source = open_source(SourceSpec(str(exported[0] / "tried_set.jsonl")))
    lengths = modality_lengths(source)
    chosen = [x.tags[0]["language"] == "zh" and x.tags[0]["type"] == "long" for x in source]
    assert min(lengths[np.array(chosen)]) > 60
    numbers = json.loads((exported[0] / "card/statistics.json").read_text())
    assert numbers["lengths"]["long"]["zh"]["answer_median"] >= 60
    assert numbers["lengths"]["long"]["zh"]["answer_median"] > numbers["lengths"]["short"]["zh"]["answer_most"]


@pytest.mark.parametrize("name", ["tried_set.jsonl", "tried_set", "data"])
def test_an_audit_finds_nothing(exported, name):
    report = audit(SourceSpec(str(exported[0] / name)))
    assert report["accepted"] == report["rows"] > 0
    assert report["pictures"]["unusable"] == report["pictures"]["same_content"] == 0
    assert report["duplicates"]["id"]["count"] == report["duplicates"]["content"]["count"] == 0
    assert set(report["domains"]) == set(DOMAINS)
    assert set(report["types"]) == {*TYPES, "conversation"}


def test_array_records_hold_every_picture_once_and_are_as_built(exported):
    folder, counts = exported
    line = verify(folder / "tried_set/1.0.0")
    assert f"({counts.pictures} records)" in line
    source = open_source(SourceSpec(str(folder / "tried_set")))
    assert len({record.id for record in source}) == counts.pictures
    assert not list(folder.glob(".*"))


def test_datasets_loads_pictures_and_words(exported, tmp_path):
    folder, counts = exported
    table = datasets.load_dataset(
        "parquet", data_files=str(folder / "data/train-*.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert table.num_rows == counts.items
    row, expected = table[3], rows_of(folder)[3]
    assert isinstance(row["image"], Image.Image)
    assert row["image"].size == (160, 120)
    assert row["conversations"] == expected["conversations"]
    assert row["tags"] == expected["tags"]


def test_a_parquet_file_stores_a_picture_once_however_many_rows_show_it(exported):
    folder, counts = exported
    pictures = sum(path.stat().st_size for path in (folder / "images").rglob("*.png"))
    rows = (folder / "tried_set.jsonl").stat().st_size
    size = sum(path.stat().st_size for path in (folder / "data").iterdir())
    assert counts.items > 5 * counts.pictures
    assert size < pictures + rows


def test_parquet_files_are_cut_to_size(project, exported, tmp_path, monkeypatch):
    from mmfuser_jax.mminstruct.export import parquet

    monkeypatch.setattr(parquet, "GROUP_BYTES", 2000)
    monkeypatch.setattr(parquet, "FILE_BYTES", 5000)
    export(project, tmp_path / "out", ["jsonl", "parquet"])
    names = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    assert len(names) > 2
    assert names[0] == f"train-00000-of-{len(names):05d}.parquet"
    source = open_source(SourceSpec(str(tmp_path / "out/data")))
    assert conversations_of(source) == expected_conversations(exported[0])


def test_whoever_changes_a_picture_of_an_export_changes_no_other(project, exported, tmp_path):
    export(project, tmp_path / "out")
    row = rows_of(exported[0])[0]
    kept = store.place(project.images, row["tags"]["sha256"], ".png").read_bytes()
    with (tmp_path / "out" / row["image"]).open("r+b") as file:
        assert file.read() == kept
        file.truncate(10)
    assert (exported[0] / row["image"]).read_bytes() == kept
    export(project, tmp_path / "out")
    assert (tmp_path / "out" / row["image"]).read_bytes() == kept


def test_the_same_ledger_gives_the_same_bytes_whatever_the_processes(project, exported, tmp_path):
    again = export(project, tmp_path / "out", list(reversed(FORMATS)), workers=2, plotted=True)
    assert again == exported[1]
    assert bytes_of(tmp_path / "out") == bytes_of(exported[0])
