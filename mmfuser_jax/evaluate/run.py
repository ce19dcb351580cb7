"""Scoring a model on a source: eval.json, a table, predictions and pictures."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmfuser_jax.data.images import open_image
from mmfuser_jax.data.rows import RowFormat
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.distributed import on_first
from mmfuser_jax.evaluate import report
from mmfuser_jax.evaluate.curves import load_runs
from mmfuser_jax.evaluate.runner import Prediction, predict
from mmfuser_jax.evaluate.scorers import exact_match
from mmfuser_jax.facade import VisionLanguageModel
from mmfuser_jax.types import VisualFeatures

LOG = logging.getLogger(__name__)


def evaluate(
    vlm: VisionLanguageModel,
    spec: SourceSpec,
    out: Path,
    *,
    max_new_tokens: int = 16,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores a model on a source and writes eval.json, predictions.jsonl, predictions.png and, with a fuser, fuser.png.

    Args:
      vlm: the model.
      spec: what to score it on.
      out: folder for the files.
      max_new_tokens: of an answer.
      extra: more entries for eval.json.

    Returns:
      What eval.json holds: accuracy, count, by_type, by_answer, and `extra`.
    """
    row = RowFormat(template=vlm.card.template, images=vlm.card.images, im_start_end=vlm.card.im_start_end)
    tokenizer = vlm.tokenizer
    if tokenizer is None:
        raise ValueError("evaluating needs a tokenizer in the model folder")
    records = open_source(spec)
    LOG.info("scoring %s %s: %d records", spec.source, spec.split, len(records))
    predictions = predict(vlm.engine, tokenizer, records, row, max_new_tokens=max_new_tokens, progress=True)
    scores = {"benchmark": spec.source, "split": spec.split, **exact_match(predictions), **(extra or {})}
    images, features = [], None
    if vlm.model.config.fuser is not None:
        images = _first_images(predictions)
        features = vlm.visual_features(images)
        scores["fused_share"] = fused_share(features)

    def write() -> None:
        out.mkdir(parents=True, exist_ok=True)
        report.write_predictions(out / "predictions.jsonl", predictions)
        _draw(vlm, predictions, images, features, out)
        report.write_eval(out / "eval.json", scores)
        report.print_table(scores, f"{spec.source} {spec.split}")

    on_first(write)
    return scores


def _first_images(predictions: Sequence[Prediction], count: int = 100) -> list[Image.Image]:
    files = list(dict.fromkeys(p.image for p in predictions if p.image is not None))[:count]
    return [open_image(file) for file in files]


def _draw(
    vlm: VisionLanguageModel,
    predictions: list[Prediction],
    images: Sequence[Image.Image],
    features: VisualFeatures | None,
    out: Path,
    count: int = 5,
) -> None:
    """Draws answers and, with a fuser, what it adds to the first pictures."""
    plots = _plots()
    if plots is None:
        return
    plots.plot_predictions(predictions, out / "predictions.png")
    if features is not None:
        shown = [vlm.preprocess(image)[0] for image in images[:count]]
        plots.plot_fuser(shown, features, vlm.model.config.vision.grid, out / "fuser.png")


def fused_share(features: VisualFeatures) -> float:
    """Norm of what the fuser adds over the norm of the query, over all patches given."""
    query = np.asarray(features.query)
    return float(np.linalg.norm(np.asarray(features.fused) - query) / np.linalg.norm(query))


def plot_curves(workdir: Path) -> None:
    """Draws what a run has logged as curves.png, where matplotlib is installed."""
    if _plots() is not None:
        from mmfuser_jax.evaluate.curve_pictures import draw_runs

        draw_runs(load_runs([workdir]), workdir / "curves.png")


def draw_predictions(predictions: Sequence[Prediction]) -> np.ndarray | None:
    """See `plots.draw_predictions`; None where matplotlib is not installed."""
    plots = _plots()
    return None if plots is None else plots.draw_predictions(predictions)


@functools.cache
def _plots() -> Any:
    """The plotting module, or None with a warning: pictures are no reason to lose a finished run."""
    try:
        from mmfuser_jax.evaluate import plots
    except ImportError:
        LOG.warning("no pictures without matplotlib; run: pip install 'mmfuser-jax[demo]'")
        return None
    return plots
