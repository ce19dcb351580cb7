"""Softmax attention behind one function, and the rule of who sees whom in packed, branching rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Bool, Float, Int

from mmfuser_jax import sharding
from mmfuser_jax.ops.attention_blocks import block_attention
from mmfuser_jax.ops.splash import splash_attention
from mmfuser_jax.types import Array, Leaf

RESIDUAL = "attention"
"""Name under which `jax.checkpoint` policies can keep what spares the backward pass a second forward kernel."""

QUERY_BLOCK = 256
"""Queries whose scores "chunked" holds at a time."""


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

    def dense(self, queries: Int[Array, " Q"] | slice = slice(None)) -> Bool[jax.Array, "B 1 Q T"]:
        """The rule written out, for the queries in some slots or in all."""
        keys = jnp.arange(self.segment_ids.shape[1])

        def own(x: Array) -> jax.Array:
            # A gather that is known to be a slice costs CPUs much less.
            return jnp.asarray(x)[:, queries] if isinstance(queries, slice) else jnp.take(x, queries, 1, mode="clip")

        allowed = (own(keys[None])[0][:, None] >= keys[None, :])[None]
        allowed &= own(self.segment_ids)[:, :, None] == self.segment_ids[:, None, :]
        if self.branch_ids is not None:
            in_trunk = self.branch_ids[:, None, :] == 0
            allowed &= in_trunk | (own(self.branch_ids)[:, :, None] == self.branch_ids[:, None, :])
        mask = allowed[:, None]
        return mask & window_mask(own(self.positions), self.positions, self.window) if self.window else mask


Mask = Packed | Bool[Array, "B 1 T S"] | None
"""Who sees whom: the rule of packed rows, a rule written out, or everyone everyone."""


def attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S G H"],
    value: Float[Array, "B S G H"],
    mask: Mask = None,
    impl: str = "auto",
) -> Float[jax.Array, "B T N H"]:
    """Scaled dot-product attention, softmax in float32; N must be a multiple of the G key/value heads.

    A query that may look at nothing gets finite numbers, not NaN: the mean of all values in plain XLA.

    Args:
      query, key, value: one dtype.
      mask: who sees whom.
      impl: "xla" writes all scores to memory. "chunked" holds those of QUERY_BLOCK queries at a time, in the backward
        pass too. "blocks" is for one CPU and rules that are not written out: fewer scores, and a backward pass of its
        own (forward and backward, 8 heads of 64, 2 × 512 packed tokens: 0.4 of the time of "xla" and "chunked").
        "splash" (TPUs; packed rows without branches, or no mask) and "cudnn" (NVIDIA GPUs; half precision) are kernels
        that hold none. "auto" takes the best one for the platform and the mask.

    Raises:
      ValueError: an unknown `impl`, or one that cannot do this mask.
      ShardingError: "splash" where rows or heads do not divide over the mesh in use.
    """
    if impl == "auto":
        impl = _choose(query, mask)
    if impl not in _IMPLEMENTATIONS:
        raise ValueError(f"impl={impl!r} is not one of auto, {', '.join(_IMPLEMENTATIONS)}")
    return _IMPLEMENTATIONS[impl](query, key, value, mask)


def _choose(query: Array, mask: Mask) -> str:
    """The implementation that "auto" stands for."""
    platform = sharding.platform()
    if not isinstance(mask, Array):  # a rule written out is the short query of cached decoding, or its long prompt
        if platform == "tpu" and (mask is None or mask.branch_ids is None):
            return "splash"
        if platform == "gpu" and _cudnn_runs(query, mask):
            return "cudnn"
        if platform == "cpu" and sharding.active_mesh() is None:
            return "blocks"
    return "xla" if query.shape[1] <= QUERY_BLOCK else "chunked"


def _cudnn_runs(query: Array, mask: Mask) -> bool:
    """Whether cuDNN takes these arrays, and is here at all: compiling ahead of time, JAX cannot ask the GPU for it."""
    _, length, _, width = query.shape
    mesh = sharding.active_mesh()
    return (
        jax.default_backend() == "gpu"
        and query.dtype in (jnp.bfloat16, jnp.float16)
        and width % 8 == 0
        and width <= 128
        and (mask is None or length % 2 == 0)
        and (mesh is None or mesh.shape["sequence"] == 1)
    )


def _dense(mask: Mask, queries: jax.Array | slice = slice(None)) -> jax.Array | None:
    """The mask written out, for the queries in some slots or in all."""
    if isinstance(mask, Packed):
        return mask.dense(queries)
    if mask is None:
        return None
    return jnp.asarray(mask) if isinstance(queries, slice) else jnp.take(mask, queries, axis=2, mode="clip")


def _xla(query: Array, key: Array, value: Array, mask: Mask) -> jax.Array:
    out = jax.nn.dot_product_attention(query, key, value, mask=_dense(mask), implementation="xla")
    return checkpoint_name(out, RESIDUAL)


def _chunked(query: Array, key: Array, value: Array, mask: Mask) -> jax.Array:
    """Plain attention, block by block of queries, which the backward pass computes again.

    A block is every `blocks`-th query, so that a length that is spread over devices is so inside of each block.
    """
    batch, length, heads, width = query.shape
    blocks = -(-length // QUERY_BLOCK)
    size = -(-length // blocks)
    query = jnp.pad(query, ((0, 0), (0, blocks * size - length), (0, 0), (0, 0)))
    query = query.reshape(batch, size, blocks, heads, width)

    @jax.checkpoint
    def attend(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, query = block
        slots = index + blocks * jnp.arange(size)
        return jax.nn.dot_product_attention(query, key, value, mask=_dense(mask, slots), implementation="xla")

    out = jax.lax.map(attend, (jnp.arange(blocks), jnp.moveaxis(query, 2, 0)))
    out = jnp.moveaxis(out, 0, 2).reshape(batch, blocks * size, heads, width)
    return checkpoint_name(out[:, :length], RESIDUAL)


def _blocks(query: Array, key: Array, value: Array, mask: Mask) -> jax.Array:
    if isinstance(mask, Array):
        raise ValueError("impl='blocks' takes packed rows or no mask; 'chunked' takes any")

    def allowed(queries: slice, keys: slice) -> jax.Array | None:
        return None if mask is None else mask.dense(queries)[..., keys]

    return checkpoint_name(block_attention(query, key, value, allowed, causal=mask is not None), RESIDUAL)


def _splash(query: Array, key: Array, value: Array, mask: Mask) -> jax.Array:
    if isinstance(mask, Packed) and mask.branch_ids is None:
        # Positions of one segment count up by one when nothing branches, so that the window can be told in slots.
        segments, causal, window = mask.segment_ids, True, mask.window
    elif mask is None:
        segments, causal, window = jnp.zeros(query.shape[:2], jnp.int32), False, 0
    else:
        raise ValueError("impl='splash' takes packed rows without branches, or no mask; 'chunked' takes any")
    return splash_attention(query, key, value, segments, causal=causal, window=window, residual_name=RESIDUAL)


def _cudnn(query: Array, key: Array, value: Array, mask: Mask) -> jax.Array:
    if mask is None:
        out = _cudnn_to_all(query, key, value)
    else:
        # The mask goes in as a bias, [B,1,T,T] for all heads; the scores themselves stay on the chip. Rows are causal:
        # knowing it, the kernel leaves half of the blocks out (4 × 2048 tokens on an H200: 2.2 instead of 3.3 ms).
        causal = isinstance(mask, Packed)
        out = jax.nn.dot_product_attention(
            query, key, value, mask=_dense(mask), is_causal=causal, implementation="cudnn"
        )
    return checkpoint_name(out, RESIDUAL)


def _cudnn_to_all(query: Array, key: Array, value: Array) -> jax.Array:
    """Without mask; cuDNN's backward pass takes even lengths only (CLIP at 336 pixels: 577), so that one slot is added."""
    batch, length = query.shape[:2]
    if length % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
    used = jnp.full(batch, length, jnp.int32)
    out = jax.nn.dot_product_attention(
        query, key, value, query_seq_lengths=used, key_value_seq_lengths=used, implementation="cudnn"
    )
    return out[:, :length]


_IMPLEMENTATIONS = {"xla": _xla, "chunked": _chunked, "blocks": _blocks, "splash": _splash, "cudnn": _cudnn}


def window_mask(
    query_positions: Int[Array, "B T"], key_positions: Int[Array, "B S"], window: int
) -> Bool[jax.Array, "B 1 T S"]:
    """Keys fewer than `window` positions before the query: Mistral's sliding window (arXiv 2310.06825, section 2)."""
    return jnp.asarray(query_positions[:, :, None] - key_positions[:, None, :] < window)[:, None]
