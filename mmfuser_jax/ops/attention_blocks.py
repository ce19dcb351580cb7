"""Attention for one CPU: block by block of queries, each against the keys that it can see, with its own backward pass."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmfuser_jax.types import Array

CAUSAL_QUERIES, ALL_QUERIES = 128, 256
"""Queries at a time: their scores stay in the caches, and causal ones look at few keys that they may not see."""

MOST_BLOCKS = 8
"""Of one row; every block is compiled by itself."""

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
    repeats = query.shape[2] // key.shape[2]
    heads_first = [jnp.moveaxis(x, 2, 1) for x in (query, *(jnp.repeat(x, repeats, axis=2) for x in (key, value)))]
    masks = [allowed(*block) for block in _blocks(query.shape[1], causal)]
    return jnp.moveaxis(_attend(causal, *heads_first, masks), 1, 2)


def _blocks(length: int, causal: bool) -> Iterator[tuple[slice, slice]]:
    """Query slots, and the key slots that they look at."""
    count = min(MOST_BLOCKS, -(-length // (CAUSAL_QUERIES if causal else ALL_QUERIES)))
    edges = [length * index // count for index in range(count + 1)]
    for start, end in itertools.pairwise(edges):
        yield slice(start, end), slice(0, end if causal else length)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """x y of the last two axes. Written as x y throughout: for x y^T of large arrays, the compiler would copy y first."""
    return jnp.einsum("bnij,bnjk->bnik", x.astype(_sums(x)), y.astype(_sums(y)))


def _sums(x: jax.Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _turned(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    causal: bool, query: jax.Array, key: jax.Array, value: jax.Array, masks: list[jax.Array | None]
) -> jax.Array:
    return _forward(causal, query, key, value, masks)[0]


def _forward(
    causal: bool, query: jax.Array, key: jax.Array, value: jax.Array, masks: list[jax.Array | None]
) -> tuple[jax.Array, tuple[Any, ...]]:
    """[B, N, T, H], and what the backward pass needs."""
    scaled, turned = query * _scale(query), _turned(key)
    outs, log_sums = [], []
    for (rows, seen), mask in zip(_blocks(query.shape[2], causal), masks, strict=True):
        scores = _dot(scaled[:, :, rows], turned[..., seen])
        scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
        top = scores.max(axis=-1, keepdims=True)
        shares = jnp.exp(scores - top)
        sums = shares.sum(axis=-1, keepdims=True)
        outs.append((_dot(shares.astype(value.dtype), value[:, :, seen]) / sums).astype(query.dtype))
        log_sums.append(top + jnp.log(sums))
    out, log_sum = (jnp.concatenate(x, axis=2) for x in (outs, log_sums))
    return out, (scaled, key, value, masks, out, log_sum)


def _scale(query: jax.Array) -> jax.Array:
    return jnp.asarray(query.shape[-1] ** -0.5, query.dtype)


def _backward(causal: bool, saved: tuple[Any, ...], d_out: jax.Array) -> tuple[Any, ...]:
    """With scores turned around, [k, q]: keys and values are then long sides of every product."""
    scaled, key, value, masks, out, log_sum = saved
    shift = _turned((out.astype(_sums(out)) * d_out).sum(axis=-1, keepdims=True))
    log_sum, queries, outs, keys = (_turned(x) for x in (log_sum, scaled, d_out, key))
    d_query, d_key, d_value = [], jnp.zeros(key.shape, _sums(key)), jnp.zeros(value.shape, _sums(value))
    for (rows, seen), mask in zip(_blocks(scaled.shape[2], causal), masks, strict=True):
        scores = _dot(key[:, :, seen], queries[..., rows])
        scores = scores if mask is None else jnp.where(_turned(mask), scores, -jnp.inf)
        shares = jnp.exp(scores - log_sum[..., rows])
        d_shares = _dot(value[:, :, seen], outs[..., rows])
        d_scores = (shares * (d_shares - shift[..., rows])).astype(key.dtype)
        d_query.append(_turned(_dot(keys[..., seen], d_scores)))
        d_key = d_key.at[:, :, seen].add(_dot(d_scores, scaled[:, :, rows]))
        d_value = d_value.at[:, :, seen].add(_dot(shares.astype(value.dtype), d_out[:, :, rows]))
    d_queries = jnp.concatenate(d_query, axis=2).astype(scaled.dtype) * _scale(scaled)
    return d_queries, d_key.astype(key.dtype), d_value.astype(value.dtype), [None] * len(masks)


_attend.defvjp(_forward, _backward)
