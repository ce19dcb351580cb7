"""One step of training, forward to optimizer, against the same model of transformers' parts under torch's fused AdamW."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

from mmfuser_jax.bench import models, torch_models
from mmfuser_jax.bench.rows import BenchRow
from mmfuser_jax.bench.timing import Seconds, compare
from mmfuser_jax.models import VLM, VlmConfig
from mmfuser_jax.train.optim import OptimizerConfig, Rule
from mmfuser_jax.train.state import TrainState, init_state
from mmfuser_jax.train.step import make_train_step
from mmfuser_jax.types import Batch

ROWS, LENGTH = 2, 512
ENDLESS = 1_000_000
"""Steps of the stage: so many that the cosine stays at its peak, which is what the peer trains at."""

PEER = "transformers' CLIP and LLaMA (sdpa), MMFuser's block, AdamW(fused=True)"


def optimizer(*frozen: str) -> OptimizerConfig:
    """LLaVA's: AdamW with clipped gradients; parts that begin so stay as they are."""
    rules = (*(Rule(name, None) for name in frozen), Rule(".*", 1e-4))
    return OptimizerConfig(rules, steps=ENDLESS, weight_decay=0.1, clip_norm=1.0)


Step = Callable[[Batch], float]
"""Trains on a batch and returns its loss."""


def start(config: VlmConfig, frozen_vision: bool) -> tuple[Any, TrainState, Step]:
    """Our compiled step, the state that it begins with, and the peer's step, from the same parameters."""
    model, mesh = VLM(config), models.one_device()
    params = models.params(model)
    peer = torch_models.TorchVlm(config)
    torch_models.load_params(peer, config, params)
    setting = optimizer("vision_encoder") if frozen_vision else optimizer()
    their_step = torch_models.make_train_step(peer, setting, "vision_tower" if frozen_vision else "")
    state = init_state(params, setting, 0, mesh)
    return make_train_step(model, setting, mesh, state), state, lambda batch: float(their_step(batch))


def steps(config: VlmConfig, frozen_vision: bool) -> tuple[Step, Step]:
    """Ours and the peer's."""
    step, state, theirs = start(config, frozen_vision)

    def ours(batch: Batch) -> float:
        nonlocal state
        state, metrics = step(state, batch)
        return float(metrics["loss"])

    return ours, theirs


def measure(config: VlmConfig, rows: int, length: int, frozen_vision: bool = False, repeats: int = 7) -> Seconds:
    """Seconds a step of ours and the peer's."""
    ours, theirs = steps(config, frozen_vision)
    batch = models.random_batch(config, rows, length)
    seconds = compare(lambda: ours(batch), lambda: theirs(batch), repeats)
    gc.collect()
    return seconds


def run(repeats: int = 7) -> Iterator[BenchRow]:
    """Every part trained, and LLaVA's second stage, which keeps the vision encoder as it is."""
    config = models.vlm()
    shape = f"{models.count(config) / 1e6:.0f} M parameters, {ROWS} rows of {LENGTH} tokens with a picture of 256"
    for name, frozen in (("train step, all trained", False), ("train step, vision encoder frozen", True)):
        yield measure(config, ROWS, LENGTH, frozen, repeats).row(name, PEER, shape)
