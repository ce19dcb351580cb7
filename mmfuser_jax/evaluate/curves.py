"""What runs have logged, as curves to draw: one panel a quantity, over steps, tokens or seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfuser_jax.train.metrics import read_metrics

AXES = {"step": "step", "tokens": "tokens seen", "seconds": "seconds, over all resumed parts"}
"""What curves may go over → label."""

COLORS = (
    "#4269d0", "#ff725c", "#3ca951", "#a463f2", "#efb118", "#6cc5b0", "#9c6b4e", "#ff8ab7", "#97bbf5", "#9498a0",
)  # fmt: skip
"""Of runs, in order, and again from the first."""

GRAY = "#57606a"


@dataclasses.dataclass(frozen=True)
class Panel:
    """One quantity.

    Attributes:
      title: with its unit.
      log: whether its axis is logarithmic.
      smooth: whether single values scatter: they are drawn faintly, under a curve that is smoothed.
      validation: whether it is measured at validations, which are few: they get dots.
    """

    title: str
    log: bool = False
    smooth: bool = False
    validation: bool = False


PANELS = {
    "loss": Panel("training loss (nats a token)", log=True, smooth=True),
    "held_out": Panel("held-out loss (nats a token)", log=True, validation=True),
    "grad_norm": Panel("gradient norm", log=True, smooth=True),
    "answers": Panel("share of right answers at validation", validation=True),
    "learning_rate": Panel("learning rate, highest and lowest"),
    "speed": Panel("tokens a second", smooth=True),
}
"""In the order in which they are drawn."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Points of one run in one panel; between stages lies a point that is not a number, so that no line leads there.

    Attributes:
      x, y: float64[n].
      smoothed: float64[n], y without its scatter; y itself in a panel that is not smoothed.
    """

    x: np.ndarray
    y: np.ndarray
    smoothed: np.ndarray


@dataclasses.dataclass(frozen=True)
class RunCurves:
    """All curves of a run.

    Attributes:
      name: tells it from the others.
      color: of its lines.
      curves: by key of `PANELS`; only those that there is something to show of. Two where values have a range.
      starts: stage → x of its beginning, in order.
    """

    name: str
    color: str
    curves: Mapping[str, tuple[Curve, ...]]
    starts: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Mark:
    """The beginning of a stage.

    Attributes:
      at: its x.
      name: of the stage, "" where another run's mark says it.
      color: of the run, GRAY where all runs agree.
    """

    at: float
    name: str
    color: str


def load_runs(workdirs: Sequence[Path], axis: str = "step") -> list[RunCurves]:
    """Curves of runs, also of some that go on, over one of `AXES`.

    Raises:
      ValueError: a folder has no logged step.
    """
    workdirs = list({workdir.resolve(): workdir for workdir in workdirs}.values())
    runs = []
    for place, (workdir, name) in enumerate(zip(workdirs, short_names(workdirs), strict=True)):
        rows = read_metrics(workdir / "metrics.jsonl")
        if not any("loss" in row for row in rows):
            raise ValueError(f"{workdir}: no step is logged here (metrics.jsonl)")
        runs.append(_curves(rows, name, COLORS[place % len(COLORS)], axis))
    return runs


def short_names(folders: Sequence[Path]) -> list[str]:
    """Names that tell folders apart: their paths without what all have in common at the beginning and at the end.

    >>> short_names([Path("/runs/a/seed0/on"), Path("/runs/a/seed1/on")])
    ["seed0", "seed1"]
    """
    parts = [folder.resolve().parts for folder in folders]
    parts = [x[_common(parts) :] for x in parts]
    end = _common([x[::-1] for x in parts])
    return ["/".join(x[: len(x) - end]) for x in parts]


def _common(paths: Sequence[Sequence[str]]) -> int:
    """How many leading parts all have in common, the last of each aside."""
    columns = enumerate(zip(*(path[:-1] for path in paths), strict=False))
    return next((place for place, column in columns if len(set(column)) > 1), min(map(len, paths)) - 1)


def extent(runs: Sequence[RunCurves]) -> float:
    """The largest x of all curves."""
    return max(float(np.nanmax(curve.x)) for run in runs for curves in run.curves.values() for curve in curves)


def stage_marks(runs: Sequence[RunCurves]) -> list[Mark]:
    """Where the stages of runs begin: once where all begin at about the same place, else for every run, the first named."""
    end = extent(runs)
    longest = max(runs, key=lambda run: len(run.starts)).starts
    agree = all(
        name in longest and abs(at - longest[name]) < 0.01 * end for run in runs for name, at in run.starts.items()
    )
    if agree:
        return [Mark(at, name, GRAY) for name, at in longest.items()]
    return [Mark(at, name if run is runs[0] else "", run.color) for run in runs for name, at in run.starts.items()]


def _curves(rows: Sequence[Mapping[str, Any]], name: str, color: str, axis: str) -> RunCurves:
    training = [row for row in rows if "loss" in row]
    validated = [row for row in rows if "validation" in row]
    steps = np.array([row["step"] for row in training], np.float64)
    over = _along(axis, steps, training)

    def place(found: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """x of rows: validations know only their step."""
        return np.interp([row["step"] for row in found], [0.0, *steps], [0.0, *over])

    window = max(1, len(training) // 40)
    rates = [row.get("learning_rate") or {"": np.nan} for row in training]
    series = {
        "loss": [_column(training, "loss")],
        "held_out": [_column([row["validation"] for row in validated], "loss")],
        "answers": [_column([row["validation"] for row in validated], "accuracy")],
        "learning_rate": [np.array([choose(x.values()) for x in rates]) for choose in (max, min)],
        "grad_norm": [_column(training, "grad_norm")],
        "speed": [_column(training, "tokens_per_second")],
    }
    curves = {}
    for key, columns in series.items():
        found = validated if PANELS[key].validation else training
        width = window if PANELS[key].smooth else 0
        drawn = [_curve(place(found), y, [row["stage"] for row in found], width) for y in columns]
        if np.isfinite(drawn[0].y).any():
            curves[key] = tuple(drawn)
    starts, start = {}, 0.0
    for stage in dict.fromkeys(row["stage"] for row in training):
        starts[stage] = start
        start = float(place([row for row in training if row["stage"] == stage])[-1])
    return RunCurves(name, color, curves, starts)


def _along(axis: str, steps: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """x of the training rows."""
    if axis == "step":
        return steps
    if axis == "seconds":
        return np.maximum.accumulate(np.nan_to_num(_column(rows, "elapsed_seconds")))
    tokens_a_step = _column(rows, "tokens_per_second") * _column(rows, "step_seconds")
    return np.cumsum(np.nan_to_num(tokens_a_step) * np.diff(steps, prepend=0))


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """One number a row, NaN where it has none."""
    return np.array([row.get(name, np.nan) for row in rows], np.float64)


def _curve(x: np.ndarray, y: np.ndarray, stages: Sequence[str], width: int) -> Curve:
    """A curve that is smoothed and broken by stages; what they learn is too different to lead a line from one to the next."""
    ends = [place for place in range(1, len(stages)) if stages[place] != stages[place - 1]]
    smoothed = np.concatenate([_smooth(part, width) for part in np.split(y, ends)])
    return Curve(*(np.insert(column, ends, np.nan) for column in (x, y, smoothed)))


def _smooth(y: np.ndarray, width: int) -> np.ndarray:
    """Mean over `width` points to both sides, the near ones weighing more; what is not a number weighs nothing."""
    if not width or len(y) < 3:
        return y
    weights = np.hanning(2 * width + 3)[1:-1]
    known = np.isfinite(y)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.convolve(values, weights)[width : width + len(y)]

    with np.errstate(invalid="ignore", divide="ignore"):
        return sums(np.where(known, y, 0.0)) / sums(known.astype(np.float64))
