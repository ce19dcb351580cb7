"""The main job: train with validation in between, then score the test split once."""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmfuser_jax.data import Record, Tokenizer, end_ids
from mmfuser_jax.data.images import open_image
from mmfuser_jax.data.records import RecordError, usable
from mmfuser_jax.data.sources import Source, SourceSpec, open_source
from mmfuser_jax.distributed import on_first
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

LOG = logging.getLogger(__name__)


def make_validator(run: RunConfig) -> Validate:
    """The `validate` of `train`: share of right answers on the validation split of a stage's source."""

    @functools.cache
    def records(spec: SourceSpec) -> list[Record]:
        return list(itertools.islice(_readable(open_source(spec)), run.validation_records))

    def validate(stage: Stage, model: VLM, params: Any, tokenizer: Tokenizer) -> Mapping[str, float]:
        if stage.validation is None:
            return {}
        engine = Engine(model, params, end_ids=end_ids(tokenizer, stage.row.template), pad_id=tokenizer.pad_id)
        shown = records(stage.validation)
        predictions = predict(engine, tokenizer, shown, stage.row, max_new_tokens=run.max_new_tokens)
        scores = exact_match(predictions)
        by_type = {name: share["accuracy"] for name, share in scores["by_type"].items() if name != "all"}
        return {"accuracy": scores["accuracy"], "count": scores["count"], **by_type}

    return validate


def _readable(source: Source) -> Iterator[Record]:
    """Usable records whose pictures open: a broken one must not end a run in the middle."""
    for record in usable(source):
        try:
            for file in record.images:
                open_image(file)
        except RecordError as error:
            LOG.warning("not used to validate: %s", error)
            continue
        yield record


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
    on_first(lambda: plot_curves(read_metrics(workdir / "metrics.jsonl"), workdir / "curves.png"))
    if run.test is None:
        return {}
    vlm = VisionLanguageModel(trained.card, trained.model, trained.params, trained.tokenizer, run.steps)
    extra = {"train_seconds": round(trained.train_seconds, 1), "steps": run.steps}
    return evaluate(vlm, run.test, workdir, max_new_tokens=run.max_new_tokens, extra=extra)
