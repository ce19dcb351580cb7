"""An export replaces the one before: whole or not at all, whatever kills it."""

import collections
import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from mmfuser_jax.locks import LockedError, locked
from mmfuser_jax.mminstruct.export import exporting
from mmfuser_jax.mminstruct.export.errors import ExportError
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.schema import Export, Verdict
from tests import exports
from tests.exports import bytes_of, export, rows_of
from tests.nursery import nursery

project = exports.project  # a fixture


def test_an_export_replaces_the_one_before_and_is_written_down_once(project, tmp_path):
    folder = tmp_path / "out"
    export(project, folder, ["llava"])
    assert (folder / "tried_set.json").exists()
    first, second = export(project, folder), export(project, folder)
    assert first == second
    assert not (folder / "tried_set.json").exists()
    with Ledger(project.ledger) as ledger:
        written = list(ledger.rows(Export, "path = ?", (str(folder),)))
    assert [row.format for row in written] == ["llava", "jsonl"]
    assert (written[1].conversations, written[1].pictures) == (first.items, first.pictures)
    assert not list(tmp_path.glob(".*"))


def make_own(folder):
    """What people have in the folder of an export: a clone of a repository, notes, a link to elsewhere."""
    (folder / ".git/objects/ab").mkdir(parents=True)
    (folder / ".git/objects/ab/cdef").write_bytes(b"history")
    (folder / ".git/objects/ab/cdef").chmod(0o444)
    (folder / ".gitattributes").write_text("*.parquet filter=lfs")
    (folder / "NOTES.md").write_text("years of work")
    (folder / "elsewhere").symlink_to(folder.parent)


def own(folder):
    names = (".git/objects/ab/cdef", ".gitattributes", "NOTES.md")
    assert (folder / "elsewhere").readlink() == folder.parent
    return [(folder / name).read_bytes() for name in names]


@pytest.mark.parametrize("linked", [True, False])
def test_what_people_have_in_the_folder_stays(project, tmp_path, monkeypatch, linked):
    def fails(*_):
        raise OSError(18, "Invalid cross-device link")

    if not linked:
        monkeypatch.setattr(os, "link", fails)
    folder = tmp_path / "out"
    export(project, folder, ["llava"])
    make_own(folder)
    expected, node = own(folder), (folder / "NOTES.md").stat().st_ino
    for _ in range(2):
        export(project, folder)
        assert own(folder) == expected
    assert ((folder / "NOTES.md").stat().st_ino == node) == linked
    assert {path.name for path in folder.iterdir()} == {
        ".git", ".gitattributes", "NOTES.md", "elsewhere", "README.md", "card", "images", "tried_set.jsonl",
    }  # fmt: skip
    assert not list(tmp_path.glob(".*"))


def test_a_fresh_clone_is_exported_into(project, tmp_path):
    (tmp_path / "out/.git").mkdir(parents=True)
    (tmp_path / "out/.git/HEAD").write_text("ref: refs/heads/main")
    export(project, tmp_path / "out")
    assert (tmp_path / "out/.git/HEAD").read_text() == "ref: refs/heads/main"
    assert rows_of(tmp_path / "out")


def test_what_people_have_under_a_name_of_the_export_is_not_written_over(project, tmp_path):
    export(project, tmp_path / "out")
    (tmp_path / "out/tried_set.json").write_text("my own rows")
    before = bytes_of(tmp_path / "out")
    with pytest.raises(ExportError, match=r"out/tried_set\.json: the export has something of that name.*move it away"):
        export(project, tmp_path / "out", ["llava"])
    assert bytes_of(tmp_path / "out") == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("links", [0, 1, 2])
