"""The step of a config on the devices at hand: what it takes beside the least that it could, and the memory it was planned.

Parameters and text are random; pictures, rows and parts of a batch are as the config has them.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmfuser_jax import sharding
from mmfuser_jax.aot.programs import train_program
from mmfuser_jax.aot.report import Report, compile_report
from mmfuser_jax.aot.topology import Topology
from mmfuser_jax.bench.models import random_batch
from mmfuser_jax.hardware import GIB, find_chip
from mmfuser_jax.models import VLM
from mmfuser_jax.models.flops import total
from mmfuser_jax.train.config import ConfigError, RunConfig, Stage, parse_run
from mmfuser_jax.train.mfu import utilization
from mmfuser_jax.train.state import init_state, initial_params
from mmfuser_jax.train.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Measured:
    """Steps of one stage.

    Attributes:
      name: the stage.
      device: what each device is, and how many there are.
      seconds: of each step, without the first.
      planned: what the compiler said of the same step; its bounds are the published peaks'.
      used_gib: most that a device held at once since the process began; None where it does not tell.
    """

    name: str
    device: str
    seconds: tuple[float, ...]
    planned: Report
    used_gib: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        step, program = statistics.median(self.seconds), self.planned.program
        bound = self.planned.seconds.bound if self.planned.seconds else None
        return {
            "stage": self.name,
            "device": self.device,
            "rows": program.rows,
            "length": program.slots,
            "step_seconds": step,
            "step_seconds_bound": bound,
            "tokens_per_second": program.tokens / step,
            **utilization(total(program.flops).model, step),
            "used_gib": self.used_gib,
            "planned_gib": self.planned.needed_gib,
            "remat": self.planned.remat,
            "seconds": list(self.seconds),
        }


def measure(config: Mapping[str, Any], stage_name: str, steps: int) -> Iterator[Measured]:
    """Times `steps` steps of each stage of a resolved config, or of one, after a first that is not counted.

    Raises:
      ConfigError: the config makes no sense, has no such stage, or nothing is known of the devices.
      ShardingError: its mesh does not cover the devices, or something does not divide over it.
    """
    run = parse_run(config)
    stages = run.named(stage_name)
    devices = jax.devices()
    chip = find_chip(devices[0].device_kind)
    if chip is None:
        raise ConfigError(f"the peak of {devices[0].device_kind!r} is not known: see mmfuser_jax/hardware.py")
    here = Topology(f"{len(devices)} × {devices[0].device_kind}", chip, 1, tuple(devices))
    for stage in stages:
        yield _measure(run, stage, here, steps)


def _measure(run: RunConfig, stage: Stage, here: Topology, steps: int) -> Measured:
    mesh = sharding.make_mesh(**run.mesh)
    planned = compile_report(train_program(run, stage, mesh), here, mesh, run.remat)
    whole = VLM(run.model, jnp.dtype(run.dtype), run.remat)
    model = whole.clone(config=run.model_of(stage))
    params = initial_params(whole, stage.optimizer, 0, mesh)
    state = init_state(params, stage.optimizer, 0, mesh)
    step = make_train_step(model, stage.optimizer, mesh, state, stage.accumulate)
    batch = sharding.shard_batch(
        random_batch(model.config, stage.batch_size, stage.row.length, tiles=stage.row.tiles), mesh
    )
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - started)
    held = (here.devices[0].memory_stats() or {}).get("peak_bytes_in_use")
    return Measured(stage.name, here.name, tuple(seconds[1:]), planned, held / GIB if held else None)
