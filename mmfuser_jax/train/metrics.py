"""What a run logs: rows in metrics.jsonl, the same in TensorBoard and W&B, a line and a bar on the console."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmfuser_jax import files
from mmfuser_jax.train.sinks import Drawing, Sink, TensorBoard, WeightsAndBiases

LOG = logging.getLogger(__name__)

Row = dict[str, Any]


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and to the sinks, and moves the bar on the console.

    A resumed run first drops the rows after its checkpoint, so that the file reads as if nothing had happened.
    """

    def __init__(self, workdir: Path, resume_step: int, total_steps: int, project: str = "") -> None:
        """Opens the files of `workdir`; rows beyond `resume_step` go. `project`: in W&B, "" for none.

        Raises:
          TrainingError: W&B refuses.
        """
        path = workdir / "metrics.jsonl"
        kept = [row for row in read_metrics(path) if row["step"] <= resume_step]
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._sinks: list[Sink] = [WeightsAndBiases(workdir, project)] if project else []
        self._sinks.append(TensorBoard(workdir, resume_step))
        self._file = path.open("a")
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("train", total=total_steps, completed=resume_step)
        self._progress.start()

    def advance(self, step: int, stage: str) -> None:
        """Moves the progress bar."""
        self._progress.update(self._task, completed=step, description=stage)

    def write(self, row: Row) -> None:
        """Writes one row: `step` and `stage`, then numbers and `Drawing`s, alone or named together by a dict.

        Sinks get numbers and drawings, nested names joined with a slash; the file gets all but the drawings.
        """
        self._file.write(json.dumps(_without_drawings(row)) + "\n")
        self._file.flush()
        flat = {
            _tag(name, suffix): value
            for name, part in row.items()
            for suffix, value in (part.items() if isinstance(part, dict) else [("", part)])
        }
        numbers = {tag: value for tag, value in flat.items() if isinstance(value, int | float)}
        drawings = {tag: value for tag, value in flat.items() if isinstance(value, Drawing)}
        for sink in self._sinks:
            sink.write(row["step"], numbers, drawings)

    def close(self) -> None:
        """Flushes everything."""
        self._progress.stop()
        self._file.close()
        for sink in self._sinks:
            sink.close()


def _without_drawings(row: Row) -> Row:
    return {
        name: _without_drawings(value) if isinstance(value, dict) else value
        for name, value in row.items()
        if not isinstance(value, Drawing)
    }


class Silence:
    """What the other processes of a run have in place of a MetricsWriter: one file, one writer."""

    def advance(self, step: int, stage: str) -> None:
        """Shows nothing."""

    def write(self, row: Row) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Nothing is open."""


def open_metrics(workdir: Path, resume_step: int, total_steps: int, project: str = "") -> MetricsWriter | Silence:
    """The writer of a run's metrics, on process 0; see `MetricsWriter`."""
    return MetricsWriter(workdir, resume_step, total_steps, project) if jax.process_index() == 0 else Silence()


def _tag(name: str, suffix: str) -> str:
    """TensorBoard allows no regular expressions in names: "learning_rate/(fuser|projector)/" loses its punctuation."""
    return f"{name}/{re.sub(r'[^a-z0-9]+', '_', suffix).strip('_') or 'all'}" if suffix else name


class Meter:
    """Speed since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._steps, self._tokens, self._slots, self._waited = 0, 0, 0, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Its block waits for data."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    def pause(self, seconds: float) -> None:
        """Leaves out time that was spent on something else."""
        self._started += seconds

    def add(self, tokens: int, slots: int) -> None:
        """Counts a step: tokens of all processes' rows, and the slots that there are for them."""
        self._steps, self._tokens, self._slots = self._steps + 1, self._tokens + tokens, self._slots + slots

    def read(self) -> Row:
        """tokens_per_second (of all processes), step_seconds, data_seconds (waited, a step), filled (share of slots)."""
        elapsed = time.monotonic() - self._started
        return {
            "tokens_per_second": round(self._tokens / elapsed, 1),
            "step_seconds": round(elapsed / self._steps, 4),
            "data_seconds": round(self._waited / self._steps, 4),
            "filled": round(self._tokens / self._slots, 4),
        }


def read_metrics(path: Path) -> list[Row]:
    """Rows of a metrics.jsonl; none if the file is missing. A last line that is not, or not yet, whole is left out."""
    if not path.exists():
        return []
    rows = []
    whole, _, _ = path.read_text().rpartition("\n")
    for line in whole.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            LOG.warning("%s: dropped a torn line", path)
    return rows


def describe(row: Row, total_steps: int, eta_seconds: float) -> str:
    """One console line for a training row."""
    rates = sorted(set(row["learning_rate"].values()))
    shown = f"{rates[0]:.2e}" if len(rates) == 1 else f"{rates[0]:.2e}..{rates[-1]:.2e}"
    return (
        f"step {row['step']:>5}/{total_steps}  {row['stage']:<9} loss {row['loss']:.4f}  accuracy {row['accuracy']:.3f}  "
        f"lr {shown}  {row['tokens_per_second']:,.0f} tokens/s  eta {_clock(eta_seconds)}"
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
