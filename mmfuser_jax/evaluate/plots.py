"""Pictures of a run: curves, answers, and what the fuser adds. Needs matplotlib (extra `demo`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmfuser_jax.data.images import open_image
from mmfuser_jax.evaluate.runner import Prediction
from mmfuser_jax.types import VisualFeatures

Row = Mapping[str, Any]
"""A line of metrics.jsonl."""

RIGHT, WRONG = "#1a7f37", "#cf222e"


def plot_curves(rows: Sequence[Row], path: Path) -> None:
    """Loss, token accuracy and validation accuracy over steps, with a band per stage."""
    training = [row for row in rows if "loss" in row]
    validated = [row for row in rows if "validation" in row]
    figure = Figure(figsize=(9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in training]
    top.plot(steps, [row["loss"] for row in training], lw=0.8)
    top.set(ylabel="loss (nats per token)", yscale="log", title="Training")
    bottom.plot(steps, [row["accuracy"] for row in training], lw=0.6, alpha=0.6, label="training tokens")
    for stage in dict.fromkeys(row["stage"] for row in validated):
        points = [row for row in validated if row["stage"] == stage]
        bottom.plot(
            [row["step"] for row in points], [row["validation"]["accuracy"] for row in points],
            "o-", ms=4, label=f"validation answers, {stage}",
        )  # fmt: skip
    bottom.set(ylabel="accuracy", xlabel="step", ylim=(0, 1.02))
    bottom.legend(loc="lower right", fontsize=8)
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        _mark_stages(axes, training)
    figure.savefig(path, dpi=110)


def _mark_stages(axes: Axes, rows: Sequence[Row]) -> None:
    start = 0
    for index, stage in enumerate(dict.fromkeys(row["stage"] for row in rows)):
        end = max(row["step"] for row in rows if row["stage"] == stage)
        axes.axvspan(start, end, color="tab:gray", alpha=0.12 if index % 2 else 0.04, lw=0)
        axes.annotate(
            stage, ((start + end) / 2, 1), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=8
        )
        start = end


def plot_predictions(predictions: Sequence[Prediction], path: Path, count: int = 24, seed: int = 0) -> None:
    """A grid of pictures with question, answer and truth: every wrong answer first (at most half the grid)."""
    shown = [p for p in predictions if p.image is not None]
    order = np.random.default_rng(seed).permutation(len(shown))
    wrong = [shown[i] for i in order if not shown[i].correct][: count // 2]
    right = [shown[i] for i in order if shown[i].correct][: count - len(wrong)]
    columns = 6
    rows = -(-(len(wrong) + len(right)) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for cell in axes.flat:
        cell.axis("off")
    for cell, prediction in zip(axes.flat, wrong + right, strict=False):
        cell.imshow(open_image(prediction.image))
        verdict = (
            prediction.answer if prediction.correct else f"{prediction.answer or '(nothing)'} ≠ {prediction.truth}"
        )
        cell.set_title(
            f"{_wrap(prediction.question)}\n{verdict}", fontsize=8, color=RIGHT if prediction.correct else WRONG
        )
    total = sum(not p.correct for p in shown)
    figure.suptitle(
        f"Test questions; {total} of {len(shown)} answered wrongly, {len(wrong)} of them shown first", fontsize=9
    )
    figure.savefig(path, dpi=100)


def _wrap(text: str, width: int = 24) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def plot_fuser(images: Sequence[np.ndarray], features: VisualFeatures, grid: tuple[int, int], path: Path) -> None:
    """Feature maps as in the paper's visualisation: shallow levels, the deep query, the fused output, what was added.

    Every map is the channel-mean magnitude of a stage's patches after removing each channel's mean over the picture, so
    that what stands out in the picture shows; each map has its own colour scale. The last column is the magnitude of
    fused - query, and its title gives its share of the query's norm.

    Args:
      images: n pictures, uint8[height, width, 3].
      features: of these n pictures.
      grid: (rows, columns) of patches.
    """
    levels = [np.asarray(level) for level in features.levels]
    query, fused = np.asarray(features.query), np.asarray(features.fused)
    added = fused - query
    stages = [*levels, query, fused]
    titles = [*(f"level {i + 1}" for i in range(len(levels))), "query", "fused", "added"]
    figure = Figure(figsize=(1.5 * (len(titles) + 1), 1.7 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), len(titles) + 1, squeeze=False)
    for row, image in enumerate(images):
        axes[row][0].imshow(image)
        maps = [np.abs(stage[row] - stage[row].mean(axis=0)).mean(axis=-1) for stage in stages]
        maps.append(np.linalg.norm(added[row], axis=-1))
        for cell, patch_map in zip(axes[row][1:], maps, strict=True):
            cell.imshow(patch_map.reshape(grid), cmap="magma")
        share = np.linalg.norm(added[row]) / np.linalg.norm(query[row])
        axes[row][-1].set_xlabel(f"{100 * share:.2f} % of query", fontsize=7)
    for cell, title in zip(axes[0], ["picture", *titles], strict=True):
        cell.set_title(title, fontsize=9)
    for cell in axes.flat:
        cell.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)
