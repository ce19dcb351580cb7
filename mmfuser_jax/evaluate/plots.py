"""Pictures of a model: its answers, and what the fuser adds. Needs matplotlib (extra `demo`)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmfuser_jax.data.images import open_image
from mmfuser_jax.evaluate.runner import Prediction
from mmfuser_jax.types import VisualFeatures

RIGHT, WRONG = "#1a7f37", "#cf222e"


def plot_predictions(predictions: Sequence[Prediction], path: Path, count: int = 24, seed: int = 0) -> None:
    """A grid of pictures with question, answer and truth: every wrong answer first (at most half the grid)."""
    shown = [p for p in predictions if p.image is not None]
    order = np.random.default_rng(seed).permutation(len(shown))
    wrong = [shown[i] for i in order if not shown[i].correct][: count // 2]
    right = [shown[i] for i in order if shown[i].correct][: count - len(wrong)]
    total = sum(not p.correct for p in shown)
    title = f"Test questions; {total} of {len(shown)} answered wrongly, {len(wrong)} of them shown first"
    _answers(wrong + right, title).savefig(path, dpi=100)


def draw_predictions(predictions: Sequence[Prediction], count: int = 6) -> np.ndarray:
    """uint8[height, width, 3]: a few predictions spread evenly, so that every validation shows the same questions."""
    places = np.linspace(0, len(predictions) - 1, min(count, len(predictions))).round().astype(int)
    canvas = FigureCanvasAgg(_answers([predictions[i] for i in places]))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _answers(predictions: Sequence[Prediction], title: str = "", columns: int = 6) -> Figure:
    """Questions above their pictures, with the answer, and with the right one where that is wrong."""
    texts = [f"{_wrap(p.question)}\n{_wrap(_verdict(p))}" for p in predictions]
    rows = max(1, -(-len(predictions) // columns))
    side, above, head = 2.1, 0.15 + 0.155 * max((text.count("\n") + 1 for text in texts), default=0), 0.3 * bool(title)
    figure = Figure(figsize=(columns * (side + 0.1), rows * (side + above) + head))
    width, height = figure.get_size_inches()
    axes = figure.subplots(rows, columns, squeeze=False)
    # In inches: a layout that matplotlib looks for cuts off texts above a single row of pictures.
    figure.subplots_adjust(
        left=0.05 / width, right=1 - 0.05 / width, bottom=0.05 / height, top=1 - (head + above) / height,
        wspace=0.1 / side, hspace=above / side,
    )  # fmt: skip
    figure.suptitle(title, fontsize=9, y=1 - 0.1 / height, va="top")
    for cell in axes.flat:
        cell.axis("off")
    for cell, prediction, text in zip(axes.flat, predictions, texts, strict=False):
        if prediction.image is not None:
            cell.imshow(open_image(prediction.image))
        cell.set_title(text, fontsize=8, color=RIGHT if prediction.correct else WRONG)
    return figure


def _verdict(prediction: Prediction) -> str:
    answer = _cut(prediction.answer) or "(nothing)"
    return answer if prediction.correct else f"{answer} ≠ {_cut(prediction.truth)}"


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _wrap(text: str) -> str:
    return textwrap.fill(_cut(text, 130), 25)


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
