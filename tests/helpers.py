"""What several tests need: random parameters, batches, relative errors."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from mmfuser_jax.models import VLM, VlmConfig
from mmfuser_jax.models.params import dummy_batch
from mmfuser_jax.types import Batch


def relative(actual, expected) -> float:
    """Norm of the difference over the norm of what is expected."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30))


@functools.partial(jax.jit, static_argnames=("model", "method"))
def run(model: Any, params: Any, *inputs: Any, method: str | None = None, **options: Any) -> Any:
    """`model.apply` as one program: by single operations, compiling each takes many times as long."""
    return model.apply({"params": params}, *inputs, method=method, **options)


def random_params(model: VLM, seed: int = 0, scale: float = 0.2):
    """Parameters that are all random: a fresh fuser is the identity and would hide anything behind its zero gammas."""
    shapes = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), dummy_batch(model)))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [jnp.asarray(scale * rng.standard_normal(x.shape), x.dtype) for x in leaves])


def random_batch(config: VlmConfig, rows: int, length: int, seed: int = 0) -> Batch:
    """Each row: one picture, then random text, its second half supervised."""
    rng = np.random.default_rng(seed)
    size, patches = config.vision.image_size, config.vision.patches
    tokens = rng.integers(1, config.llm.vocab_size, (rows, length)).astype(np.int32)
    image_index = np.full((rows, length), -1, np.int32)
    image_index[:, 1 : 1 + patches] = np.arange(patches)
    targets = np.full((rows, length), -100, np.int32)
    start = (patches + length) // 2
    targets[:, start:-1] = tokens[:, start + 1 :]
    return Batch(
        tokens=tokens,
        targets=targets,
        positions=np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)).copy(),
        segment_ids=np.ones((rows, length), np.int32),
        branch_ids=np.zeros((rows, length), np.int32),
        image_index=image_index,
        pixels=rng.integers(0, 256, (rows, 1, size, size, 3)).astype(np.uint8),
    )