def test_whatever_a_killed_export_left_of_it_what_people_have_is_there(project, tmp_path, monkeypatch, links):
    """The draft of a killed export has second names of these files, or links to them, and is cleared away."""
    export(project, tmp_path / "out")
    make_own(tmp_path / "out")
    expected, draft = own(tmp_path / "out"), tmp_path / ".out.draft"
    link, left = os.link, [None] * links

    def dies(source, target):
        if not left:
            shutil.copytree(draft, tmp_path / "draft", symlinks=True, copy_function=link)
            raise KeyboardInterrupt
        left.pop()
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", dies)
        with pytest.raises(KeyboardInterrupt):
            export(project, tmp_path / "out")
    assert own(tmp_path / "out") == expected
    (tmp_path / "draft").rename(draft)  # as if nothing had cleared it away
    (draft / "link").symlink_to(tmp_path / "out")
    export(project, tmp_path / "out")
    assert own(tmp_path / "out") == expected
    assert not list(tmp_path.glob(".*"))


def victim(folder):
    """In a child that is killed: exports into `folder`/out what is in its project."""
    export(Project(folder / "project"), folder / "out", ["jsonl", "parquet"])


def test_a_kill_leaves_the_old_or_the_new(project, tmp_path):
    shutil.copytree(project.folder, tmp_path / "project")
    out, draft = tmp_path / "out", tmp_path / ".out.draft"
    victim(tmp_path)
    (out / "NOTES.md").write_text("years of work")
    old = bytes_of(shutil.copytree(out, tmp_path / "old"))
    with Ledger(tmp_path / "project/ledger.sqlite") as ledger:
        ledger.add(Verdict(rows_of(tmp_path / "old")[0]["id"], "carl", "reject", "unclear", "", 1))
    rng, ends = random.Random(0), collections.Counter()
    with nursery("tests.test_export_replacing", tmp_path) as children:
        begun = time.monotonic()
        children.begin("victim")
        assert children.end() == 0, children.errors()
        took, new = time.monotonic() - begun, bytes_of(out)
        assert new != old
        assert new["NOTES.md"] == old["NOTES.md"]
        for life in range(6):
            shutil.rmtree(out)
            shutil.copytree(tmp_path / "old", out)
            child, deadline = children.begin("victim"), time.monotonic() + rng.uniform(0, took)
            while children.lives(child) and time.monotonic() < deadline:
                if life % 2 and (draft / "README.md").exists():  # now or soon the two change places
                    break
                time.sleep(0.001)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            ends[children.end()] += 1
            assert bytes_of(out) in (old, new)
            ends["old"] += bytes_of(out) == old
        children.begin("victim")
        assert children.end() == 0, children.errors()
    assert ends[-signal.SIGKILL] >= 3
    assert ends["old"] >= 1
    assert bytes_of(out) == new
    assert not list(tmp_path.glob(".*"))


def test_where_folders_cannot_change_places_the_old_one_comes_back(project, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_exchange", lambda *_: False)
    export(project, tmp_path / "out", ["llava"])
    old = bytes_of(tmp_path / "out")
    renames = []
    rename = Path.rename

    def dies(path, target):
        renames.append(path)
        if len(renames) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            export(project, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    exporting._restore(tmp_path / "out")
    assert bytes_of(tmp_path / "out") == old
    export(project, tmp_path / "out")
    assert (tmp_path / "out/tried_set.jsonl").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_second_export_to_the_same_place_waits_for_its_turn(project, tmp_path):
    with locked(tmp_path / ".out.draft"), pytest.raises(LockedError, match="a run is going on here"):
        export(project, tmp_path / "out")


def test_an_export_of_a_version_that_did_not_write_down_its_files_is_named_as_one(project, tmp_path):
    export(project, tmp_path / "out")
    path = tmp_path / "out/card/statistics.json"
    numbers = json.loads(path.read_text())
    del numbers["files"]
    path.write_text(json.dumps(numbers))
    before = bytes_of(tmp_path / "out")
    with pytest.raises(ExportError, match=r"out/card/statistics\.json: has no field files.*an earlier version did"):
        export(project, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before
