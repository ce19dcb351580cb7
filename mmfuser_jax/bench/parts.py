"""What the slower operations are made of, one library's primitive against the other's: what no arrangement can win back."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import torch

from mmfuser_jax.bench.ops import Case
from mmfuser_jax.bench.rows import BenchRow
from mmfuser_jax.bench.timing import compare


def cases() -> Iterator[Case]:
    """At the sizes of the suite `ops`."""
    rng = np.random.default_rng(0)
    hidden, head = (rng.standard_normal(shape, np.float32) for shape in ((1024, 1024), (1024, 32_000)))
    yield Case(
        "product of the output head", "torch matmul", "1024 × 1024 by 1024 × 32000", (hidden, head), jnp.matmul, torch.matmul
    )  # fmt: skip
    query, key = (rng.standard_normal(shape, np.float32) for shape in ((16, 1024, 64), (16, 64, 1024)))
    yield Case(
        "scores of every head", "torch matmul", "16 times 1024 × 64 by 64 × 1024", (query, key), jnp.matmul, torch.matmul
    )  # fmt: skip
    scores = rng.standard_normal((16, 1024, 1024), np.float32)
    yield Case("softmax of the scores", "torch softmax", "16 × 1024 × 1024", (scores,), _softmax, _torch_softmax)
    row, layer = rng.standard_normal((1, 1536), np.float32), rng.standard_normal((1536, 4096), np.float32)
    yield Case(
        "product of one token", "torch matmul", "1 × 1536 by 1536 × 4096", (row, layer), jnp.matmul, torch.matmul
    )


def _softmax(x: jnp.ndarray) -> jnp.ndarray:
    weights = jnp.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _torch_softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, dim=-1)


def run(repeats: int = 7) -> Iterator[BenchRow]:
    """Forward alone: backward is made of the same."""
    for case in cases():
        yield compare(*case.forward(), repeats).row(case.name, case.peer, case.note)
