"""The main job: train with validation in between, then score the test split once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfuser_jax.data import Tokenizer, end_ids
from mmfuser_jax.data.sources import load_records
from mmfuser_jax.evaluate import report
from mmfuser_jax.evaluate.run import evaluate, plot_curves
from mmfuser_jax.evaluate.runner import predict
from mmfuser_jax.evaluate.scorers import exact_match
from mmfuser_jax.facade import VisionLanguageModel
from mmfuser_jax.generate import Engine
from mmfuser_jax.models import VLM
from mmfuser_jax.train import train
from mmfuser_jax.train.config import RunConfig, Stage, parse_run
from mmfuser_jax.train.loop import Validate
from mmfuser_jax.train.metrics import read_metrics


def make_validator(run: RunConfig) -> Validate:
    """The `validate` of `train`: share of right answers on the validation split of a stage's source."""

    def validate(stage: Stage, model: VLM, params: Any, tokenizer: Tokenizer) -> Mapping[str, float]:
        engine = Engine(model, params, end_ids=end_ids(tokenizer, stage.row.template), pad_id=tokenizer.pad_id)
        records = load_records(stage.validation, "validation")[: run.validation_records]
        predictions = predict(engine, tokenizer, records, stage.row, max_new_tokens=run.max_new_tokens)
        scores = exact_match(predictions)
        by_type = {name: share["accuracy"] for name, share in scores["by_type"].items() if name != "all"}
        return {"accuracy": scores["accuracy"], "count": scores["count"], **by_type}

    return validate


def train_and_evaluate(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """Trains into `workdir`, scores the test split once, and writes eval.json, predictions.jsonl and the pictures.

    A run that is finished and scored is only read.

    Returns:
      What eval.json holds.

    Raises:
      ConfigError, TrainingError, RecordError: see `train`.
    """
    trained = train(config, workdir, make_validator(parse_run(config)))
    run = trained.run
    if not trained.new_steps and (workdir / "eval.json").exists():
        scores = json.loads((workdir / "eval.json").read_text())
        report.print_table(scores, f"{workdir}, finished earlier")
        return scores
    plot_curves(read_metrics(workdir / "metrics.jsonl"), workdir / "curves.png")
    if not run.test_source:
        return {}
    vlm = VisionLanguageModel(trained.card, trained.model, trained.params, trained.tokenizer, run.steps)
    extra = {"train_seconds": round(trained.train_seconds, 1), "steps": run.steps}
    return evaluate(vlm, run.test_source, run.test_split, workdir, max_new_tokens=run.max_new_tokens, extra=extra)
