"""The train loop: stages in order, logging, validation, checkpoints, resuming."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmfuser_jax import checksums, distributed, files, model_folder, sharding
from mmfuser_jax.checkpoint import Checkpoints
from mmfuser_jax.data import Tokenizer, load_tokenizer
from mmfuser_jax.data.pipeline import check_shares
from mmfuser_jax.data.records import IMAGE_MARKER, usable
from mmfuser_jax.data.sources import Source, SourceSpec, check_images, open_source
from mmfuser_jax.data.tokenizer import is_tokenizer_folder, train_bpe_tokenizer, train_word_tokenizer
from mmfuser_jax.models import VLM
from mmfuser_jax.models.flops import total
from mmfuser_jax.models.params import abstract_params, boxed_params
from mmfuser_jax.train.config import RunConfig, Stage, check_unchanged, parse_run
from mmfuser_jax.train.errors import TrainingError
from mmfuser_jax.train.lock import locked
from mmfuser_jax.train.metrics import Meter, describe, open_metrics
from mmfuser_jax.train.mfu import stage_flops, utilization
from mmfuser_jax.train.optim import assign_rules, flatten, learning_rates
from mmfuser_jax.train.stage_data import StageData, stage_loading
from mmfuser_jax.train.state import (
    TrainState,
    abstract_state,
    init_state,
    initial_params,
    next_stage_params,
    stage_params,
)
from mmfuser_jax.train.step import make_train_step
from mmfuser_jax.train.stopping import Stopped, StopSignals, stop_signals

LOG = logging.getLogger(__name__)

Validate = Callable[[Stage, VLM, Any, Tokenizer], Mapping[str, Any]]
"""(stage, model, parameters, tokenizer) → numbers to log under `validation`."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a finished run leaves in memory; everything is on disk too.

    Attributes:
      run: its typed config.
      card, model, params, tokenizer: ready for the facade.
      train_seconds: wall-clock of all stages, compiling and validating included, over all resumed parts.
      new_steps: steps trained by this call; 0 where the run was already finished.
    """

    run: RunConfig
    card: model_folder.ModelCard
    model: VLM
    params: Any
    tokenizer: Tokenizer
    train_seconds: float
    new_steps: int


class _Run:
    """What the stages of one process share."""

    def __init__(self, config: Mapping[str, Any], workdir: Path, stop: StopSignals, open_things: ExitStack) -> None:
        self.stop = stop
        self.started = time.monotonic()
        self.config = parse_run(config)
        self._sources: dict[SourceSpec, Source] = {}
        self.mesh = sharding.make_mesh(**self.config.mesh)
        self._check_data()
        distributed.on_first(lambda: open_things.enter_context(locked(workdir)))
        distributed.on_first(lambda: _claim(workdir, config))
        self.model = VLM(self.config.model, jnp.dtype(self.config.dtype), self.config.remat)
        distributed.on_first(lambda: _make_tokenizer(self, workdir))
        self.tokenizer = _tokenizer(self, workdir)
        paths = flatten(boxed_params(self.model))
        for stage in self.config.stages:
            assign_rules(paths, stage.optimizer.rules)
        self.card = _card(self)
        distributed.on_first(lambda: model_folder.write_card(workdir, self.card))
        checkpoints = workdir / model_folder.CHECKPOINTS
        distributed.on_first(lambda: checksums.set_aside_damaged(checkpoints))
        self.checkpoints = Checkpoints(checkpoints, self.config.keep)
        open_things.callback(self.checkpoints.close)
        self.resume_step = self.checkpoints.latest_step() or 0
        if self.resume_step > self.config.steps:
            raise TrainingError(f"{workdir} is at step {self.resume_step}, past the last step {self.config.steps}")
        self.seconds_before = self.checkpoints.read_meta(self.resume_step)["train_seconds"] if self.resume_step else 0.0
        self.metrics = open_metrics(workdir, self.resume_step, self.config.steps)
        open_things.callback(self.metrics.close)

    def open(self, spec: SourceSpec) -> Source:
        """A source, opened once, and checked to have its pictures."""
        if spec not in self._sources:
            source = open_source(spec)
            check_images(source)
            self._sources[spec] = source
        return self._sources[spec]

    def _check_data(self) -> None:
        """What cannot be read stops a run before it leaves anything behind, and not after its first stage."""
        for spec in self.config.sources:
            self.open(spec)
        for stage in self.config.stages:
            counts = {name: len(self.open(spec)) for name, (spec, _) in stage.sources.items()}
            _, shares = sharding.batch_share(self.mesh)
            check_shares(counts, stage_loading(self.config, stage, shares), shares)

    def seconds(self) -> float:
        """Wall-clock trained so far, over all resumed parts."""
        return self.seconds_before + time.monotonic() - self.started


def train(config: Mapping[str, Any], workdir: Path, validate: Validate | None = None) -> Trained:
    """Trains every stage of `config` into `workdir`, or goes on where an earlier call with the same workdir stopped.

    Args:
      config: resolved config, see `configs/common.py`.
      workdir: gets config.json, model.json, tokenizer/, metrics.jsonl, tensorboard/ and checkpoints/.
      validate: measures the parameters every `validate_every` steps and at the end of every stage.

    Raises:
      ConfigError: the config makes no sense, or the workdir belongs to another one.
      TrainingError: the loss is not finite, or another run goes on in the workdir.
      CheckpointError: a checkpoint could not be saved, or none of those there is sound.
      Stopped: a signal said so, and the state is saved.
      RecordError: more of the training records than allowed cannot be used; the message names the last.
    """
    with contextlib.ExitStack() as open_things:
        run = _Run(config, workdir, open_things.enter_context(stop_signals()), open_things)
        params = None
        for stage in run.config.stages:
            if stage.end >= run.resume_step:
                params = _train_stage(run, stage, params, validate)
        run.checkpoints.wait()
        new_steps = run.config.steps - run.resume_step
        seconds = run.seconds() if new_steps else run.seconds_before
        return Trained(run.config, run.card, run.model, params, run.tokenizer, seconds, new_steps)


def _claim(workdir: Path, config: Mapping[str, Any]) -> None:
    """Makes the folder and writes config.json, or makes sure that the one there is the same."""
    workdir.mkdir(parents=True, exist_ok=True)
    path, given = workdir / "config.json", json.loads(json.dumps(config))
    if path.exists():
        check_unchanged(json.loads(path.read_text()), given, workdir)
    files.write_text(path, json.dumps(given, indent=2) + "\n")


def _make_tokenizer(run: _Run, workdir: Path) -> None:
    """Makes the tokenizer's folder, if it is not there."""
    config, folder = run.config, workdir / model_folder.TOKENIZER
    if not is_tokenizer_folder(folder):
        if config.init_from:
            model_folder.copy_tokenizer(Path(config.init_from) / model_folder.TOKENIZER, workdir)
        elif config.tokenizer == "words":
            train_word_tokenizer(_training_texts(run), folder)
        elif config.tokenizer == "bpe":
            train_bpe_tokenizer(_training_texts(run), folder, config.model.llm.vocab_size)
        else:
            model_folder.copy_tokenizer(Path(config.tokenizer), workdir)


