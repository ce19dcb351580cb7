"""Splash attention: JAX's Pallas kernels for TPUs, which keep the scores of a block of queries and keys on the chip.

The kernels know neither rows nor odd lengths nor meshes nor the scale; this file adds these.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Float, Int

from mmfuser_jax import sharding
from mmfuser_jax.types import Array

LANES = 128
"""Keys of a block come in multiples of this."""

MAX_BLOCK = 640
"""Longest block of queries and of keys. By the cycles that the compiler schedules for a TPU v5e, the 577 tokens of a
336-pixel picture take 0.037 ms in one block and 0.135 ms in blocks of 128. Longer blocks gain little more, and lose more
than that to keys that come after a query: of blocks of 1024 in 2048 tokens 3 of 4 are in use, of blocks of 512 10 of 16."""

PADDING = -1
"""Segment of the slots added here, which no token is in."""


def splash_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T G H"],
    value: Float[Array, "B T G H"],
    segment_ids: Int[Array, "B T"],
    *,
    causal: bool,
    window: int = 0,
    residual_name: str | None = None,
) -> Float[jax.Array, "B T N H"]:
    """Softmax attention inside segments, compiled for TPUs and interpreted (slowly) elsewhere.

    Rows are spread over the mesh in use like a batch, heads like activations, queries along `sequence`; every device
    holds all keys and values of its rows and heads.

    Args:
      query, key, value: one width; N must be a multiple of G, whose heads are not repeated in memory.
      segment_ids: a query sees keys of its own segment only. All ≥ 0.
      causal: and only keys of its own and earlier slots.
      window: and only keys fewer than so many slots back; 0 for all. Needs `causal`.
      residual_name: `checkpoint_name` of the two arrays that spare the backward pass the forward kernel.

    Raises:
      ShardingError: rows or heads do not divide over the mesh in use.
    """
    batch, length, heads, width = query.shape
    queries, shared = ("batch", "activation_heads", "length", None), ("batch", "activation_kv_heads", "kv_length", None)
    _check_divides(
        {"rows": (batch, "batch"), "heads": (heads, queries[1]), "key/value heads": (key.shape[2], shared[1])}
    )
    pieces = _devices("length")
    blocks, block = _cut(length, pieces)
    padding = blocks * block - length

    def heads_first(x: Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))).swapaxes(1, 2)

    segments = jnp.pad(segment_ids, ((0, 0), (0, padding)), constant_values=PADDING)
    leaves, structure = _kernel(blocks, block, pieces, causal, window, residual_name, sharding.platform() != "tpu")

    def rows(
        query: jax.Array, key: jax.Array, value: jax.Array, own: jax.Array, seen: jax.Array, *leaves: Array
    ) -> jax.Array:
        kernel = jax.tree.unflatten(structure, leaves)
        return jax.vmap(lambda q, k, v, *ids: kernel(q, k, v, kernels.SegmentIds(*ids)))(query, key, value, own, seen)

    # What the kernel knows of its mask: per block [1, queries, keys], or per query.
    leaf_axes = [("length",) if leaf.ndim == 1 else (None, "length", None) for leaf in leaves]
    run = sharding.per_shard(
        rows, [queries, shared, shared, ("batch", "length"), ("batch", "kv_length"), *leaf_axes], queries
    )
    # In float32, since rounding the scale to bfloat16 would err alike everywhere.
    scaled = (query.astype(jnp.float32) * width**-0.5).astype(query.dtype)
    out = run(heads_first(scaled), heads_first(key), heads_first(value), segments, segments, *leaves)
    return out.swapaxes(1, 2)[:, :length]


def _cut(length: int, pieces: int) -> tuple[int, int]:
    """Number and length of blocks that hold `length` tokens, as many on each of `pieces` devices; as few as can be."""
    piece = -(-length // pieces)
    blocks = -(-piece // MAX_BLOCK)
    return pieces * blocks, -(-piece // (blocks * LANES)) * LANES


@functools.lru_cache
def _kernel(
    blocks: int, block: int, pieces: int, causal: bool, window: int, residual_name: str | None, interpret: bool
) -> tuple[tuple[np.ndarray, ...], jax.tree_util.PyTreeDef]:
    """The kernel of one head as a flat tree. Cached: JAX compares mask functions by identity when it reuses a trace.

    Queries get their gradients in a kernel of their own. The fused one is scheduled a third fewer cycles, but writes the
    gradients of all queries to memory once for every block of keys.
    """
    shape = (blocks * block, blocks * block)
    mask: masks.Mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    if window:
        mask = masks.LocalMask(shape, (window - 1, 0), offset=0)
    kinds = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes: dict[str, Any] = {f"block_{kind}": block for kind in kinds}
    with jax.ensure_compile_time_eval():
        kernel = kernels.make_splash_mha(
            masks.MultiHeadMask([mask]),
            block_sizes=kernels.BlockSizes(**sizes),
            head_shards=1,
            q_seq_shards=pieces,
            residual_checkpoint_name=residual_name,
            interpret=interpret,
        )
        leaves, structure = jax.tree.flatten(kernel)
        return tuple(np.asarray(leaf) for leaf in leaves), structure


def _devices(axis: str) -> int:
    """Devices that a logical axis is spread over."""
    mesh = sharding.active_mesh()
    return math.prod(mesh.shape[name] for name in sharding.mesh_axes(axis)) if mesh else 1


def _check_divides(sizes: dict[str, tuple[int, str]]) -> None:
    for what, (size, axis) in sizes.items():
        if size % _devices(axis):
            axes = " × ".join(sharding.mesh_axes(axis))
            raise sharding.ShardingError(
                f"attention: {size} {what} do not divide over {_devices(axis)} devices of mesh axis {axes}"
            )
