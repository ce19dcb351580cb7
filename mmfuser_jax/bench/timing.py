"""Ours and a peer timed in turns on the same cores: A B A B …, medians, and how far the repeats' ratios spread."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from mmfuser_jax.bench.rows import BenchRow

REPEATS = 7
SHORTEST = 0.1
"""Seconds that one measurement lasts at least; a faster call is made several times."""


def pin(cores: int) -> None:
    """Ties this process and both libraries to the first `cores` cores. To be called before JAX makes its threads.

    Raises:
      ValueError: there are fewer cores.
    """
    usable = sorted(os.sched_getaffinity(0))
    if not 1 <= cores <= len(usable):
        raise ValueError(f"--cores={cores}: this process may use {len(usable)}")
    os.sched_setaffinity(0, usable[:cores])
    torch.set_num_threads(cores)


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Seconds a call of ours and of the peer, one pair a repeat.

    Attributes:
      ours, theirs: float64[repeats].
    """

    ours: np.ndarray
    theirs: np.ndarray

    def row(self, name: str, peer: str, note: str = "", amount: float = 0.0, unit: str = "s") -> BenchRow:
        """A row of seconds or, where `amount` says how much of something a call does, of that `unit` a second."""
        ours, theirs = float(np.median(self.ours)), float(np.median(self.theirs))
        if amount:
            ours, theirs = amount / ours, amount / theirs
        return BenchRow(name, ours, theirs, unit, peer, note, tuple(np.round(self.theirs / self.ours, 4).tolist()))


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int = REPEATS, warmup: int = 2) -> Seconds:
    """Times two functions in turns, after `warmup` calls of each. Both sides' results are waited for."""

    on_gpu = jax.default_backend() == "gpu"

    def time_ours(calls: int) -> float:
        return _seconds(ours, calls, jax.block_until_ready, in_turn=not on_gpu)

    def time_theirs(calls: int) -> float:
        return _seconds(theirs, calls, lambda _: torch.cuda.synchronize() if on_gpu else None, in_turn=False)

    timers = (time_ours, time_theirs)
    for timer in timers:
        timer(warmup)
    calls = [max(1, round(SHORTEST / timer(1))) for timer in timers]
    pairs = [[timer(count) for timer, count in zip(timers, calls, strict=True)] for _ in range(repeats)]
    return Seconds(*np.asarray(pairs).T)


def _seconds(function: Callable[[], Any], calls: int, wait: Callable[[Any], Any], in_turn: bool) -> float:
    """Seconds a call, each waited for before the next where they go `in_turn`; a GPU's queue is emptied at the end."""
    started = time.perf_counter()
    for _ in range(calls):
        result = function()
        if in_turn:
            wait(result)
    wait(result)
    return (time.perf_counter() - started) / calls
