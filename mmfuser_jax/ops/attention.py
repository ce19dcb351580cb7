"""Softmax attention behind one function, and the rule of who sees whom in packed, branching rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int

from mmfuser_jax.types import Array, Leaf


@struct.dataclass
class Packed:
    """Who sees whom in packed rows: earlier slots of the same segment, in its trunk or in the query's own branch.

    segment  1 1 1 1 1 2 2 0          sees → i i a a b c c .
    branch   0 0 1 1 2 0 0 0             i   x
             i i a a b c c .             i   x x
                                         a   x x x
    Two branches (a, b) of one           a   x x x x
    segment share its trunk (i)          b   x x     x
    and nothing else; segments           c             x
    (c) share nothing.                   c             x x

    Attributes:
      segment_ids: int32[B, T].
      branch_ids: int32[B, T]; None where no row branches, which kernels need to know while tracing.
      positions: int32[B, T]; of the sliding window.
      window: only keys fewer than so many positions back (Mistral's, arXiv 2310.06825, section 2); 0 for all.
    """

    segment_ids: Leaf
    branch_ids: Leaf | None
    positions: Leaf
    window: int = struct.field(pytree_node=False, default=0)

    def dense(self) -> Bool[jax.Array, "B 1 T T"]:
        """The rule written out."""
        slot = jnp.arange(self.segment_ids.shape[1])
        allowed = (slot[:, None] >= slot[None, :])[None]
        allowed &= self.segment_ids[:, :, None] == self.segment_ids[:, None, :]
        if self.branch_ids is not None:
            in_trunk = self.branch_ids[:, None, :] == 0
            allowed &= in_trunk | (self.branch_ids[:, :, None] == self.branch_ids[:, None, :])
        mask = allowed[:, None]
        return mask & window_mask(self.positions, self.positions, self.window) if self.window else mask


def attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S G H"],
    value: Float[Array, "B S G H"],
    mask: Packed | Bool[Array, "B 1 T S"] | None = None,
) -> Float[jax.Array, "B T N H"]:
    """Scaled dot-product attention, softmax in float32; N must be a multiple of the G key/value heads.

    A query that may look at nothing gets the plain mean of the values, not NaN.
    """
    if isinstance(mask, Packed):
        mask = mask.dense()
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")


def window_mask(
    query_positions: Int[Array, "B T"], key_positions: Int[Array, "B S"], window: int
) -> Bool[jax.Array, "B 1 T S"]:
    """Keys fewer than `window` positions before the query: Mistral's sliding window (arXiv 2310.06825, section 2)."""
    return jnp.asarray(query_positions[:, :, None] - key_positions[:, None, :] < window)[:, None]
