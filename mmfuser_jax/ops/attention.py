"""Softmax attention, and the mask of packed, branching rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from mmfuser_jax.types import Array


def attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S G H"],
    value: Float[Array, "B S G H"],
    mask: Bool[Array, "B 1 T S"] | None = None,
) -> Float[jax.Array, "B T N H"]:
    """Scaled dot-product attention, softmax in float32; N must be a multiple of the G key/value heads.

    A query that may look at nothing gets the plain mean of the values, not NaN.
    """
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")


def packed_mask(segment_ids: Int[Array, "B T"], branch_ids: Int[Array, "B T"]) -> Bool[jax.Array, "B 1 T T"]:
    """Who sees whom in a packed row: earlier slots of the same segment, in its trunk or in the query's own branch.

    segment  1 1 1 1 1 2 2 0          sees → i i a a b c c .
    branch   0 0 1 1 2 0 0 0             i   x
             i i a a b c c .             i   x x
                                         a   x x x
    Two branches (a, b) of one           a   x x x x
    segment share its trunk (i)          b   x x     x
    and nothing else; segments           c             x
    (c) share nothing.                   c             x x
    """
    length = segment_ids.shape[1]
    slot = jnp.arange(length)
    causal = slot[:, None] >= slot[None, :]
    same_segment = segment_ids[:, :, None] == segment_ids[:, None, :]
    in_trunk = branch_ids[:, None, :] == 0
    same_branch = branch_ids[:, :, None] == branch_ids[:, None, :]
    return (causal[None] & same_segment & (in_trunk | same_branch))[:, None]


def window_mask(
    query_positions: Int[Array, "B T"], key_positions: Int[Array, "B S"], window: int
) -> Bool[jax.Array, "B 1 T S"]:
    """Keys fewer than `window` positions before the query: Mistral's sliding window (arXiv 2310.06825, section 2)."""
    return jnp.asarray(query_positions[:, :, None] - key_positions[:, None, :] < window)[:, None]
