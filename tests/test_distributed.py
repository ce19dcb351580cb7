"""Two processes of two devices each, through the real launch script: they train as one, write once, and resume."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mmfuser_jax import checksums, distributed
from mmfuser_jax.data import easy_vqa
from mmfuser_jax.train.metrics import read_metrics
from tests.conftest import ROOT
from tests.llava_files import row, write_lines
from tests.test_resume import WALL_CLOCK

FLAGS = [
    "--config=configs/torture.py:8",
    "--config.stage_order=('finetune',)",
    "--config.stages.finetune.steps=8",
    # An example a row: each batch then has the same rows whatever the number of processes. (Packing goes by process.)
    "--config.stages.finetune.grouping=length",
    "--config.stages.finetune.optimizer=adamw",
    "--config.mesh.data=1",
    "--config.mesh.fsdp=4",  # so that no process has all of a parameter
    "--config.remat=none",
    "--config.checkpoint_every=2",
    "--config.validation_records=4",
    "--config.test.split=train",
]

RUNS = []
"""All that were started, to end those that a failed test leaves."""


@dataclasses.dataclass
class Run:
    """Processes of one run, and where they write."""

    workdir: object
    processes: list

    def wait(self):
        """Ends with all of them, none of which may fail."""
        for index, process in enumerate(self.processes):
            assert process.wait(timeout=1200) == 0, self.log(index)
        return self

    def kill(self):
        """Ends all of them at once."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def log(self, index):
        return (self.workdir.parent / f"{self.workdir.name}.{index}.log").read_text()

    def rows(self):
        """Lines of metrics.jsonl, without what the clock says."""
        rows = read_metrics(self.workdir / "metrics.jsonl")
        return [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in rows]

    def answers(self):
        return (self.workdir / "predictions.jsonl").read_text()

    def scores(self):
        scores = json.loads((self.workdir / "eval.json").read_text())
        return {key: value for key, value in scores.items() if key != "train_seconds"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with six questions to score at the end."""
    folder = tmp_path_factory.mktemp("distributed")
    rows = []
    for record in easy_vqa.questions("test")[:6]:
        question, answer = (turn.text for turn in record.conversations[0])
        shutil.copy(record.images[0], folder)
        rows.append(row(record.id, record.images[0].name, question.replace("<image>", "").strip(), answer))
    write_lines(folder / "test.jsonl", rows)
    yield folder
    for run in RUNS:
        run.kill()


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(base, name, processes=2, *more):
    """Starts a run over four devices."""
    run = Run(base / name, [])
    RUNS.append(run)
    environment = dict(os.environ, XLA_FLAGS=f"--xla_force_host_platform_device_count={4 // processes}")
    command = [sys.executable, "launch/train.py", *FLAGS, f"--workdir={run.workdir}", *more]
    command += [f"--config.test.source={base / 'test.jsonl'}", "--compilation_cache="]
    port = free_port()
    for index in range(processes):
        joining = [f"--coordinator=localhost:{port}", f"--num_processes={processes}", f"--process_id={index}"]
        with (base / f"{name}.{index}.log").open("a") as log:
            arguments = command + (joining if processes > 1 else [])
            run.processes.append(subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return run


def wait_for(run, step, more=lambda: True):
    """Until a run has logged a step, and more is true."""
    deadline = time.monotonic() + 1200
    while not (any(row["step"] >= step for row in run.rows()) and more()):
        assert all(process.poll() is None for process in run.processes), run.log(0)
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def together(base):
    """Two processes, left alone."""
    return start(base, "together").wait()


@pytest.fixture(scope="module")
def alone(base):
    """One process with all four devices."""
    return start(base, "alone", processes=1).wait()


def test_two_processes_compute_what_one_does(together, alone):
    rows, expected = together.rows(), alone.rows()
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == [*range(1, 9), 8]
    for line, other in zip(rows, expected, strict=True):
        if "loss" in line:
            np.testing.assert_allclose(line["loss"], other["loss"], rtol=1e-6)
            assert line["supervised_tokens"] == other["supervised_tokens"]
    assert rows[-1]["validation"] == pytest.approx(expected[-1]["validation"], rel=1e-6)
    assert rows[-1]["validation"]["loss"] > 0
    assert together.answers() == alone.answers()
    scores, expected_scores = together.scores(), alone.scores()
    assert scores.pop("fused_share") == pytest.approx(expected_scores.pop("fused_share"), rel=1e-5)
    assert scores == expected_scores
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.ptp(losses) > 1e-3, "the losses are of different batches and parameters"


def test_the_first_process_writes_and_both_save(together):
    written = {path.name for path in together.workdir.iterdir()}
    assert {"config.json", "model.json", "metrics.jsonl", "tokenizer", "eval.json", "predictions.jsonl"} <= written
    assert len(list((together.workdir / "tensorboard").iterdir())) == 1
    checkpoint = together.workdir / "checkpoints" / "8"
    assert {path.name for path in (checkpoint / "data").glob("*.json")} == {
        "process_0-of-2.json",
        "process_1-of-2.json",
    }
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= {path.name for path in (checkpoint / "params").iterdir()}
    assert "step     8/8" in together.log(0)
    assert "step     8/8" not in together.log(1)


def test_killed_and_started_again_it_ends_like_one_left_alone(base, together):
    killed = start(base, "killed")
    saved = killed.workdir / "checkpoints" / "2" / checksums.MANIFEST
    wait_for(killed, 2, saved.exists)
    killed.kill()
    again = start(base, "killed").wait()
    assert re.search("resumed at step [246] of", again.log(0))
    assert again.rows() == together.rows()
    assert again.scores() == together.scores()


def test_one_process_is_told_to_stop_and_both_save_the_same_step(base):
    run = start(base, "stopped", 2, "--config.stages.finetune.steps=10000", "--config.checkpoint_every=10000")
    wait_for(run, 1)
    run.processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=1200) for process in run.processes] == [143, 143], run.log(0)
    steps = {int(re.search(r"stopped at step (\d+) by SIGTERM", run.log(index))[1]) for index in (0, 1)}
    assert set(checksums.steps(run.workdir / "checkpoints")) == steps
    newest = run.workdir / "checkpoints" / str(steps.pop())
    assert checksums.check(newest) == checksums.Findings(True, ())
    assert {path.name for path in (newest / "data").glob("*.json")} == {"process_0-of-2.json", "process_1-of-2.json"}


def test_mistakes_of_joining_are_one_line(base):
    lost = start(base, "lost", 1, "--distributed")
    assert lost.processes[0].wait(timeout=300) == 1
    errors = [line for line in lost.log(0).splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "give --coordinator=HOST:PORT, --num_processes and --process_id" in errors[0]
    assert not lost.workdir.exists()


def test_on_first_is_a_plain_call_in_a_single_process():
    done = []
    distributed.on_first(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(OSError, match="disk"):
        distributed.on_first(lambda: (_ for _ in ()).throw(OSError("disk full")))


def test_a_failure_of_the_first_process_ends_the_others(monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_index", lambda: 1)
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.multihost_utils, "broadcast_one_to_all", lambda _: np.bool_(True))
    with pytest.raises(distributed.ClusterError, match="process 0 has failed"):
        distributed.on_first(lambda: pytest.fail("only process 0 writes"))
