"""Scoring a model on a source: eval.json, a table, predictions and pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mmfuser_jax.data.pipeline import RowFormat
from mmfuser_jax.data.sources import load_records
from mmfuser_jax.evaluate import plots, report
from mmfuser_jax.evaluate.runner import Prediction, predict
from mmfuser_jax.evaluate.scorers import exact_match
from mmfuser_jax.facade import VisionLanguageModel

LOG = logging.getLogger(__name__)


def evaluate(
    vlm: VisionLanguageModel,
    source: str,
    split: str,
    out: Path,
    *,
    max_new_tokens: int = 16,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores a model on a source and writes eval.json, predictions.jsonl, predictions.png and, with a fuser, fuser.png.

    Args:
      vlm: the model.
      source, split: see `data.sources`.
      out: folder for the files.
      max_new_tokens: of an answer.
      extra: more entries for eval.json.

    Returns:
      What eval.json holds: accuracy, count, by_type, by_answer, and `extra`.
    """
    config = vlm.model.config
    row = RowFormat(
        vlm.card.template, 0, 1, config.vision.patches, config.vision.image_size, vlm.card.aspect, config.image_mean
    )
    tokenizer = vlm.tokenizer
    if tokenizer is None:
        raise ValueError("evaluating needs a tokenizer in the model folder")
    records = load_records(source, split)
    LOG.info("scoring %s/%s: %d records", source, split, len(records))
    predictions = predict(vlm.engine, tokenizer, records, row, max_new_tokens=max_new_tokens, progress=True)
    scores = {"benchmark": source, "split": split, **exact_match(predictions), **(extra or {})}
    out.mkdir(parents=True, exist_ok=True)
    report.write_predictions(out / "predictions.jsonl", predictions)
    plots.plot_predictions(predictions, out / "predictions.png")
    if config.fuser is not None:
        scores["fused_share"] = _picture_fuser(vlm, predictions, out / "fuser.png")
    report.write_eval(out / "eval.json", scores)
    report.print_table(scores, f"{source} {split}")
    return scores


def _picture_fuser(vlm: VisionLanguageModel, predictions: list[Prediction], path: Path, count: int = 5) -> float:
    """Writes the fuser's picture for the first pictures, and returns the fused branch's share over the first 100."""
    paths = list(dict.fromkeys(p.image for p in predictions if p.image is not None))[:100]
    images = [Image.open(path) for path in paths]
    features = vlm.visual_features(images)
    plots.plot_fuser([vlm.preprocess(image) for image in images[:count]], features, vlm.model.config.vision.grid, path)
    return plots.fused_share(features)
