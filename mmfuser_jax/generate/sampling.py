"""From logits to the next token."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
      temperature: 0 takes the most likely token.
      top_p: of the most likely tokens, the fewest whose probabilities add up to this stay in the draw.
    """

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature {self.temperature} must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be in (0, 1]")


GREEDY = Sampling()
"""Always the most likely token."""


def sample(logits: Float[jax.Array, "B V"], key: jax.Array, sampling: Sampling) -> Int[jax.Array, " B"]:
    """int32[B], one token a row."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_p < 1:
        logits = jnp.where(logits >= _nucleus_threshold(logits, sampling.top_p), logits, -jnp.inf)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


def _nucleus_threshold(logits: jax.Array, top_p: float) -> jax.Array:
    """The smallest logit that stays: a token stays while those before it have not yet reached top_p."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(ordered), axis=-1) - jax.nn.softmax(ordered)
    return jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
