"""Attention for one CPU: block by block of queries, each against the keys that it can see, with its own backward pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mmfuser_jax.types import Array

QUERY_BLOCK = 256
"""Queries at a time; their scores stay in the caches."""

Allowed = Callable[[slice, slice], jax.Array | None]
"""(query slots, key slots) → bool[B, 1, q, k], who sees whom; None for everyone everyone."""


def block_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T G H"],
    value: Float[Array, "B T G H"],
    allowed: Allowed,
    causal: bool,
) -> Float[jax.Array, "B T N H"]:
    """Scaled dot-product attention, softmax in float32; see `ops.attention`.

    The backward pass makes the probabilities again from the kept log-sum-exp of each query (FlashAttention-2, arXiv
    2307.08691, algorithm 2), so that it has no reductions over scores, which CPUs are slow at.

    Args:
      query, key, value: arrays of one device.
      allowed: who sees whom. Every query must see a key.
      causal: no query sees a later slot, so that later keys are not looked at.
    """
    batch, length, heads, width = query.shape
    groups = key.shape[2]
    grouped = query.reshape(batch, length, groups, heads // groups, width)
    masks = [allowed(*block) for block in _blocks(length, causal)]
    out = _attend(causal, jnp.moveaxis(grouped, 1, 3), jnp.moveaxis(key, 1, 2), jnp.moveaxis(value, 1, 2), masks)
    return jnp.moveaxis(out, 3, 1).reshape(query.shape)


def _blocks(length: int, causal: bool) -> Iterator[tuple[slice, slice]]:
    count = -(-length // QUERY_BLOCK)
    for start, end in zip(*(np.linspace(0, length, count + 1).astype(int)[x] for x in (slice(-1), slice(1, None)))):
        yield slice(int(start), int(end)), slice(0, int(end) if causal else length)


def _scores(query: jax.Array, key: jax.Array, mask: jax.Array | None) -> jax.Array:
    """float32[B, G, R, q, k] of scaled queries."""
    scores = jnp.einsum("bgrqh,bgkh->bgrqk", query, key, preferred_element_type=jnp.float32)
    return scores if mask is None else jnp.where(mask[:, :, None], scores, -jnp.inf)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    causal: bool, query: jax.Array, key: jax.Array, value: jax.Array, masks: list[jax.Array | None]
) -> jax.Array:
    return _forward(causal, query, key, value, masks)[0]


def _forward(
    causal: bool, query: jax.Array, key: jax.Array, value: jax.Array, masks: list[jax.Array | None]
) -> tuple[jax.Array, tuple[jax.Array | list[jax.Array | None], ...]]:
    """[B, G, R, T, H], and what the backward pass needs."""
    scaled = query * jnp.asarray(1 / math.sqrt(query.shape[-1]), query.dtype)
    outs, log_sums = [], []
    for (rows, seen), mask in zip(_blocks(query.shape[3], causal), masks, strict=True):
        scores = _scores(scaled[:, :, :, rows], key[:, :, seen], mask)
        top = scores.max(axis=-1, keepdims=True)
        shares = jnp.exp(scores - top)
        sums = shares.sum(axis=-1, keepdims=True)
        out = jnp.einsum("bgrqk,bgkh->bgrqh", shares.astype(value.dtype), value[:, :, seen])
        outs.append((out / sums).astype(query.dtype))
        log_sums.append(top + jnp.log(sums))
    out, log_sum = jnp.concatenate(outs, axis=3), jnp.concatenate(log_sums, axis=3)
    return out, (scaled, key, value, masks, out, log_sum)


def _backward(causal: bool, saved: tuple, d_out: jax.Array) -> tuple:
    scaled, key, value, masks, out, log_sum = saved
    shift = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    d_query = []
    d_key, d_value = jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32)
    for (rows, seen), mask in zip(_blocks(scaled.shape[3], causal), masks, strict=True):
        queries, d_rows = scaled[:, :, :, rows], d_out[:, :, :, rows]
        shares = jnp.exp(_scores(queries, key[:, :, seen], mask) - log_sum[:, :, :, rows])
        d_shares = jnp.einsum("bgrqh,bgkh->bgrqk", d_rows, value[:, :, seen], preferred_element_type=jnp.float32)
        d_scores = (shares * (d_shares - shift[:, :, :, rows])).astype(key.dtype)
        d_query.append(jnp.einsum("bgrqk,bgkh->bgrqh", d_scores, key[:, :, seen]))
        d_key = d_key.at[:, :, seen].add(jnp.einsum("bgrqk,bgrqh->bgkh", d_scores, queries))
        d_value = d_value.at[:, :, seen].add(jnp.einsum("bgrqk,bgrqh->bgkh", shares.astype(value.dtype), d_rows))
    d_query = jnp.concatenate(d_query, axis=3) * jnp.asarray(1 / math.sqrt(scaled.shape[-1]), scaled.dtype)
    return d_query, d_key.astype(key.dtype), d_value.astype(value.dtype), [None] * len(masks)


_attend.defvjp(_forward, _backward)
