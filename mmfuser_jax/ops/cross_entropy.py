"""Token-weighted next-token loss, from logits or straight from hidden states."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from mmfuser_jax import sharding
from mmfuser_jax.sharding import active_mesh, mesh_axes, per_shard
from mmfuser_jax.types import IGNORE_INDEX, Array, Leaf

LOGITS_BYTES = 128 << 20
"""Largest float32 block of logits that a device holds at a time."""

CPU_TOKENS = 256
"""Tokens whose logits a CPU holds at a time: more leave the caches, fewer make poor products."""


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


NO_TOKENS = TokenLoss(total=np.float32(0), count=np.int32(0), correct=np.int32(0))
"""Where a sum over batches starts."""


def cross_entropy(logits: Float[Array, "B T V"], targets: Int[Array, "B T"]) -> TokenLoss:
    """Negative log-likelihood of `targets` under float32 logits; positions with IGNORE_INDEX do not count.

    Over a sharded batch the sums are global, so the mean weighs every token of the global batch alike (the reference
    averages per-device means instead, which weighs tokens by how full their device happens to be).
    """
    targets = jnp.asarray(targets)
    supervised = targets != IGNORE_INDEX
    nll, best = _nll(jnp.asarray(logits, jnp.float32), jnp.where(supervised, targets, 0))
    correct = supervised & (best == targets)
    total = jnp.where(supervised, nll, 0.0).sum()
    return TokenLoss(total=total, count=supervised.sum(dtype=jnp.int32), correct=correct.sum(dtype=jnp.int32))


@jax.custom_vjp
def _nll(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihood of each label, and the first column with the highest logit."""
    return _nll_forward(logits, labels)[0]


def _columns(logits: jax.Array) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)


