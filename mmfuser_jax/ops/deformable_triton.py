"""Multi-scale deformable attention as GPU kernels (Pallas, compiled by Triton): rows of values are read where points lie.

The arithmetic is that of `gather` in `deformable_attention.py`: every sampling point is four corners, each a row number
and a weight. Main memory holds those two numbers a corner, never a row that was read, and never the sampling matrix.

Forward, a program sums up the rows of a block of queries, corner by corner. Backward, the weight of a corner gets the
product of its row with the cotangent; JAX differentiates the rest. The gradient of the values needs no atomic additions,
whose order would change sums from run to run: a program owns a block of pixels, builds the sampling matrix of these for
one block of queries after the other in registers, and multiplies it with their cotangents.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Float, Int

from mmfuser_jax.sharding import per_shard, platform

QUERIES, PIXELS = 32, 32
"""Queries and pixels of a program."""


def weigh_rows(
    value: Float[jax.Array, "B S N H"],
    index: Int[jax.Array, "B N C Q"],
    blend: Float[jax.Array, "B N C Q"],
    levels: tuple[int, ...],
) -> Float[jax.Array, "B Q N H"]:
    """Sum over corners c of blend[..., c, :] * value[:, index[..., c, :]], shard by shard where a mesh is in use.

    Products and sums are float32; only the gradient of bfloat16 values multiplies in TF32. On anything but a GPU the
    kernels are interpreted, which is slow: for tests.

    Args:
      value: bfloat16 or float32[B, S, N, H].
      index: int32[B, N, C, Q] into S; corners of one level after the other, equally many of each.
      blend: float32[B, N, C, Q].
      levels: pixels of each level; they sum up to S.

    Returns:
      float[B, Q, N, H] in the dtype of `value`.
    """
    heads, corners = ("batch", None, "activation_heads", None), ("batch", "activation_heads", None, None)

    def weigh(value: jax.Array, index: jax.Array, blend: jax.Array) -> jax.Array:
        queries, width = index.shape[3], value.shape[3]
        padding = ((0, 0), (0, 0), (0, 0), (0, -queries % QUERIES))
        # Triton's arrays have powers of two as sizes.
        value = jnp.pad(value, ((0, 0), (0, 0), (0, 0), (0, pl.next_power_of_2(width) - width)))
        out = _weigh(levels, value, jnp.pad(index, padding), jnp.pad(blend, padding))
        return out[:, :queries, :, :width]

    return per_shard(weigh, in_axes=(heads, corners, corners), out_axes=heads)(value, index, blend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weigh(levels: tuple[int, ...], value: jax.Array, index: jax.Array, blend: jax.Array) -> jax.Array:
    batch, _, heads, width = value.shape
    queries = index.shape[3]
    return _call(
        _sum_rows,
        (batch, heads, queries // QUERIES),
        [_all_pixels(value), _corners(index), _corners(blend)],
        _queries(width),
        jax.ShapeDtypeStruct((batch, queries, heads, width), value.dtype),
    )(value, index, blend)


def _forward(levels: tuple[int, ...], *inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _weigh(levels, *inputs), inputs


def _backward(levels: tuple[int, ...], saved: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[Any, ...]:
    value, index, blend = saved
    batch, _, heads, width = value.shape
    queries = index.shape[3]
    d_blend = _call(
        _dot_rows,
        (batch, heads, queries // QUERIES),
        [_all_pixels(value), _corners(index), _queries(width)],
        _corners(blend),
        jax.ShapeDtypeStruct(blend.shape, blend.dtype),
    )(value, index, cotangent)
    return _d_value(levels, value, index, blend, cotangent), None, d_blend


_weigh.defvjp(_forward, _backward)


def _d_value(
    levels: tuple[int, ...], value: jax.Array, index: jax.Array, blend: jax.Array, cotangent: jax.Array
) -> jax.Array:
    """float[B, S, N, H], level by level."""
    batch, _, heads, width = value.shape
    corners, queries = index.shape[2] // len(levels), index.shape[3]
    gradients, first = [], 0
    for level, pixels in enumerate(levels):
        rows = pl.BlockSpec((None, None, corners, queries), lambda b, n, s, level=level: (b, n, level, 0))
        gradient = _call(
            functools.partial(_pixel_gradients, first),
            (batch, heads, pl.cdiv(pixels, PIXELS)),
            [rows, rows, pl.BlockSpec((None, queries, None, width), lambda b, n, s: (b, 0, n, 0))],
            pl.BlockSpec((None, PIXELS, None, width), lambda b, n, s: (b, s, n, 0)),
            jax.ShapeDtypeStruct((batch, pl.cdiv(pixels, PIXELS) * PIXELS, heads, width), value.dtype),
        )(index, blend, cotangent)
        gradients.append(gradient[:, :pixels])
        first += pixels
    return jnp.concatenate(gradients, axis=1)


def _call(kernel: Any, grid: tuple[int, ...], in_specs: Any, out_specs: Any, out_shape: Any) -> Any:
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        interpret=platform() != "gpu",
        compiler_params=plgpu.CompilerParams(num_warps=4),
    )


def _all_pixels(value: jax.Array) -> pl.BlockSpec:
    """A picture and head: a block is where to read from, nothing is read of itself."""
    return pl.BlockSpec((None, value.shape[1], None, value.shape[3]), lambda b, n, q: (b, 0, n, 0))


def _queries(width: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, QUERIES, None, width), lambda b, n, q: (b, q, n, 0))


def _corners(x: jax.Array) -> pl.BlockSpec:
    return pl.BlockSpec((None, None, x.shape[2], QUERIES), lambda b, n, q: (b, n, 0, q))


def _sum_rows(value: Any, index: Any, blend: Any, out: Any) -> None:
    """out[q] = sum over c of blend[c, q] * value[index[c, q]]."""

    def add(corner: jax.Array, total: jax.Array) -> jax.Array:
        rows = value[index[corner, :], :]
        return total + blend[corner, :][:, None] * rows.astype(jnp.float32)

    total = jax.lax.fori_loop(0, index.shape[0], add, jnp.zeros(out.shape, jnp.float32))
    out[...] = total.astype(out.dtype)


def _dot_rows(value: Any, index: Any, cotangent: Any, out: Any) -> None:
    """out[c, q] = value[index[c, q]] · cotangent[q]."""
    given = cotangent[...].astype(jnp.float32)

    def dot(corner: jax.Array, carry: None) -> None:
        rows = value[index[corner, :], :]
        out[corner, :] = (rows.astype(jnp.float32) * given).sum(axis=1)
        return carry

    jax.lax.fori_loop(0, index.shape[0], dot, None)


def _pixel_gradients(first: int, index: Any, blend: Any, cotangent: Any, out: Any) -> None:
    """out[s] = sum over q and c of blend[c, q] * cotangent[q] where index[c, q] is this program's pixel s."""
    pixels = first + pl.program_id(2) * PIXELS + jnp.arange(PIXELS)
    precision = jax.lax.Precision.HIGHEST if out.dtype == jnp.float32 else jax.lax.Precision.DEFAULT

    def add(block: jax.Array, total: jax.Array) -> jax.Array:
        queries = pl.ds(block * QUERIES, QUERIES)

        def mark(corner: jax.Array, matrix: jax.Array) -> jax.Array:
            here = index[corner, queries][None, :] == pixels[:, None]
            return matrix + jnp.where(here, blend[corner, queries][None, :], 0)

        matrix = jax.lax.fori_loop(0, index.shape[0], mark, jnp.zeros((PIXELS, QUERIES), jnp.float32))
        given = cotangent[queries, :].astype(jnp.float32)
        return total + jnp.dot(matrix, given, precision=precision)

    total = jax.lax.fori_loop(0, index.shape[1] // QUERIES, add, jnp.zeros(out.shape, jnp.float32))
    out[...] = total.astype(out.dtype)
