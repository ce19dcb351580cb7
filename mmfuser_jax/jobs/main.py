"""The main job: train with validation in between, then score the test split once."""

from __future__ import annotations

import dataclasses
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
from mmfuser_jax.evaluate.held_out import HeldOut
from mmfuser_jax.evaluate.run import draw_predictions, evaluate, plot_curves
from mmfuser_jax.evaluate.runner import predict
from mmfuser_jax.evaluate.scorers import exact_match
from mmfuser_jax.facade import VisionLanguageModel
from mmfuser_jax.generate import Engine
from mmfuser_jax.models import VLM
from mmfuser_jax.train import train
from mmfuser_jax.train.config import RunConfig, Stage, parse_run
from mmfuser_jax.train.loop import Validate
from mmfuser_jax.train.sinks import Drawing

LOG = logging.getLogger(__name__)


def make_validator(run: RunConfig) -> Validate:
    """The `validate` of `train`, on the first records of the validation split of a stage's source.

    It measures the share of right answers (`accuracy`, of `count` questions, and by type), and teacher-forced `loss` and
    `token_accuracy` over the `tokens` of all answers; and it draws a few of the `answers`.
    """

    @functools.cache
    def records(spec: SourceSpec) -> list[Record]:
        return list(itertools.islice(_readable(open_source(spec)), run.validation_records))

    packed: dict[str, HeldOut] = {}

    def held_out(stage: Stage, records: list[Record], tokenizer: Tokenizer) -> HeldOut:
        if stage.name not in packed:
            packed[stage.name] = HeldOut(
                records,
                tokenizer,
                stage.row,
                conversations=stage.conversations,
                batch_size=stage.batch_size // stage.accumulate,
                threads=run.threads,
            )
        return packed[stage.name]

    def validate(stage: Stage, model: VLM, params: Any, tokenizer: Tokenizer) -> Mapping[str, Any]:
        if stage.validation is None:
            return {}
        shown = records(stage.validation)
        engine = Engine(model, params, end_ids=end_ids(tokenizer, stage.row.template), pad_id=tokenizer.pad_id)
        predictions = predict(engine, tokenizer, shown, stage.row, max_new_tokens=run.max_new_tokens)
        scores = exact_match(predictions)
        by_type = {name: share["accuracy"] for name, share in scores["by_type"].items() if name != "all"}
        logged: dict[str, Any] = {"accuracy": scores["accuracy"], "count": scores["count"], **by_type}
        held = held_out(stage, shown, tokenizer)
        if len(held):
            logged |= dataclasses.asdict(held.score(model, params))
        pixels = draw_predictions(predictions)
        if pixels is not None:
            logged["answers"] = Drawing(pixels)
        return logged

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


def train_and_evaluate(config: Mapping[str, Any], workdir: Path, **options: Any) -> dict[str, Any]:
    """Trains into `workdir`, scores the test split once, and writes eval.json, predictions.jsonl and the pictures.

    A run that is finished and scored is only read. `options`: see `train`.

    Returns:
      What eval.json holds.

    Raises:
      ConfigError, TrainingError, RecordError: see `train`.
    """
    trained = train(config, workdir, make_validator(parse_run(config)), **options)
    run = trained.run
    if not trained.new_steps and (workdir / "eval.json").exists():
        scores = json.loads((workdir / "eval.json").read_text())
        report.print_table(scores, f"{workdir}, finished earlier")
        return scores
    on_first(lambda: plot_curves(workdir))
    if run.test is None:
        return {}
    vlm = VisionLanguageModel(trained.card, trained.model, trained.params, trained.tokenizer, run.steps)
    extra = {"train_seconds": round(trained.train_seconds, 1), "steps": run.steps}
    return evaluate(vlm, run.test, workdir, max_new_tokens=run.max_new_tokens, extra=extra)
