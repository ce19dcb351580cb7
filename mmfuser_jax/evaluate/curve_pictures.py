"""Curves of runs as one picture. Needs matplotlib (extra `demo` or `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogFormatter

from mmfuser_jax.evaluate.curves import AXES, GRAY, PANELS, Mark, Panel, RunCurves, extent, stage_marks

COLUMNS = 2


class _Plain(LogFormatter):
    """Labels logarithmic ticks as LogFormatter does, but for 0.5 instead of 5e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def draw_runs(runs: Sequence[RunCurves], path: Path, axis: str = "step") -> None:
    """A PNG with a panel for every quantity that a run has logged.

    Args:
      runs: of `curves.load_runs`.
      path: of the file.
      axis: what the curves go over.
    """
    keys = [key for key in PANELS if any(key in run.curves for run in runs)]
    marks, rows = stage_marks(runs), -(-len(keys) // COLUMNS)
    heights = name_heights(marks, extent(runs))
    figure = Figure(figsize=(12, 0.5 + 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, sharex=True, squeeze=False)
    cells = list(grid.flat)
    for place, cell in enumerate(cells):
        if place < len(keys):
            _panel(cell, PANELS[keys[place]], runs, keys[place])
            for mark, height in zip(marks, heights, strict=True):
                _mark(cell, mark, height if place < COLUMNS else None)
        else:
            cell.set_axis_off()
        if len(keys) - COLUMNS <= place < len(keys):
            cell.set_xlabel(AXES[axis], fontsize=9, color=GRAY)
            cell.tick_params(labelbottom=True)
    cells[0].set_xlim(left=0)
    handles = [Line2D([], [], color=run.color, lw=2.5, label=run.name) for run in runs]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(runs), 6), frameon=False, fontsize=10)
    figure.savefig(path, dpi=130)


def _panel(cell: Axes, panel: Panel, runs: Sequence[RunCurves], key: str) -> None:
    for run in runs:
        for place, curve in enumerate(run.curves.get(key, ())):
            if panel.smooth:
                cell.plot(curve.x, curve.y, color=run.color, lw=0.7, alpha=0.3)
            dots: dict[str, Any] = {"marker": "o", "ms": 4} if panel.validation else {}
            cell.plot(
                curve.x, curve.smoothed, color=run.color, lw=0.9 if place else 1.7, alpha=0.6 if place else 1.0, **dots
            )  # fmt: skip
    cell.set_title(panel.title, loc="left", fontsize=10, color="#1f2328")
    if panel.log:
        cell.set_yscale("log")
        cell.yaxis.set_major_formatter(_Plain())
        cell.yaxis.set_minor_formatter(_Plain(minor_thresholds=(1.5, 0.6)))
    else:
        cell.yaxis.set_major_formatter("{x:,g}")
    cell.xaxis.set_major_formatter(EngFormatter(sep=""))
    cell.grid(alpha=0.25, lw=0.6)
    cell.spines[["top", "right"]].set_visible(False)
    cell.spines[["left", "bottom"]].set_color("#d0d7de")
    cell.tick_params(labelsize=8, colors=GRAY, which="both")


def name_heights(marks: Sequence[Mark], width: float) -> list[float]:
    """Where the names of marks end, in shares of a panel's height: no two names at nearly the same x lie on each other.

    Args:
      marks: in any order.
      width: of the panel, as `Mark.at`.
    """
    heights: list[float] = []
    for mark in marks:
        near = {
            h for other, h in zip(marks, heights, strict=False) if other.name and abs(other.at - mark.at) < width / 25
        }
        heights.append(next((h for h in (1.0, 0.65, 0.3) if h not in near), 1.0))
    return heights


def _mark(cell: Axes, mark: Mark, height: float | None) -> None:
    """A dashed line where a stage begins, and its name at a height of the panel."""
    if mark.at:
        cell.axvline(mark.at, color=mark.color, lw=0.8, ls=(0, (4, 3)), alpha=0.7, zorder=0.5)
    if height is not None:
        cell.annotate(
            mark.name, (mark.at, height), xycoords=("data", "axes fraction"), xytext=(3, -2),
            textcoords="offset points", rotation=90, ha="left", va="top", fontsize=7.5, color=mark.color,
        )  # fmt: skip
