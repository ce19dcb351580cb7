"""A run that is killed, told to stop, and damaged at random, and moved to fewer devices: it must end as if nothing had been.

Two runs go over the same devices, as many steps on each number of them. One is left alone, the other is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmfuser_jax import checksums, model_folder
from mmfuser_jax.checkpoint import StoredParams
from mmfuser_jax.jobs.checkpoints import show_differences
from mmfuser_jax.train.metrics import read_metrics

LOG = logging.getLogger(__name__)

DEVICES = (4, 2, 1)
"""CPU devices of every part of the steps; the parts are alike."""

COMPARED = ("step", "stage", "loss", "accuracy", "grad_norm", "supervised_tokens", "seen", "validation")
PATIENCE = 600.0
"""Seconds that one start of a run may take."""


@dataclasses.dataclass(frozen=True)
class Happened:
    """One thing that was done to the run, and the step it had reached."""

    what: str
    step: int


class Victim:
    """A run in a folder, as its user starts it.

    Attributes:
      workdir, checkpoints: its folders.
      begun: the step at which it came to the devices that it is on. It must not fall back to an earlier one: what it
        would then do again was done on other devices, whose sums are not the same to the last bit.
    """

    def __init__(self, script: Path, config: str, workdir: Path) -> None:
        """`script` and `config`: see `torture`. Its log is kept beside `workdir`."""
        self.workdir = workdir
        self.checkpoints = workdir / model_folder.CHECKPOINTS
        self.begun = 0
        self._command = [sys.executable, str(script), f"--config={config}", f"--workdir={workdir}"]
        self._log = workdir.parent / f"{workdir.name}.log"

    @contextlib.contextmanager
    def started(self, devices: int) -> Iterator[subprocess.Popen]:
        """A process of it; killed at the end of the block, if it is still there."""
        kept = [word for word in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in word]
        flags = " ".join([*kept, f"--xla_force_host_platform_device_count={devices}"])
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._command, env=os.environ | {"XLA_FLAGS": flags}, stdout=log, stderr=log, start_new_session=True
            )
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def step(self) -> int:
        """The last one it has logged."""
        return max((row["step"] for row in read_metrics(self.workdir / "metrics.jsonl")), default=0)

    def saved(self) -> list[int]:
        """Steps of its checkpoints, newest first."""
        return checksums.steps(self.checkpoints)

    def sound(self) -> list[int]:
        """Those of them that have their checksums, and that it may fall back to."""
        saved = (step for step in self.saved() if step >= self.begun)
        return [step for step in saved if (self.checkpoints / str(step) / checksums.MANIFEST).exists()]

    def take_away_after(self, end: int) -> None:
        """Deletes its later checkpoints, as if it had not come further."""
        for step in self.saved():
            if step > end:
                shutil.rmtree(self.checkpoints / str(step))

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.checkpoints.glob("*tmp*")) if self.checkpoints.is_dir() else False

    def wait_until(self, process: subprocess.Popen, condition: Callable[[], bool]) -> bool:
        """False if the process ended before.

        Raises:
          RuntimeError: neither happens.
        """
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if process.poll() is not None:
                if process.returncode not in (0, -signal.SIGKILL):
                    raise RuntimeError(f"a run ended with exit code {process.returncode}: see {self._log}")
                return condition()
            if time.monotonic() > deadline:
                raise RuntimeError(f"a run makes no progress: see {self._log}")
            time.sleep(0.01)
        return True


def torture(script: Path, config: str, steps: int, workdir: Path, faults: int, seed: int) -> bool:
    """Trains twice, does `faults` things to the second run, and returns whether both end with the same bits.

    Args:
      script: launch/train.py.
      config: of runs of `steps` steps, as its flag takes it.
      workdir: gets `untouched/`, `tortured/` and their logs; must not exist.
      faults: spread over the run; every kind of FAULTS comes once before one comes again.
      seed: of what happens, and when.

    Raises:
      ValueError: there is a workdir already, or too few steps.
      RuntimeError: a run ended with an error, or hangs.
    """
    if workdir.exists() or steps < 30:
        raise ValueError(f"{workdir} must not exist, and {steps} steps must be 30 at least")
    workdir.mkdir(parents=True)
    parts = len(DEVICES)
    ends = [part * steps // parts // 10 * 10 for part in range(1, parts)] + [steps]
    untouched, tortured = (Victim(script, config, workdir / name) for name in ("untouched", "tortured"))
    for devices, end in zip(DEVICES, ends, strict=True):
        LOG.info("untouched, on %d devices to step %d", devices, end)
        _leave_alone(untouched, devices, end, last=end == steps)
    rng, history = random.Random(seed), []
    plan = [kind for _ in range(-(-faults // len(FAULTS))) for kind in rng.sample(list(FAULTS), len(FAULTS))][:faults]
    for index, (devices, end) in enumerate(zip(DEVICES, ends, strict=True)):
        share = plan[index * faults // parts : (index + 1) * faults // parts]
        for count, kind in enumerate(share):
            begun = tortured.step()
            latest = begun + max(1, (end - begun) // (len(share) - count + 1))
            history.append(_do(tortured, kind, devices, rng.randint(begun + 1, latest), rng))
            LOG.info("%d of %d: %s at step %d", len(history), faults, kind, history[-1].step)
        _leave_alone(tortured, devices, end, last=end == steps)
        tortured.begun = end
    return same(untouched, tortured, history)


def _leave_alone(run: Victim, devices: int, end: int, *, last: bool) -> None:
    """Lets it go on to a step; before the last one, that is to its checkpoint, and whatever comes after is taken away."""
    with run.started(devices) as process:
        if last:
            process.wait(PATIENCE)
            if process.returncode:
                raise RuntimeError(f"a run ended with exit code {process.returncode}: see {run.workdir}.log")
            return
        run.wait_until(process, lambda: end in run.sound())
    run.take_away_after(end)


def _do(run: Victim, kind: str, devices: int, step: int, rng: random.Random) -> Happened:
    with run.started(devices) as process:
        FAULTS[kind](run, process, step, rng)
    return Happened(kind, run.step())


def _kill_at_a_step(run: Victim, process: subprocess.Popen, step: int, rng: random.Random) -> None:
    run.wait_until(process, lambda: run.step() >= step)
    time.sleep(rng.random() * 0.2)
    process.kill()
    process.wait()


def _kill_while_saving(run: Victim, process: subprocess.Popen, step: int, rng: random.Random) -> None:
    run.wait_until(process, lambda: run.step() >= step and run.saving())
    time.sleep(rng.random() * 0.05)
    process.kill()
    process.wait()


def _kill_at_the_start(run: Victim, process: subprocess.Popen, step: int, rng: random.Random) -> None:
    del run, step
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(rng.random() * 8)
    process.kill()
    process.wait()


def _told_to_stop(numbers: Sequence[int]) -> Callable[[Victim, subprocess.Popen, int, random.Random], None]:
    def tell(run: Victim, process: subprocess.Popen, step: int, rng: random.Random) -> None:
        run.wait_until(process, lambda: run.step() >= step)
        for number in numbers:
            process.send_signal(number)
            time.sleep(rng.random() * 0.1)
        process.wait(PATIENCE)
        if process.returncode not in (128 + numbers[0], -numbers[-1]):
            raise RuntimeError(f"told to stop, a run ended with exit code {process.returncode}: see {run.workdir}.log")

    return tell


def _damaged(how: Callable[[Path, random.Random], None]) -> Callable[..., None]:
    """Killed, and then the newest of several sound checkpoints is damaged, so that an older one must serve."""

    def damage(run: Victim, process: subprocess.Popen, step: int, rng: random.Random) -> None:
        run.wait_until(process, lambda: run.step() >= step and len(run.sound()) > 1)
        process.kill()
        process.wait()
        newest = run.sound()[0]
        run.take_away_after(newest)  # one that is not known to be sound would be used
        folder = run.checkpoints / str(newest)
        files = [x for x in sorted(folder.rglob("*")) if x.is_file() and x.name != checksums.MANIFEST]
        how(rng.choice([x for x in files if x.stat().st_size]), rng)

    return damage


def _truncate(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])


def _flip_a_bit(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def _delete(file: Path, rng: random.Random) -> None:
    del rng
    file.unlink()


def _tear_the_metrics(run: Victim, process: subprocess.Popen, step: int, rng: random.Random) -> None:
    _kill_at_a_step(run, process, step, rng)
    with (run.workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": ')


FAULTS: dict[str, Callable[[Victim, subprocess.Popen, int, random.Random], None]] = {
    "killed": _kill_at_a_step,
    "killed while it saved": _kill_while_saving,
    "killed while it started": _kill_at_the_start,
    "SIGTERM": _told_to_stop([signal.SIGTERM]),
    "SIGINT": _told_to_stop([signal.SIGINT]),
    "SIGTERM twice": _told_to_stop([signal.SIGTERM, signal.SIGTERM]),
    "killed, a file truncated": _damaged(_truncate),
    "killed, a bit flipped": _damaged(_flip_a_bit),
    "killed, a file deleted": _damaged(_delete),
    "killed, metrics torn": _tear_the_metrics,
}
"""What may happen, by name."""


def same(untouched: Victim, tortured: Victim, history: Sequence[Happened]) -> bool:
    """Prints what happened and how the two ended; whether weights and logged numbers are the same."""
    table = Table("", "what happened", "at step", title=str(tortured.workdir))
    for count, x in enumerate(history, 1):
        table.add_row(str(count), x.what, str(x.step))
    Console().print(table)
    first, second = (StoredParams(run.checkpoints) for run in (untouched, tortured))
    weights = show_differences(first, second)
    rows = [
        [
            json.dumps({key: row[key] for key in COMPARED if key in row})
            for row in read_metrics(run.workdir / "metrics.jsonl")
        ]
        for run in (untouched, tortured)
    ]
    print(f"{len(rows[1])} rows of metrics.jsonl {'are the same' if rows[0] == rows[1] else 'DIFFER'}")
    return weights and rows[0] == rows[1] and first.step == second.step
