"""A small torture: kills, damage and fewer devices leave no trace; and the comparison sees one."""

import shutil

import pytest

from mmfuser_jax import checksums
from mmfuser_jax.jobs import torture
from tests.conftest import ROOT

SCRIPT, CONFIG = ROOT / "launch" / "train.py", str(ROOT / "configs" / "torture.py:30")


def test_a_tortured_run_ends_like_one_left_alone(tmp_path, monkeypatch, capsys):
    chosen = ("killed while it saved", "SIGTERM", "killed, a bit flipped")
    monkeypatch.setattr(torture, "DEVICES", (2, 1))
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


def test_it_falls_back_to_no_checkpoint_of_other_devices(tmp_path):
    victim = torture.Victim(SCRIPT, CONFIG, tmp_path / "run")
    for step in (10, 20, 30):
        (victim.checkpoints / str(step)).mkdir(parents=True)
    for step in (10, 20):
        (victim.checkpoints / str(step) / checksums.MANIFEST).touch()
    assert victim.sound() == [20, 10]
    victim.begun = 20
    assert victim.sound() == [20]
    victim.take_away_after(20)
    assert victim.saved() == [20, 10]


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    with pytest.raises(ValueError, match="must not exist"):
        torture.torture(SCRIPT, CONFIG, 30, tmp_path, faults=1, seed=0)
