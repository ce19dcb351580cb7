"""Model FLOPs of a stage's step, and the share of the devices' peak that they amount to."""

from __future__ import annotations

from typing import Any

import jax

from mmfuser_jax.hardware import find_chip
from mmfuser_jax.models import VLM
from mmfuser_jax.models.flops import Flops, train_flops
from mmfuser_jax.train.config import Stage
from mmfuser_jax.train.optim import flatten, split_trainable


def stage_flops(model: VLM, stage: Stage, params: Any) -> dict[str, Flops]:
    """FLOPs of one step over the stage's global batch, by part of the model that runs; every slot of a row counts.

    Args:
      model: what the stage runs, without fuser where it leaves it out.
      stage: its batch and what it trains.
      params: nested parameters, or their shapes.
    """
    trained, _ = split_trainable(params, stage.optimizer.rules)
    return train_flops(
        model.config,
        {path: x.shape for path, x in flatten(params).items()},
        rows=stage.batch_size,
        length=stage.row.length,
        tiles=stage.row.tiles,
        trained=trained,
        remat=model.remat,
    )


def utilization(flops: float, step_seconds: float) -> dict[str, float]:
    """{"mfu": model FLOPs over what all devices could do in that time}; nothing where their peak is unknown, as on CPUs."""
    chip = find_chip(jax.devices()[0].device_kind)
    return {} if chip is None else {"mfu": round(flops / (step_seconds * chip.flops * jax.device_count()), 4)}
