"""The train loop: stages in order, logging, validation, checkpoints, resuming."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from mmfuser_jax import model_folder, sharding
from mmfuser_jax.data import Tokenizer
from mmfuser_jax.models import VLM
from mmfuser_jax.models.flops import total
from mmfuser_jax.models.params import abstract_params
from mmfuser_jax.models.quantized import weights
from mmfuser_jax.train.config import RunConfig, Stage
from mmfuser_jax.train.errors import TrainingError
from mmfuser_jax.train.guard import Journal, Recent
from mmfuser_jax.train.metrics import Meter, describe
from mmfuser_jax.train.mfu import stage_flops, utilization
from mmfuser_jax.train.optim import flatten, learning_rates, trained_groups, unflatten
from mmfuser_jax.train.setup import Run
from mmfuser_jax.train.stage_data import StageData
from mmfuser_jax.train.state import (
    TrainState,
    abstract_state,
    init_state,
    initial_params,
    next_stage_params,
    stage_params,
)
from mmfuser_jax.train.step import make_train_step
from mmfuser_jax.train.stopping import Stopped, stop_signals

LOG = logging.getLogger(__name__)

Validate = Callable[[Stage, VLM, Any, Tokenizer], Mapping[str, Any]]
"""(stage, model, parameters, tokenizer) → what to log under `validation`: numbers, and pictures (`sinks.Drawing`)."""


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


def train(
    config: Mapping[str, Any],
    workdir: Path,
    validate: Validate | None = None,
    *,
    profile_steps: range = range(0),
    allow_changes: bool = False,
) -> Trained:
    """Trains every stage of `config` into `workdir`, or goes on where an earlier call with the same workdir stopped.

    Args:
      config: resolved config, see `configs/common.py`.
      workdir: gets config.json, model.json, tokenizer/, metrics.jsonl, tensorboard/ and checkpoints/.
      validate: measures the parameters every `validate_every` steps and at the end of every stage.
      profile_steps: global steps that are recorded into `profile/`.
      allow_changes: go on although the workdir belongs to another config, which this one replaces.

    Raises:
      ConfigError: the config makes no sense, or the workdir belongs to another one.
      TrainingError: a step was bad (see `guard`), or another run goes on in the workdir.
      CheckpointError: a checkpoint could not be saved, or none of those there is sound.
      Stopped: a signal said so, and the state is saved.
      RecordError: more of the training records than allowed cannot be used; the message names the last.
    """
    with contextlib.ExitStack() as open_things:
        stop = open_things.enter_context(stop_signals())
        options: Any = {"profile_steps": profile_steps, "allow_changes": allow_changes}
        run = Run(config, workdir, stop, open_things, **options)
        params = None
        for stage in run.config.stages:
            if stage.end >= run.resume_step:
                params = _train_stage(run, stage, params, validate)
        with run.goodput.spent("saving"):
            run.checkpoints.wait()
        run.goodput.write()
        LOG.info(run.goodput.describe())
        new_steps = run.config.steps - run.resume_step
        seconds = run.seconds() if new_steps else run.seconds_before
        return Trained(run.config, run.card, run.model, params, run.tokenizer, seconds, new_steps)


def _train_stage(run: Run, stage: Stage, params: Any, validate: Validate | None) -> Any:
    """Trains one stage, from `params` or from its newest checkpoint; returns the parameters."""
    with contextlib.closing(
        StageData(run.config, stage, run.tokenizer, run.open, sharding.batch_share(run.mesh))
    ) as data:
        return _StageLoop(run, stage, data, validate).train(params)


class _StageLoop:
    """One stage of a run."""

    def __init__(self, run: Run, stage: Stage, data: StageData, validate: Validate | None) -> None:
        self._run = run
        self._stage = stage
        self._data = data
        self._validate = validate
        self._model = run.model.clone(config=run.config.model_of(stage))
        self._journal = Journal(run.workdir, stage.name, run.config.guard, max(run.resume_step, stage.start))
        self._meter = Meter()
        self._merit = (-1, 0.0)
        """Of the newest step that was validated, where the best is kept."""

    def train(self, params: Any) -> Any:
        """Every step that is not done yet; see `_train_stage`."""
        run, stage = self._run, self._stage
        state, complete = self._start(params)
        step = stage.start + int(state.step)
        if not complete and not self._validated(step, state):
            raise Stopped(run.stop.received, step)
        if step == stage.end:
            return state.params
        _log_trainable(stage, state)
        advance = make_train_step(self._model, stage.optimizer, run.mesh, state, stage.accumulate, run.config.guard)
        flops = total(stage_flops(self._model, stage, state.params)).model
        # The first call waits for the compiler; later ones only start a step.
        compiling: Any = run.goodput.spent("compile")
        while step < stage.end:
            run.watchdog.heard()
            run.profile.before(step)
            with run.goodput.spent("data"):
                batch = self._data.next(self._meter)
            with compiling:
                state, metrics = advance(state, sharding.shard_batch(batch, run.mesh))
            compiling = contextlib.nullcontext()
            step += 1
            run.profile.after(step, state.step)
            self._journal.add(step, metrics, self._data.records)
            if step == stage.end:
                state = _averaged(state)
            self._after(step, state, flops)
        return state.params

    def _after(self, step: int, state: TrainState, flops: float) -> None:
        """What follows a step, where it is time to: a look at the numbers, a line, validation, a checkpoint."""
        run, config, last = self._run, self._run.config, step == self._stage.end
        run.metrics.advance(step, self._stage.name)
        run.checkpoints.check()
        stopping = run.stop.reached(step)
        logging_now = step % config.log_every == 0 or last
        saving_now = step % config.checkpoint_every == 0 or last
        if logging_now or saving_now or stopping:
            metrics = self._journal.read()  # before anything is saved
            if logging_now:
                self._log(step, metrics, flops)
        started = time.monotonic()
        complete = self._validated(step, state)
        stopping = stopping or not complete
        if saving_now or stopping:
            self._save(step, state, complete)
        self._meter.pause(time.monotonic() - started)
        if stopping:
            run.checkpoints.wait()
            run.goodput.write()
            raise Stopped(run.stop.received, step)

    def _validated(self, step: int, state: TrainState) -> bool:
        """Validates where it is time to; False if a signal has ended it."""
        run, stage, every = self._run, self._stage, self._run.config.validate_every
        due = step == stage.end or (every and step % every == 0)
        if self._validate is None or not due:
            return True
        validate = self._validate

        def log() -> None:
            numbers = dict(validate(stage, self._model, _averaged(state).params, run.tokenizer))
            run.metrics.write({"step": step, "stage": stage.name, "validation": numbers})
            LOG.info("step %5d  %-9s validation %s", step, stage.name, numbers)
            self._note_merit(step, numbers)

        run.watchdog.close()  # it takes as long as it takes
        with run.goodput.spent("validation"):
            return run.stop.interruptible(log)

    def _note_merit(self, step: int, numbers: Mapping[str, Any]) -> None:
        name = self._run.config.keep_best
        if name and numbers:
            if name not in numbers:
                raise TrainingError(f"config.keep_best={name!r}, but validation gives {', '.join(numbers)}")
            self._merit = (step, -numbers[name] if name == "loss" else numbers[name])

    def _start(self, params: Any) -> tuple[TrainState, bool]:
        """The state to go on from, and whether its step was validated if it had to be."""
        run, stage, config = self._run, self._stage, self._run.config
        with run.goodput.spent("startup"):
            if stage.start < run.resume_step:
                return self._restore()
            if params is None:
                params = initial_params(run.model, stage.optimizer, config.seed, run.mesh, config.init_from)
            else:
                params = next_stage_params(params, stage.optimizer, run.model, run.mesh)
            return init_state(params, stage.optimizer, config.seed, run.mesh, config.guard), True

    def _save(self, step: int, state: TrainState, complete: bool) -> None:
        run = self._run
        meta = {
            "stage": self._stage.name,
            "train_seconds": run.seconds(),
            "complete": complete,
            "skipped": self._journal.skipped,
            "recent": state.recent and jax.device_get(state.recent).save(),
            **self._data.meta(),
        }
        merit = (float(self._stage.start), self._merit[1]) if self._merit[0] == step else ()
        with run.goodput.spent("saving"):
            run.checkpoints.save(
                step,
                params=state.params,
                train=_training_state(state),
                meta=meta,
                data=self._data.iterator,
                merit=merit,
            )

    def _restore(self) -> tuple[TrainState, bool]:
        run, config, step = self._run, self._stage.optimizer, self._run.resume_step
        meta = run.checkpoints.read_meta(step)
        self._data.resume(meta)
        self._journal.skipped = meta.get("skipped", 0)
        params = stage_params(abstract_params(run.model, run.mesh), config, run.model.dtype)
        shapes = abstract_state(params, config, run.mesh, run.config.guard)
        params, train = run.checkpoints.restore(
            step, params=shapes.params, train=_training_state(shapes), data=self._data.iterator
        )
        recent = jax.device_put(Recent.load(meta.get("recent")), shapes.rng.sharding) if shapes.recent else None
        LOG.info("resumed at step %d of stage %s", step, self._stage.name)
        return TrainState(params=params, recent=recent, **train), meta.get("complete", True)

    def _log(self, step: int, metrics: Mapping[str, Any], flops: float) -> None:
        run, stage = self._run, self._stage
        measured = self._meter.read()
        self._meter = Meter()
        numbers = {name: float(metrics[name]) for name in ("loss", "accuracy", "grad_norm")}
        row = {
            "step": step,
            "stage": stage.name,
            **numbers,
            "supervised_tokens": int(metrics["tokens"]),
            "learning_rate": learning_rates(stage.optimizer, step - stage.start - 1),
            **measured,
            **utilization(flops, measured["step_seconds"]),
            **self._data.tally.counts,
            "skipped_steps": self._journal.skipped,
            "goodput": round(run.goodput.share(), 4),
            "elapsed_seconds": round(run.seconds(), 2),
        }
        run.metrics.write(row)
        run.goodput.write()
        LOG.info(describe(row, run.config.steps, measured["step_seconds"] * (run.config.steps - step)))


def _averaged(state: TrainState) -> TrainState:
    """With the averages in the place of the parameters they belong to, where a stage keeps them."""
    if state.average is None:
        return state
    return dataclasses.replace(state, params=unflatten({**flatten(state.params), **state.average}))


def _training_state(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds beside the parameters."""
    kept = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng, "average": state.average}
    return {name: x for name, x in kept.items() if x is not None}


def _log_trainable(stage: Stage, state: TrainState) -> None:
    """Says what trains, by row of the table."""
    sizes = {path: weights(path, x.shape) for path, x in flatten(state.params).items()}
    for rule, count in trained_groups(sizes, stage.optimizer.rules):
        how = "frozen" if rule.learning_rate is None else f"learning rate {rule.learning_rate:g}"
        LOG.info("stage %-9s %-28s %12s parameters, %s", stage.name, rule.pattern, f"{count:,}", how)
