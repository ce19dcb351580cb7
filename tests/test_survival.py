"""What happens to runs: damaged checkpoints, signals, a second run in the same place, disks that are full."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from mmfuser_jax import checksums
from mmfuser_jax.checkpoint import CheckpointError
from mmfuser_jax.locks import LockedError, locked
from mmfuser_jax.train import Stopped, train
from mmfuser_jax.train.errors import TrainingError
from mmfuser_jax.train.stage_data import StageData
from mmfuser_jax.train.stopping import stop_signals
from tests.conftest import ROOT
from tests.test_resume import WALL_CLOCK
from tests.test_train import tiny_run

pytestmark = pytest.mark.usefixtures("compiled_once")


def config():
    """Six steps of one stage, each validated, a checkpoint every second one, all of them kept."""
    config = tiny_run(steps=12, keep=10, validate_every=1)
    config.stage_order = ("finetune",)
    return config.to_dict()


def norm_of_parameters(stage, model, params, tokenizer):
    """A number that depends on the parameters."""
    return {"norm": float(sum(np.square(np.asarray(x)).sum() for x in jax.tree.leaves(params)))}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A run that nothing happened to, and its parameters."""
    workdir = tmp_path_factory.mktemp("untouched")
    return workdir, train(config(), workdir, norm_of_parameters).params


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{key: x for key, x in json.loads(line).items() if key not in WALL_CLOCK} for line in lines]


def copy_without(untouched, tmp_path, *steps):
    """The run as if it had been killed before it saved these steps."""
    workdir = shutil.copytree(untouched[0], tmp_path / "run")
    for step in steps:
        shutil.rmtree(workdir / "checkpoints" / str(step))
    return workdir


