"""Token-weighted next-token loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float, Int

from mmfuser_jax.types import IGNORE_INDEX, Array, Leaf


@struct.dataclass
class TokenLoss:
    """Sums over the supervised tokens of a batch, so that several batches add up exactly.

    Attributes:
      total: float32[], summed negative log-likelihood in nats.
      count: int32[], supervised tokens.
      correct: int32[], supervised tokens whose arg-max is right.
    """

    total: Leaf
    count: Leaf
    correct: Leaf

    @property
    def mean(self) -> jax.Array:
        """Nats a supervised token; 0 where there is none, so that an all-ignored batch gives no NaN."""
        return jnp.asarray(self.total) / jnp.maximum(self.count, 1)


def cross_entropy(logits: Float[Array, "B T V"], targets: Int[Array, "B T"]) -> TokenLoss:
    """Negative log-likelihood of `targets` under float32 logits; positions with IGNORE_INDEX do not count.

    Over a sharded batch the sums are global, so the mean weighs every token of the global batch alike (the reference
    averages per-device means instead, which weighs tokens by how full their device happens to be).
    """
    targets = jnp.asarray(targets)
    supervised = targets != IGNORE_INDEX
    labels = jnp.where(supervised, targets, 0)
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    nll = jnp.where(supervised, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0)
    correct = supervised & (jnp.argmax(logits, axis=-1) == labels)
    return TokenLoss(total=nll.sum(), count=supervised.sum(dtype=jnp.int32), correct=correct.sum(dtype=jnp.int32))