def _nll_forward(logits: jax.Array, labels: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    top = logits.max(axis=-1)
    # Two plain reductions; arg-max, a reduction of pairs, is several times slower on CPUs.
    best = jnp.where(logits == top[..., None], _columns(logits), logits.shape[-1]).min(axis=-1)
    log_sum = top + jnp.log(jnp.exp(logits - top[..., None]).sum(axis=-1))
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return (log_sum - picked, best), (logits, labels, log_sum)


def _nll_backward(saved: tuple[jax.Array, ...], cotangents: tuple[Any, ...]) -> tuple[jax.Array, None]:
    return cotangents[0][..., None] * _d_logits(*saved), None


def _d_logits(logits: jax.Array, labels: jax.Array, log_sum: jax.Array) -> jax.Array:
    """softmax - one_hot in one pass: the derivative of picking a label would be a scatter."""
    return jnp.exp(logits - log_sum[..., None]) - (_columns(logits) == labels[..., None])


_nll.defvjp(_nll_forward, _nll_backward)


def head_cross_entropy(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    targets: Int[Array, "B T"],
    logits_bytes: int | None = None,
) -> TokenLoss:
    """`cross_entropy` of the logits hidden @ head, which, where they are large, never exist as a whole.

    The vocabulary is gone through in slices. The backward pass computes each slice of the logits again (one more
    product with the head) and is done with the gradient of that slice of the head, which goes to the devices that
    keep it at once. Slices of tokens would need the gradient of the whole head on every device instead.

    One CPU goes through slices of tokens all the same, supervised ones only, and makes the gradients of each slice
    while it has its logits: nothing is computed for slots of pictures and questions, and nothing twice.

    Under a mesh the head is gathered once, in its own dtype; where its vocabulary is sharded, every device sums up its
    own part only.

    Args:
      hidden: final hidden states; products are in its dtype, sums in float32.
      head: output matrix.
      targets: token that follows each position, or IGNORE_INDEX.
      logits_bytes: largest float32 block of logits that a device may hold; None for what suits the platform.
    """
    head = head.astype(hidden.dtype)
    mesh = active_mesh()
    if logits_bytes is None and mesh is None and sharding.platform() == "cpu":
        total, count, correct = _supervised(hidden, head, jnp.asarray(targets))
        return TokenLoss(total=total, count=count, correct=correct)
    vocabulary = math.prod(mesh.shape[axis] for axis in mesh_axes("vocab")) if mesh else 1
    tokens = math.prod(hidden.shape[:2])
    if mesh:
        tokens //= math.prod(mesh.shape[axis] for name in ("batch", "length") for axis in mesh_axes(name))
    columns = head.shape[1] // vocabulary
    slices = math.ceil(4 * tokens * columns / (logits_bytes or LOGITS_BYTES))
    if slices == 1:  # small enough to keep for the backward pass
        return cross_entropy(jnp.einsum("btd,dv->btv", hidden, head, preferred_element_type=jnp.float32), targets)
    total, count, correct = _sliced(-(-columns // slices), hidden, head, jnp.asarray(targets))
    return TokenLoss(total=total, count=count, correct=correct)


@jax.custom_vjp
def _supervised(hidden: jax.Array, head: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
    return _go_through(hidden, head, targets, gradients=False)[0]


def _supervised_forward(
    hidden: jax.Array, head: jax.Array, targets: jax.Array
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    return _go_through(hidden, head, targets, gradients=True)


def _supervised_backward(
    gradients: tuple[jax.Array, ...], cotangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array, None]:
    d_hidden, d_head = ((x * cotangents[0]).astype(x.dtype) for x in gradients)
    return d_hidden, d_head, None


_supervised.defvjp(_supervised_forward, _supervised_backward)


def _go_through(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, gradients: bool
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Sums of the loss, and on demand the gradients of its total by hidden states and head, CPU_TOKENS at a time."""
    supervised = targets.ravel() != IGNORE_INDEX
    count = supervised.sum(dtype=jnp.int32)
    order = jnp.argsort(~supervised, stable=True)
    size = min(CPU_TOKENS, order.size)
    padding = -order.size % size
    rows = jnp.pad(jnp.take(hidden.reshape(order.size, -1), order, axis=0), ((0, padding), (0, 0)))
    labels = jnp.pad(jnp.take(targets.ravel(), order), (0, padding), constant_values=IGNORE_INDEX)

    def look(index: Any, carry: Any) -> Any:
        total, correct, d_rows, d_head = carry
        here = jax.lax.dynamic_slice_in_dim(rows, index * size, size)
        wanted = jax.lax.dynamic_slice_in_dim(labels, index * size, size)
        counts = wanted != IGNORE_INDEX
        logits = jnp.einsum("td,dv->tv", here, head, preferred_element_type=jnp.float32)
        (nll, best), (_, chosen, log_sum) = _nll_forward(logits, jnp.where(counts, wanted, 0))
        total += jnp.where(counts, nll, 0.0).sum()
        correct += (counts & (best == wanted)).sum(dtype=jnp.int32)
        if gradients:
            d_logits = (_d_logits(logits, chosen, log_sum) * counts[:, None]).astype(head.dtype)
            d_here = jnp.einsum("tv,dv->td", d_logits, head)
            d_rows = jax.lax.dynamic_update_slice_in_dim(d_rows, d_here, index * size, axis=0)
            d_head += jnp.einsum("td,tv->dv", here, d_logits, preferred_element_type=jnp.float32)
        return total, correct, d_rows, d_head

    sums = (jnp.float32(0), jnp.int32(0), jnp.zeros_like(rows), jnp.zeros(head.shape, jnp.float32))
    total, correct, d_rows, d_head = jax.lax.fori_loop(1, -(-count // size), look, look(0, sums))
    d_hidden = jnp.take(d_rows, jnp.argsort(order), axis=0).reshape(hidden.shape)
    return (total, count, correct), (d_hidden, d_head.astype(head.dtype))


TOKENS, HIDDEN, HEAD = ("batch", "length"), ("batch", "length", "activation_embed"), ("embed", "vocab")


def _over(name: str) -> tuple[str, ...]:
    """Mesh axes to sum over for a logical axis; none without a mesh."""
    return mesh_axes(name) if active_mesh() else ()


def _offset(columns: int) -> jax.Array | int:
    """First column of this device's part of the vocabulary."""
    return jax.lax.axis_index(_over("vocab")) * columns if _over("vocab") else 0


def _labels(targets: jax.Array, columns: int) -> jax.Array:
    """Column of each target in this device's part of the vocabulary, -1 where it lies in another's or is ignored."""
    local = targets - _offset(columns)
    return jnp.where((local >= 0) & (local < columns), local, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sliced(width: int, hidden: jax.Array, head: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
    return _sliced_forward(width, hidden, head, targets)[0]


def _sliced_forward(
    width: int, hidden: jax.Array, head: jax.Array, targets: jax.Array
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    in_axes, out_axes = (HIDDEN, HEAD, TOKENS), ((), (), (), TOKENS, (None, "vocab"))
    *sums, log_sum, gathered = per_shard(functools.partial(_forward, width), in_axes, out_axes)(hidden, head, targets)
    return tuple(sums), (hidden, gathered, targets, log_sum)


def _sliced_backward(
    width: int, saved: tuple[jax.Array, ...], cotangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array, None]:
    hidden, gathered, targets, log_sum = saved
    in_axes, out_axes = (HIDDEN, (None, "vocab"), TOKENS, TOKENS, ()), (HIDDEN, HEAD)
    backward = per_shard(functools.partial(_backward, width), in_axes, out_axes)
    return *backward(hidden, gathered, targets, log_sum, cotangents[0]), None


_sliced.defvjp(_sliced_forward, _sliced_backward)


def _logits(hidden: jax.Array, weights: jax.Array, column: jax.Array, columns: int) -> jax.Array:
    """float32 logits of one slice; columns past the vocabulary's end, there to fill the last slice, are never chosen."""
    logits = jnp.einsum("btd,dv->btv", hidden, weights, preferred_element_type=jnp.float32)
    inside = column + jnp.arange(weights.shape[1]) < columns
    return jnp.where(inside[None, None], logits, -jnp.inf)


def _slices(head: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """The head cut into [slices, D, width], zeros behind its end, and the first column of each slice."""
    depth, columns = head.shape
    count = -(-columns // width)
    padded = jnp.pad(head, ((0, 0), (0, count * width - columns))) if count * width > columns else head
    return padded.reshape(depth, count, width).swapaxes(0, 1), jnp.arange(count) * width


_Seen = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""Of the slices so far, per token: highest logit, sum of exponentials below it, the label's logit, the highest's column."""


def _forward(width: int, hidden: jax.Array, head: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
    """Sums of the loss, and what the backward pass needs: the log-sum-exp of every token, and the gathered head."""
    gathered = jax.lax.all_gather(head, _over("embed"), axis=0, tiled=True) if _over("embed") else head
    columns = gathered.shape[1]
    supervised = targets != IGNORE_INDEX
    labels = _labels(targets, columns)

    def look(carry: _Seen, slice_: tuple[jax.Array, jax.Array]) -> tuple[_Seen, None]:
        top, sums, picked, best = carry
        weights, column = slice_
        logits = _logits(hidden, weights, column, columns)
        peak = logits.max(axis=-1)
        best = jnp.where(peak > top, column + jnp.argmax(logits, axis=-1), best)
        higher = jnp.maximum(top, peak)
        sums = sums * jnp.exp(top - higher) + jnp.exp(logits - higher[..., None]).sum(axis=-1)
        return (higher, sums, picked + _pick(logits, labels - column), best), None

    shape = targets.shape
    start = (
        jnp.full(shape, -jnp.inf),
        jnp.zeros(shape),
        jnp.zeros(shape),
        jnp.zeros(shape, jnp.int32),
    )
    (top, sums, picked, best), _ = jax.lax.scan(look, start, _slices(gathered, width))
    highest = jax.lax.pmax(top, _over("vocab"))
    log_sum = highest + jnp.log(jax.lax.psum(sums * jnp.exp(top - highest), _over("vocab")))
    # The first of equally high logits, as arg-max has it.
    best = jax.lax.pmin(jnp.where(top == highest, best + _offset(columns), jnp.iinfo(jnp.int32).max), _over("vocab"))
    nll = jnp.where(supervised, log_sum - jax.lax.psum(picked, _over("vocab")), 0.0)
    everywhere = (*_over("batch"), *_over("length"))
    total, count, correct = (
        jax.lax.psum(x, everywhere)
        for x in (
            nll.sum(),
            supervised.sum(dtype=jnp.int32),
            (supervised & (best == targets)).sum(dtype=jnp.int32),
        )
    )
    return total, count, correct, log_sum, gathered


def _pick(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """logits[..., label] where the label lies in this slice, else 0."""
    here = (labels >= 0) & (labels < logits.shape[-1])
    index = jnp.clip(labels, 0, logits.shape[-1] - 1)
    return jnp.where(here, jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0], 0.0)


def _backward(
    width: int, hidden: jax.Array, head: jax.Array, targets: jax.Array, log_sum: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradients of the hidden states and of this device's part of the head."""
    columns = head.shape[1]
    scale = jnp.where(targets != IGNORE_INDEX, cotangent, 0.0)
    labels = _labels(targets, columns)

    def look(d_hidden: jax.Array, slice_: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        weights, column = slice_
        chosen = jnp.arange(width)[None, None] == (labels - column)[..., None]
        shares = jnp.exp(_logits(hidden, weights, column, columns) - log_sum[..., None])
        d_logits = (scale[..., None] * (shares - chosen)).astype(hidden.dtype)
        d_hidden += jnp.einsum("btv,dv->btd", d_logits, weights, preferred_element_type=jnp.float32)
        d_weights = jnp.einsum("btd,btv->dv", hidden, d_logits, preferred_element_type=jnp.float32).astype(head.dtype)
        if _over("embed"):
            d_weights = jax.lax.psum_scatter(d_weights, _over("embed"), scatter_dimension=0, tiled=True)
        return d_hidden, d_weights

    d_hidden, d_slices = jax.lax.scan(look, jnp.zeros(hidden.shape, jnp.float32), _slices(head, width))
    others = tuple(axis for axis in (*_over("batch"), *_over("length")) if axis not in _over("embed"))
    d_head = jax.lax.psum(d_slices.swapaxes(0, 1).reshape(d_slices.shape[1], -1)[:, :columns], others)
    return jax.lax.psum(d_hidden, _over("vocab")).astype(hidden.dtype), d_head