def assert_ends_alike(untouched, workdir):
    """Goes on, to the same parameters, bit for bit, and the same rows."""
    params = train(config(), workdir, norm_of_parameters).params
    for x, expected in zip(jax.tree.leaves(params), jax.tree.leaves(untouched[1]), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(expected).tobytes()
    assert rows(workdir) == rows(untouched[0])


def test_leaving_a_block_is_no_error_of_what_runs_in_it():
    """Such as reading a picture, where whatever goes wrong is a record's fault."""
    taken = []

    def validate():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:
            taken.append(error)
        taken.append("went on")

    with stop_signals() as stop:
        assert stop.interruptible(lambda: None)
        assert not stop.interruptible(validate)
        assert stop.received == signal.SIGTERM
        assert not stop.interruptible(validate), "nothing is begun after it"
    assert not taken


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def delete(path):
    path.unlink()


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[np.random.default_rng(0).integers(len(data))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("fault", [truncate, delete, flip_a_bit])
def test_checksums_find_every_fault(untouched, tmp_path, fault):
    folder = untouched[0] / "checkpoints" / "4"
    assert checksums.check(folder) == checksums.Findings(True, ())
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert len({path.parts[0] for path in names}) >= 5  # parameters, optimizer, data position, meta, Orbax's own files
    for name in names:
        damaged = shutil.copytree(folder, tmp_path / "damaged")
        fault(damaged / name)
        found = checksums.check(damaged)
        assert found.problems or (name.name == checksums.MANIFEST and not found.known), name
        shutil.rmtree(damaged)


def test_a_file_that_was_not_saved_is_found(untouched, tmp_path):
    folder = shutil.copytree(untouched[0] / "checkpoints" / "4", tmp_path / "4")
    (folder / "params" / "more").write_text("")
    assert checksums.check(folder).problems == ("params/more: not in checksums.json",)


@pytest.mark.parametrize(("fault", "kind"), [(truncate, "params"), (flip_a_bit, "train"), (delete, "data")])
def test_training_goes_on_from_the_last_sound_checkpoint(untouched, tmp_path, caplog, fault, kind):
    workdir = copy_without(untouched, tmp_path, 6)
    newest = workdir / "checkpoints" / "4"
    files = [path for path in [newest / kind, *(newest / kind).rglob("*")] if path.is_file() and path.stat().st_size]
    fault(max(files, key=lambda path: path.stat().st_size))
    with caplog.at_level(logging.WARNING, "mmfuser_jax"):
        assert_ends_alike(untouched, workdir)
    assert any(f"checkpoint of step 4 is damaged ({kind}" in message for message in caplog.messages)
    assert (workdir / "checkpoints" / "4.damaged").is_dir()


def test_without_checksums_a_checkpoint_is_used_loudly(untouched, tmp_path, caplog):
    """A kill between the checkpoint and its manifest."""
    workdir = copy_without(untouched, tmp_path, 6)
    (workdir / "checkpoints" / "4" / checksums.MANIFEST).unlink()
    with caplog.at_level(logging.WARNING, "mmfuser_jax"):
        assert_ends_alike(untouched, workdir)
    assert "checkpoint of step 4 has no checksums: it is used unchecked" in caplog.messages


def test_a_run_without_a_sound_checkpoint_does_not_begin_anew(untouched, tmp_path):
    workdir = copy_without(untouched, tmp_path)
    for step in (2, 4, 6):
        for path in (workdir / "checkpoints" / str(step)).glob("*METADATA"):
            path.unlink()
    with pytest.raises(ValueError, match=r"no checkpoint is sound \(step 6: _CHECKPOINT_METADATA: missing; step 4"):
        train(config(), workdir, norm_of_parameters)
    assert checksums.steps(workdir / "checkpoints") == [6, 4, 2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops(untouched, tmp_path, monkeypatch, number, code):
    original, batches = StageData.next, []

    def signalled(data, meter):
        batches.append(1)
        if len(batches) == 5:
            os.kill(os.getpid(), number)
        return original(data, meter)

    monkeypatch.setattr(StageData, "next", signalled)
    with pytest.raises(Stopped, match="stopped at step 5 by SIG") as stopped:
        train(config(), tmp_path, norm_of_parameters)
    monkeypatch.undo()
    assert stopped.value.exit_code == code
    assert checksums.steps(tmp_path / "checkpoints")[0] == 5
    assert checksums.check(tmp_path / "checkpoints" / "5").known
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert_ends_alike(untouched, tmp_path)


def test_a_signal_ends_validation_which_is_made_up_for(untouched, tmp_path):
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("goes on after a signal")
        return norm_of_parameters(*args)

    with pytest.raises(Stopped, match="stopped at step 3"):
        train(config(), tmp_path, interrupted)
    assert len([row for row in rows(tmp_path) if "validation" in row]) == 2
    assert_ends_alike(untouched, tmp_path)


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path):
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.0}
    run = tiny_run(steps=16, keep=1, validate_every=2, keep_best="loss")
    run.stage_order = ("finetune",)
    numbers = iter([*losses.values()] * 2)
    train(run.to_dict(), tmp_path, lambda *_: {"loss": next(numbers)})
    assert checksums.steps(tmp_path / "checkpoints") == [8, 4]
    run.keep_best = "bleu"
    with pytest.raises(TrainingError, match="keep_best='bleu', but validation gives loss"):
        train(run.to_dict(), tmp_path / "other", lambda *_: {"loss": 1.0})


def test_one_run_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(LockedError, match=rf"a run is going on here \(process {os.getpid()} on "):
        train(config(), tmp_path)
    assert not (tmp_path / "config.json").exists()
    with locked(tmp_path):
        pass


def test_a_full_disk_ends_the_run_and_loses_nothing(untouched, tmp_path, monkeypatch):
    original = checksums.write_manifest

    def full(folder):
        if folder.name == "4":
            raise OSError(28, "No space left on device")
        original(folder)

    monkeypatch.setattr(checksums, "write_manifest", full)
    with pytest.raises(CheckpointError, match=r"step 4 could not be saved .*No space"):
        train(config(), tmp_path, norm_of_parameters)
    monkeypatch.undo()
    assert checksums.check(tmp_path / "checkpoints" / "2") == checksums.Findings(True, ())
    assert_ends_alike(untouched, tmp_path)


def test_fewer_devices_go_on_alike(untouched, tmp_path):
    """Eight, then four, then one: the same losses, to rounding."""
    workdir = copy_without(untouched, tmp_path, 4, 6)
    code = "import sys; from pathlib import Path; from tests.test_survival import *; " + (
        "train(config(), Path(sys.argv[1]), norm_of_parameters)"
    )
    for count, lost in ((4, (6,)), (1, ())):
        environment = os.environ | {"MMFUSER_TEST_DEVICES": str(count)}
        done = subprocess.run(
            [sys.executable, "-c", code, str(workdir)], cwd=ROOT, env=environment, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
        for step in lost:
            shutil.rmtree(workdir / "checkpoints" / str(step))
    numbers = [
        [row.get("loss", 0) or row["validation"]["norm"] for row in rows(path)] for path in (workdir, untouched[0])
    ]
    assert len(numbers[0]) == 12
    np.testing.assert_allclose(*numbers, rtol=1e-6)
    assert numbers[0] != numbers[1], "another order of sums must show, or nothing has changed"


def checkpoint_command(*arguments):
    command = [sys.executable, "launch/checkpoint.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_looking_after_checkpoints(untouched, tmp_path):
    workdir = copy_without(untouched, tmp_path)
    folder = workdir / "checkpoints"
    shown = checkpoint_command("list", f"--workdir={workdir}")
    assert [line.split()[1] for line in shown.stdout.splitlines() if " yes " in line] == ["6", "4", "2"], shown
    assert checkpoint_command("verify", f"--workdir={workdir}").returncode == 0
    same = checkpoint_command("diff", f"--workdir={workdir}", f"--other={untouched[0]}")
    assert same.returncode == 0, same
    other = checkpoint_command("diff", f"--workdir={workdir}", f"--other={workdir}", "--other_step=2")
    assert other.returncode == 1
    assert "fuser/gamma1" in other.stdout
    assert "vision_encoder" not in other.stdout  # frozen
    truncate(folder / "6" / "_CHECKPOINT_METADATA")
    damaged = checkpoint_command("verify", f"--workdir={workdir}")
    assert damaged.returncode == 1
    assert "step 6: damaged\n  _CHECKPOINT_METADATA: " in damaged.stdout
    assert checkpoint_command("prune", f"--workdir={workdir}", "--keep=1").returncode == 0
    assert checksums.steps(folder) == [4]
    missing = checkpoint_command("verify", f"--workdir={workdir}", "--step=6")
    assert (missing.returncode, missing.stderr) == (1, f"error: {folder}: no checkpoint of step 6; there are [4]\n")
    nowhere = checkpoint_command("list", f"--workdir={tmp_path}")
    assert nowhere.stderr == f"error: {tmp_path}: no run or model here, it has no checkpoints/\n"
