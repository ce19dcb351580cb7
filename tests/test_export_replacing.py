"""An export replaces the one before: whole or not at all, whatever kills it."""

import collections
import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from mmfuser_jax.locks import LockedError, locked
from mmfuser_jax.mminstruct.export import exporting
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


def victim(folder):
    """In a child that is killed: exports into `folder`/out what is in its project."""
    export(Project(folder / "project"), folder / "out", ["jsonl", "parquet"])


def test_a_kill_leaves_the_old_or_the_new(project, tmp_path):
    shutil.copytree(project.folder, tmp_path / "project")
    out, draft = tmp_path / "out", tmp_path / ".out.draft"
    victim(tmp_path)
    old = bytes_of(out.rename(tmp_path / "old"))
    with Ledger(tmp_path / "project/ledger.sqlite") as ledger:
        ledger.add(Verdict(rows_of(tmp_path / "old")[0]["id"], "carl", "reject", "unclear", "", 1))
    rng, ends = random.Random(0), collections.Counter()
    with nursery("tests.test_export_replacing", tmp_path) as children:
        begun = time.monotonic()
        children.begin("victim")
        assert children.end() == 0, children.errors()
        took, new = time.monotonic() - begun, bytes_of(out)
        assert new != old
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
