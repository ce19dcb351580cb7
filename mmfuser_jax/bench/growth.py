"""How seconds grow with pictures, tokens, batch and levels, ours and the peer, as curves on logarithmic axes."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mmfuser_jax.bench import decode, models, ops, train_step, vision
from mmfuser_jax.bench.timing import Seconds

OURS, THEIRS = "#1f77b4", "#d62728"


@dataclasses.dataclass(frozen=True)
class Point:
    """One measurement of a curve.

    Attributes:
      work: what is done; one panel each.
      axis: what grows, with its unit.
      at: how much of it.
      ours, theirs: median seconds.
    """

    work: str
    axis: str
    at: int
    ours: float
    theirs: float


def measure(repeats: int = 5) -> Iterator[Point]:
    """All curves, smallest first."""
    config = models.vlm()
    encode = vision.encoders(config)
    for count in (1, 2, 4, 8):
        seconds = vision.measure(encode, vision.pictures(config, count), repeats)
        yield _point("visual path", "pictures", count, seconds)
    for length in (320, 512, 1024):
        yield _point("train step", "tokens of a row", length, train_step.measure(config, 1, length, repeats=repeats))
    decoders = decode.decoders(models.LLM_134M)
    for rows in (1, 2, 4, 8, 16):
        yield _point("decode, 134 M", "batch", rows, decode.measure(decoders, rows, repeats))
    for levels in (1, 2, 4, 8):
        seconds = ops.measure(ops.deformable(levels=levels), repeats)
        yield _point("deformable attention, forward and backward", "levels", levels, seconds)


def _point(work: str, axis: str, at: int, seconds: Seconds) -> Point:
    return Point(work, axis, at, float(np.median(seconds.ours)), float(np.median(seconds.theirs)))


def exponent(points: Sequence[Point], side: str) -> float:
    """Slope of log seconds over log size: 1 where twice as much takes twice as long."""
    return float(np.polyfit(np.log([p.at for p in points]), np.log([getattr(p, side) for p in points]), 1)[0])


def plot(points: Iterable[Point], path: Path) -> None:
    """A panel for each kind of work. Needs matplotlib (extra `demo`)."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    points = list(points)
    works = list(dict.fromkeys(point.work for point in points))
    figure = Figure(figsize=(3.2 * len(works), 3.4), layout="constrained")
    for axes, work in zip(figure.subplots(1, len(works), squeeze=False)[0], works, strict=True):
        here = [point for point in points if point.work == work]
        sizes = [point.at for point in here]
        for side, color, name in (("ours", OURS, "ours"), ("theirs", THEIRS, "torch")):
            label = f"{name}, ~n^{exponent(here, side):.2f}"
            axes.loglog(sizes, [getattr(point, side) for point in here], "o-", color=color, label=label, ms=4)
        axes.set(xlabel=here[0].axis, ylabel="seconds", title=textwrap.fill(work, 30))
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
