"""Seconds until a train step runs: scanned layers against unrolled ones, a second start, and torch.compile."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import torch
from jax.experimental.compilation_cache import compilation_cache

from mmfuser_jax.bench import models, torch_models
from mmfuser_jax.bench.rows import BenchRow
from mmfuser_jax.bench.train_step import optimizer
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import abstract_params
from mmfuser_jax.train.state import abstract_state
from mmfuser_jax.train.step import make_train_step

ROWS, LENGTH = 1, 320
DEEP, SHALLOW = 32, 4
CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


def step_seconds(depth: int, scan: bool) -> float:
    """Seconds to trace and compile our train step for a decoder of so many layers."""
    config = models.vlm(depth, scan=scan)
    model, mesh = VLM(config), models.one_device()
    state = abstract_state(abstract_params(model, mesh), optimizer(), mesh)
    batch = models.random_batch(config, ROWS, LENGTH)
    jax.clear_caches()
    started = time.perf_counter()
    step: Any = make_train_step(model, optimizer(), mesh, state)
    step.lower(state, batch).compile()
    return time.perf_counter() - started


def again_seconds(depth: int) -> tuple[float, float]:
    """Seconds of a first start, which fills JAX's persistent compilation cache, and of the next one, which reads it."""
    before = [jax.config.values[name] for name in CACHE]
    with tempfile.TemporaryDirectory() as folder:
        try:
            _set_cache([folder, 0])
            return step_seconds(depth, scan=True), step_seconds(depth, scan=True)
        finally:
            _set_cache(before)


def _set_cache(values: Sequence[Any]) -> None:
    for name, value in zip(CACHE, values, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it looks its folder up but once


def torch_seconds(depth: int) -> float:
    """Seconds that the peer's first compiled step, forward and backward, takes longer than its second."""
    config = models.vlm(depth)
    peer = torch_models.TorchVlm(config)
    batch = models.random_batch(config, ROWS, LENGTH)
    torch.compiler.reset()
    step = torch_models.make_train_step(peer, optimizer(), forward=torch.compile(peer))
    with torch._inductor.config.patch(force_disable_caches=True):
        first, second = (_seconds(lambda: step(batch)) for _ in range(2))
    return first - second


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def run() -> Iterator[BenchRow]:
    """Every compilation is timed once: it takes long enough."""
    scanned = {depth: step_seconds(depth, scan=True) for depth in (SHALLOW, DEEP)}
    note = "train step, traced and compiled"
    for depth, seconds in scanned.items():
        unrolled = step_seconds(depth, scan=False)
        yield BenchRow(f"compile, {depth} layers scanned", seconds, unrolled, "s", "ours, layers unrolled", note)
    first, second = again_seconds(SHALLOW)
    yield BenchRow(f"second start, {SHALLOW} layers", second, first, "s", "ours, first start", "persistent cache")
    theirs = torch_seconds(SHALLOW)
    note = "torch: forward and backward only, which it compiles at the first call"
    yield BenchRow(f"compile, {SHALLOW} layers", scanned[SHALLOW], theirs, "s", "torch.compile", note)
