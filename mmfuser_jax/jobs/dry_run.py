"""What a run would do, said before it costs anything: its config, what trains, what a batch holds, and the memory it takes."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mmfuser_jax import sharding
from mmfuser_jax.aot.programs import train_program
from mmfuser_jax.models.params import abstract_params
from mmfuser_jax.models.quantized import weights
from mmfuser_jax.train.config import Stage, flatten_config
from mmfuser_jax.train.metrics import Meter
from mmfuser_jax.train.optim import flatten, trained_groups
from mmfuser_jax.train.setup import Run
from mmfuser_jax.train.stage_data import StageData
from mmfuser_jax.train.stopping import stop_signals
from mmfuser_jax.types import IGNORE_INDEX, Batch

LOG = logging.getLogger(__name__)

BATCHES = 4
"""Batches that are made, to see what is in them."""


@dataclasses.dataclass(frozen=True)
class Composition:
    """What a batch of all processes holds, as the mean of a few.

    Attributes:
      slots: rows times their length.
      tokens, supervised, image_tokens: of the slots, those in use, those that are learnt, those of pictures.
      records: conversations' records.
    """

    slots: float
    tokens: float
    supervised: float
    image_tokens: float
    records: float


def dry_run(config: Mapping[str, Any]) -> None:
    """Opens everything that a run of a resolved config would, compiles its steps, prints what they are, and trains nothing.

    Raises:
      ConfigError, TrainingError, RecordError, ShardingError: what the run itself would end with at its start.
    """
    console = Console(width=140, highlight=False)
    for name, value in flatten_config(config).items():
        console.print(f"{name} = {value!r}", soft_wrap=True, markup=False)
    with contextlib.ExitStack() as open_things:
        folder = Path(open_things.enter_context(tempfile.TemporaryDirectory()))
        stop = open_things.enter_context(stop_signals())
        run = Run(config, folder, stop, open_things, profile_steps=range(0), allow_changes=False)
        for stage in run.config.stages:
            console.print(_table(run, stage))


def _table(run: Run, stage: Stage) -> Table:
    title = f"stage {stage.name}: steps {stage.start + 1:,} to {stage.end:,}"
    table = Table("", "", title=title, show_header=False, title_justify="left")
    for row in (*_parameters(run, stage), *_batch(run, stage), *_memory(run, stage)):
        table.add_row(*row)
    return table


def _parameters(run: Run, stage: Stage) -> Iterator[tuple[str, str]]:
    sizes = {path: weights(path, x.shape) for path, x in flatten(abstract_params(run.model, run.mesh)).items()}
    for rule, count in trained_groups(sizes, stage.optimizer.rules):
        how = "frozen" if rule.learning_rate is None else f"learning rate {rule.learning_rate:g}"
        yield rule.pattern, f"{count:,} parameters, {how}"


def _batch(run: Run, stage: Stage) -> Iterator[tuple[str, str]]:
    share = sharding.batch_share(run.mesh)
    with contextlib.closing(StageData(run.config, stage, run.tokenizer, run.open, share)) as data:
        found = [_counts(data.next(Meter()), len(data.records)) for _ in range(BATCHES)]
    mean = Composition(*(share[1] * np.mean(found, axis=0)))
    yield "batch", f"{stage.batch_size} rows, {mean.slots:,.0f} tokens, {mean.tokens / mean.slots:.1%} of them in use"
    yield "", f"{mean.records:,.1f} records, {mean.image_tokens:,.0f} picture tokens, {mean.supervised:,.0f} supervised"
    total = sum(weight for _, weight in stage.sources.values())
    for name, (spec, weight) in stage.sources.items():
        records = len(run.open(spec))
        epochs = mean.records * stage.optimizer.steps * weight / total / records
        yield f"source {name}", f"{weight / total:.1%} of the records; {epochs:.2f} epochs of {records:,}"


def _counts(batch: Batch, records: int) -> list[Any]:
    """The numbers of a Composition, of one batch."""
    used = (batch.segment_ids != 0, batch.targets != IGNORE_INDEX, batch.image_index >= 0)
    return [batch.segment_ids.size, *(np.count_nonzero(mask) for mask in used), records]


def _memory(run: Run, stage: Stage) -> Iterator[tuple[str, str]]:
    LOG.info("compiling stage %s", stage.name)
    stats: Any = train_program(run.config, stage, run.mesh).lower().compile().memory_analysis()
    state, scratch = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    devices = run.mesh.devices
    yield (
        "memory",
        f"{(state + scratch) / 2**30:.2f} GiB on each of {devices.size} {devices.flat[0].device_kind} devices: "
        f"{state / 2**30:.2f} of parameters, moments and batch, {scratch / 2**30:.2f} of activations",
    )