def _tokenizer(run: _Run, workdir: Path) -> Tokenizer:
    tokenizer = load_tokenizer(workdir / model_folder.TOKENIZER)
    slots = run.config.model.llm.vocab_size
    if tokenizer.vocab_size > slots:
        raise TrainingError(f"{tokenizer.vocab_size} tokens, but config.model.llm.vocab_size={slots}")
    return tokenizer


def _training_texts(run: _Run) -> Iterator[str]:
    yield "USER: ASSISTANT:"
    for spec in run.config.text_sources:
        for record in usable(run.open(spec)):
            yield from (turn.text.replace(IMAGE_MARKER, "") for turns in record.conversations for turn in turns)


def _card(run: _Run) -> model_folder.ModelCard:
    """The model as its last stage leaves it; it remembers earlier turns if it is trained on conversations of several."""
    last = run.config.stages[-1]
    seen = (record for spec, _ in last.sources.values() for record in itertools.islice(usable(run.open(spec)), 200))
    history = any(len(turns) > 2 for record in seen for turns in record.conversations)
    return model_folder.ModelCard(
        run.config.model, last.row.template, last.row.images.aspect, history, last.row.im_start_end
    )


def _train_stage(run: _Run, stage: Stage, params: Any, validate: Validate | None) -> Any:
    """Trains one stage, from `params` or from its newest checkpoint; returns the parameters."""
    config, mesh = run.config, run.mesh
    model = run.model.clone(config=config.model_of(stage))

    def validated(step: int, state: TrainState) -> bool:
        """Validates where it is time to; False if a signal has ended it."""
        due = step == stage.end or (config.validate_every and step % config.validate_every == 0)
        if validate is None or not due:
            return True

        def log() -> None:
            numbers = dict(validate(stage, model, state.params, run.tokenizer))
            run.metrics.write({"step": step, "stage": stage.name, "validation": numbers})
            LOG.info("step %5d  %-9s validation %s", step, stage.name, numbers)

        return run.stop.interruptible(log)

    with contextlib.closing(StageData(config, stage, run.tokenizer, run.open, sharding.batch_share(mesh))) as data:
        state, complete = _start(run, stage, params, data)
        step = stage.start + int(state.step)
        if not complete and not validated(step, state):
            raise Stopped(run.stop.received, step)
        if step == stage.end:
            return state.params
        _log_trainable(stage, state)
        train_step = make_train_step(model, stage.optimizer, mesh, state, stage.accumulate)
        flops = total(stage_flops(model, stage, state.params)).model
        meter = Meter()
        while step < stage.end:
            batch = data.next(meter)
            state, metrics = train_step(state, sharding.shard_batch(batch, mesh))
            step += 1
            run.metrics.advance(step, stage.name)
            run.checkpoints.check()
            stopping = run.stop.reached(step)
            logging_now = step % config.log_every == 0 or step == stage.end
            saving_now = step % config.checkpoint_every == 0 or step == stage.end
            if logging_now or saving_now or stopping:
                metrics = jax.device_get(metrics)
                _check_finite(stage, step, metrics)
            if logging_now:
                measured = meter.read()
                used = utilization(flops, measured["step_seconds"])
                _log(run, stage, step, metrics, {**measured, **used, **data.tally.counts})
                meter = Meter()
            started = time.monotonic()
            complete = validated(step, state)
            meter.pause(time.monotonic() - started)
            stopping = stopping or not complete
            if saving_now or stopping:
                _save(run, stage, step, state, data, complete)
            if stopping:
                run.checkpoints.wait()
                raise Stopped(run.stop.received, step)
    return state.params


