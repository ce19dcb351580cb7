"""A small torture: kills, damage and fewer devices leave no trace; and the comparison sees one."""

import shutil

import pytest

from mmfuser_jax import checksums
from mmfuser_jax.jobs import torture
from tests.conftest import ROOT

SCRIPT, CONFIG = ROOT / "launch" / "train.py", str(ROOT / "configs" / "torture.py:30")


def test_a_tortured_run_ends_like_one_left_alone(tmp_path, monkeypatch, capsys):
    chosen = ("killed while it saved", "SIGTERM", "killed, a bit flipped")
    monkeypatch.setattr(torture, "FAULTS", {name: torture.FAULTS[name] for name in chosen})
    workdir = tmp_path / "torture"
    assert torture.torture(SCRIPT, CONFIG, 30, workdir, faults=3, seed=1), (workdir / "tortured.log").read_text()
    said = capsys.readouterr().out
    assert "rows of metrics.jsonl are the same" in said
    assert all(name in said for name in chosen)
    checkpoints = workdir / "tortured" / "checkpoints"
    assert checksums.steps(checkpoints)[0] == 30
    shutil.rmtree(checkpoints / "30")  # an older one has other weights
    untouched, tortured = (torture.Victim(SCRIPT, CONFIG, workdir / name) for name in ("untouched", "tortured"))
    assert not torture.same(untouched, tortured, [])


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    with pytest.raises(ValueError, match="must not exist"):
        torture.torture(SCRIPT, CONFIG, 30, tmp_path, faults=1, seed=0)
