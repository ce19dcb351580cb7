"""N steps equal k steps + kill -9 + N-k steps, bit for bit, through the real launch script."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from mmfuser_jax import checksums
from mmfuser_jax.train.metrics import read_metrics
from tests.conftest import ROOT, UNOPTIMIZED

WALL_CLOCK = {"data_seconds", "tokens_per_second", "step_seconds", "elapsed_seconds", "goodput"}
COMMAND = [
    sys.executable,
    str(ROOT / "launch" / "train.py"),
    "--config=configs/torture.py:60",
    "--config.workers=1",
    "--config.checkpoint_every=20",
]


def environment():
    """Of processes with one device."""
    return os.environ | {"XLA_FLAGS": UNOPTIMIZED}


def start(workdir, *more):
    command = [*COMMAND, f"--workdir={workdir}", f"--compilation_cache={workdir.parent / 'compiled'}", *more]
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)


def rows(workdir):
    return read_metrics(workdir / "metrics.jsonl")


def kill_after(process, workdir, step):
    """When it has saved this step and gone on."""
    deadline = time.monotonic() + 300
    saved = workdir / "checkpoints" / str(step) / checksums.MANIFEST
    while not (saved.exists() and any(row["step"] > step for row in rows(workdir))):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    threads = Path(f"/proc/{process.pid}/task").iterdir()  # any of them may have started the worker
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    assert children, "batches are made by a worker process"
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "worker processes outlive the run"
        time.sleep(0.05)


def checkpoint(workdir):
    """Everything in the last checkpoint: parameters, optimizer, step and random key as arrays; data position as JSON."""
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        step = manager.latest_step()
        items = manager.restore(
            step, args=ocp.args.Composite(params=ocp.args.StandardRestore(), train=ocp.args.StandardRestore())
        )
    state = [path.read_text() for path in sorted((workdir / "checkpoints" / str(step) / "data").rglob("*.json"))]
    return step, items, state


def leaves(items):
    import jax

    return [np.asarray(x) for x in jax.tree.leaves({"params": items["params"], "train": items["train"]})]


def test_killed_twice_equals_never_stopped(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert start(straight, "--profile_steps=26:28").wait() == 0, (tmp_path / "straight.log").read_text()
    kill_after(start(killed), killed, 20)  # in the first stage, after the checkpoint of step 20
    kill_after(start(killed), killed, 40)  # in the last stage, after the checkpoint of step 40
    assert start(killed).wait() == 0, (tmp_path / "killed.log").read_text()
    log = (tmp_path / "killed.log").read_text()
    assert "resumed at step 20 of stage encoder" in log
    assert "resumed at step 40 of stage finetune" in log

    def deterministic(workdir):
        return [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in rows(workdir)]

    assert deterministic(killed) == deterministic(straight)
    assert [row["step"] for row in rows(straight) if "loss" in row] == list(range(1, 61))
    (step, items, data), (expected_step, expected, expected_data) = checkpoint(killed), checkpoint(straight)
    assert step == expected_step == 60
    assert data == expected_data
    assert data
    (profile,) = (straight / "profile").rglob("*.xplane.pb")  # which changed nothing
    assert profile.stat().st_size > 1e5
    assert f"profile of steps 26 to 28: {straight / 'profile'}" in (tmp_path / "straight.log").read_text()
    assert len(leaves(items)) == len(leaves(expected)) > 100
    assert all(a.tobytes() == b.tobytes() for a, b in zip(leaves(items), leaves(expected), strict=True))
