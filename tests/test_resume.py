"""N steps equal k steps + kill -9 + N-k steps, bit for bit, through the real launch script."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from tests.conftest import ROOT

WALL_CLOCK = {"data_seconds", "tokens_per_second", "step_seconds", "elapsed_seconds", "goodput"}
COMMAND = [
    sys.executable,
    str(ROOT / "launch" / "train.py"),
    "--config=configs/smoke.py",
    "--config.test.source=",
    "--config.workers=1",
]


def environment():
    return {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}


def start(workdir):
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen([*COMMAND, f"--workdir={workdir}"], cwd=ROOT, env=environment(), stdout=log, stderr=log)


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines() if (workdir / "metrics.jsonl").exists() else []
    return [json.loads(line) for line in lines]


def kill_after(process, workdir, step):
    deadline = time.monotonic() + 300
    while not any(row["step"] >= step for row in rows(workdir)):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
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
    first = start(straight)
    second = start(killed)
    kill_after(second, killed, 13)  # in the middle of the first stage, after the checkpoint of step 10
    third = start(killed)
    kill_after(third, killed, 33)  # in the middle of the last stage, after the checkpoint of step 30
    assert start(killed).wait() == 0, (tmp_path / "killed.log").read_text()
    assert first.wait() == 0, (tmp_path / "straight.log").read_text()
    log = (tmp_path / "killed.log").read_text()
    assert "resumed at step 10 of stage encoder" in log
    assert "resumed at step 30 of stage finetune" in log

    def deterministic(workdir):
        return [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in rows(workdir)]

    assert deterministic(killed) == deterministic(straight)
    assert [row["step"] for row in rows(straight) if "loss" in row] == list(range(1, 41))
    (step, items, data), (expected_step, expected, expected_data) = checkpoint(killed), checkpoint(straight)
    assert step == expected_step == 40
    assert data == expected_data
    assert data
    assert len(leaves(items)) == len(leaves(expected)) > 100
    assert all(a.tobytes() == b.tobytes() for a, b in zip(leaves(items), leaves(expected), strict=True))