def _start(run: _Run, stage: Stage, params: Any, data: StageData) -> tuple[TrainState, bool]:
    """The state to go on from, and whether its step was validated if it had to be."""
    config, mesh = run.config, run.mesh
    if stage.start < run.resume_step:
        return _restore(run, stage, data)
    if params is None:
        params = initial_params(run.model, stage.optimizer, config.seed, mesh, config.init_from)
    else:
        params = next_stage_params(params, stage.optimizer, run.model, mesh)
    return init_state(params, stage.optimizer, config.seed, mesh), True


def _save(run: _Run, stage: Stage, step: int, state: TrainState, data: StageData, complete: bool) -> None:
    train = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    meta = {"stage": stage.name, "train_seconds": run.seconds(), "complete": complete, **data.meta()}
    run.checkpoints.save(step, params=state.params, train=train, meta=meta, data=data.iterator)


def _restore(run: _Run, stage: Stage, data: StageData) -> tuple[TrainState, bool]:
    meta = run.checkpoints.read_meta(run.resume_step)
    data.resume(meta)
    params = stage_params(abstract_params(run.model, run.mesh), stage.optimizer, run.model.dtype)
    shapes = abstract_state(params, stage.optimizer, run.mesh)
    train = {"step": shapes.step, "opt_state": shapes.opt_state, "rng": shapes.rng}
    params, train = run.checkpoints.restore(run.resume_step, params=shapes.params, train=train, data=data.iterator)
    LOG.info("resumed at step %d of stage %s", run.resume_step, stage.name)
    return TrainState(params=params, **train), meta.get("complete", True)


def _check_finite(stage: Stage, step: int, metrics: Mapping[str, Any]) -> None:
    """Nothing is logged or saved of a run that has blown up."""
    if not math.isfinite(metrics["loss"]) or not math.isfinite(metrics["grad_norm"]):
        loss, norm = metrics["loss"], metrics["grad_norm"]
        raise TrainingError(f"step {step} of stage {stage.name}: loss {loss}, gradient norm {norm}")


def _log(run: _Run, stage: Stage, step: int, metrics: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    row = {
        "step": step,
        "stage": stage.name,
        "loss": float(metrics["loss"]),
        "accuracy": float(metrics["accuracy"]),
        "grad_norm": float(metrics["grad_norm"]),
        "supervised_tokens": int(metrics["tokens"]),
        "learning_rate": learning_rates(stage.optimizer, step - stage.start - 1),
        **measured,
        "elapsed_seconds": round(run.seconds(), 2),
    }
    run.metrics.write(row)
    LOG.info(describe(row, run.config.steps, measured["step_seconds"] * (run.config.steps - step)))


def _log_trainable(stage: Stage, state: TrainState) -> None:
    """Says what trains, by row of the table."""
    flat = flatten(state.params)
    assigned = assign_rules(flat, stage.optimizer.rules)
    for row, rule in enumerate(stage.optimizer.rules):
        count = sum(x.size for path, x in flat.items() if assigned[path] == row)
        how = "frozen" if rule.learning_rate is None else f"learning rate {rule.learning_rate:g}"
        LOG.info("stage %-9s %-28s %12s parameters, %s", stage.name, rule.pattern, f"{count:,}", how)
