"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3): one function, exact formulations.

A query samples a few points of every feature level by bilinear interpolation and sums them by weight. A location
(x, y) in [0, 1] lies at pixel (x * W - 0.5, y * H - 0.5); corners outside the level count as zero, as in
`grid_sample(padding_mode="zeros", align_corners=False)` and in the reference's CUDA kernel.

`gather` reads the four neighbours of every point. `hat` writes the same weights as products of hat functions
max(0, 1 - |x - i|): sampling becomes one dense matrix product per level, which matrix units like better than gathers.
`pallas` is `hat` as a TPU kernel that never writes the matrix to memory (`deformable_pallas.py`), `triton` is `gather` as
GPU kernels that never write what they read (`deformable_triton.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mmfuser_jax.ops import deformable_pallas, deformable_triton
from mmfuser_jax.sharding import platform
from mmfuser_jax.types import Array

Shapes = tuple[tuple[int, int], ...]

KERNELS = ("pallas", "triton")
"""Take bfloat16 values as they are, and know no float64."""

CPU_PIXELS_PER_POINT = 120
"""Above, a CPU gathers: see `_default_impl`."""


def deformable_attention(
    value: Float[Array, "B S N H"],
    spatial_shapes: Shapes,
    sampling_locations: Float[Array, "B Q N F K 2"],
    attention_weights: Float[Array, "B Q N F K"],
    impl: str = "auto",
) -> Float[Array, "B Q NH"]:
    """Samples every level of `value` at the locations and sums by weight, head by head.

    Args:
      value: the levels' pixels, level-major, each level row-major: S is the sum of the levels' H*W.
      spatial_shapes: static (height, width) per level.
      sampling_locations: (x, y) in [0, 1] per batch, query, head, level and point; anything outside reads zeros.
      attention_weights: usually a softmax over levels and points jointly.
      impl: "gather", "hat", "pallas", "triton", or "auto": pallas on TPUs, triton on GPUs, on CPUs what was measured to be
        faster at the size. Elsewhere than where they belong, kernels are interpreted: for tests only.

    Returns:
      float[B, Q, N*H], head-major, in the dtype of `value`. Arithmetic is float32 whatever comes in (float64 if any
      input is), as in the reference, whose kernel has no half-precision version; on GPUs the products of hat are TF32, as
      JAX's default is (4e-4 from float64 on an H200, gather and triton 1e-6). Kernels know no float64. pallas multiplies
      bfloat16 values by interpolation weights rounded to bfloat16, summing in float32.

    Raises:
      ValueError: shapes that do not fit together, an unknown `impl`, or float64 for a kernel.
    """
    shapes = tuple((int(h), int(w)) for h, w in np.asarray(spatial_shapes).tolist())
    _check_shapes(value, shapes, sampling_locations, attention_weights)
    dtype = jnp.promote_types(jnp.result_type(value, sampling_locations, attention_weights), jnp.float32)
    if impl == "auto":
        impl = _default_impl(dtype, shapes, attention_weights.shape[-1])
    if impl not in _IMPLEMENTATIONS:
        raise ValueError(f"impl={impl!r} is not one of auto, {', '.join(_IMPLEMENTATIONS)}")
    if impl in KERNELS and dtype != jnp.float32:
        raise ValueError(f"impl={impl!r} computes in float32 at most; got {dtype}: use 'hat'")
    pixels = jnp.asarray(value, jnp.bfloat16 if impl in KERNELS and value.dtype == jnp.bfloat16 else dtype)
    out = _IMPLEMENTATIONS[impl](
        pixels, shapes, jnp.asarray(sampling_locations, dtype), jnp.asarray(attention_weights, dtype)
    )
    return out.reshape(*out.shape[:2], -1).astype(value.dtype)


def _default_impl(dtype: jnp.dtype, shapes: Shapes, points: int) -> str:
    """Fastest implementation where the mesh in use lies, for `points` per level.

    A query costs `hat` every pixel, `gather` four pixels a point, each of them dearer. CPU time of gather over that of
    hat on two cores, float32, by pixels a point: 16 (8×8 levels, 4 points) 2.7 forward and 4.5 with its gradients, 64
    1.3 and 3.0, 100 0.8 and 1.5, 144 (24×24) 0.6 and 1.0. On an H200, 16 pictures with four levels of 24×24, bfloat16:
    triton 0.24 ms forward and 2.1 with gradients, hat 2.0 and 2.2, gather 0.33 and 2.7; hat in 23 times the memory.
    """
    if platform() == "tpu" and dtype == jnp.float32:
        return "pallas"
    if platform() == "gpu" and dtype == jnp.float32:
        return "triton"
    pixels = sum(math.prod(shape) for shape in shapes)
    dense = pixels <= CPU_PIXELS_PER_POINT * len(shapes) * points
    return "hat" if dense or platform() != "cpu" else "gather"


def _check_shapes(value: Array, shapes: Shapes, locations: Array, weights: Array) -> None:
    if value.ndim != 4 or locations.ndim != 6 or weights.ndim != 5 or locations.shape[-1] != 2:
        raise ValueError(
            "expected value [B,S,N,H], sampling_locations [B,Q,N,F,K,2], attention_weights [B,Q,N,F,K]; got "
            f"{value.shape}, {locations.shape}, {weights.shape}"
        )
    if locations.shape[:-1] != weights.shape:
        raise ValueError(f"sampling_locations {locations.shape} and attention_weights {weights.shape} disagree")
    if (value.shape[0], value.shape[2]) != (weights.shape[0], weights.shape[2]):
        raise ValueError(f"value {value.shape} and attention_weights {weights.shape} disagree in batch or heads")
    if len(shapes) != weights.shape[3]:
        raise ValueError(f"{len(shapes)} spatial_shapes for {weights.shape[3]} levels of attention_weights")
    if sum(math.prod(shape) for shape in shapes) != value.shape[1]:
        raise ValueError(f"spatial_shapes {shapes} do not add up to the {value.shape[1]} rows of value")


def _pixels(locations: Float[jax.Array, "B Q N K 2"], shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Pixel coordinates (x, y) of normalised locations in a level of (height, width)."""
    return locations[..., 0] * shape[1] - 0.5, locations[..., 1] * shape[0] - 0.5


def _corners(
    x: jax.Array, y: jax.Array, shape: tuple[int, int]
) -> tuple[list[tuple[jax.Array, jax.Array]], jax.Array, jax.Array]:
    """The four pixels around each point, in the order (y0,x0) (y0,x1) (y1,x0) (y1,x1).

    Returns (flat index, inside) per corner and the fractions fx, fy of the point in its cell. Points far outside are
    clamped first: they read zeros either way, and floor() of a huge float does not fit an integer.
    """
    height, width = shape
    x, y = jnp.clip(x, -2, width + 1), jnp.clip(y, -2, height + 1)
    x0, y0 = jnp.floor(x), jnp.floor(y)
    corners = []
    for yi in (y0, y0 + 1):
        for xi in (x0, x0 + 1):
            inside = (xi >= 0) & (xi < width) & (yi >= 0) & (yi < height)
            index = jnp.clip(yi, 0, height - 1) * width + jnp.clip(xi, 0, width - 1)
            corners.append((index.astype(jnp.int32), inside))
    return corners, x - x0, y - y0


def _blend(fx: jax.Array, fy: jax.Array) -> tuple[jax.Array, ...]:
    """Bilinear weights of the corners of `_corners`, in their order."""
    return (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy


def _read_corners(table: jax.Array, corners: list[tuple[jax.Array, jax.Array]]) -> list[jax.Array]:
    """Reads table[..., index] at each corner, zero outside. `table` has one more, last axis of H*W pixels."""
    return [jnp.where(inside, jnp.take_along_axis(table, index, axis=-1), 0) for index, inside in corners]


def _split_levels(value: jax.Array, shapes: Shapes) -> list[jax.Array]:
    return jnp.split(value, np.cumsum([math.prod(shape) for shape in shapes])[:-1], axis=1)


def _gather(value: jax.Array, shapes: Shapes, locations: jax.Array, weights: jax.Array) -> jax.Array:
    """[B,Q,N,H] by reading four neighbours of every sampling point; differentiable as it stands."""
    out = jnp.zeros((*weights.shape[:3], value.shape[-1]), value.dtype)
    for level, (pixels, shape) in enumerate(zip(_split_levels(value, shapes), shapes, strict=True)):
        corners, fx, fy = _corners(*_pixels(locations[..., level, :, :], shape), shape)
        table = pixels.transpose(0, 2, 1, 3)  # [B,N,HW,H]
        for (index, inside), share in zip(corners, _blend(fx, fy), strict=True):
            batch, queries, heads, points = index.shape
            rows = index.transpose(0, 2, 1, 3).reshape(batch, heads, queries * points, 1)
            read = jnp.take_along_axis(table, rows, axis=2).reshape(batch, heads, queries, points, -1)
            weight = jnp.where(inside, share * weights[..., level, :], 0)
            out = out + jnp.einsum("bqnk,bnqkh->bqnh", weight, read)
    return out


def _triton(value: jax.Array, shapes: Shapes, locations: jax.Array, weights: jax.Array) -> jax.Array:
    """[B,Q,N,H] of row numbers and weights of all corners, of which kernels read the rows."""
    rows, shares, first = [], [], 0
    for level, shape in enumerate(shapes):
        corners, fx, fy = _corners(*_pixels(locations[..., level, :, :], shape), shape)
        for (index, inside), share in zip(corners, _blend(fx, fy), strict=True):
            rows.append(first + index)
            shares.append(jnp.where(inside, share * weights[..., level, :], 0))
        first += math.prod(shape)
    # [B,Q,N,K] a corner → [B,N,C,Q]
    index, blend = (jnp.concatenate(x, axis=-1).transpose(0, 2, 3, 1) for x in (rows, shares))
    return deformable_triton.weigh_rows(value, index, blend, tuple(map(math.prod, shapes)))


def _hats(coordinate: jax.Array, size: int) -> jax.Array:
    """Bilinear weight of every integer pixel 0 … size-1 for each coordinate: [..., size]."""
    pixels = jnp.arange(size, dtype=coordinate.dtype).reshape((1,) * coordinate.ndim + (size,))
    return jnp.maximum(0, 1 - jnp.abs(coordinate[..., None] - pixels))


def _sampling_matrix(shapes: Shapes, locations: jax.Array, weights: jax.Array) -> jax.Array:
    """[B,N,Q,S]: how much of every pixel of every level a query takes, all its points summed."""
    matrices = []
    for level, shape in enumerate(shapes):
        x, y = _pixels(locations[..., level, :, :], shape)
        rows = _hats(y, shape[0]) * weights[..., level, :, None]
        matrix = jnp.einsum("bqnky,bqnkx->bnqyx", rows, _hats(x, shape[1]))
        matrices.append(matrix.reshape(*matrix.shape[:3], -1))
    return jnp.concatenate(matrices, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _hat(value: jax.Array, shapes: Shapes, locations: jax.Array, weights: jax.Array) -> jax.Array:
    """[B,Q,N,H] as one product with the dense sampling matrix."""
    return jnp.einsum("bnqs,bsnh->bqnh", _sampling_matrix(shapes, locations, weights), value)


def _hat_forward(
    value: jax.Array, shapes: Shapes, locations: jax.Array, weights: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _hat(value, shapes, locations, weights), (value, locations, weights)


def _hat_backward(
    shapes: Shapes, saved: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradient without a scatter: the matrix's cotangent is a product, and a point only needs its four corners of it.

    The matrix is built again rather than kept: for a large model it is far bigger than its inputs.
    """
    value, locations, weights = saved
    matrix = _sampling_matrix(shapes, locations, weights)
    d_value = jnp.einsum("bnqs,bqnh->bsnh", matrix, cotangent)
    d_matrix = jnp.einsum("bqnh,bsnh->bqns", cotangent, value)
    d_locations, d_weights = [], []
    splits = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    for level, (table, shape) in enumerate(zip(jnp.split(d_matrix, splits, axis=-1), shapes, strict=True)):
        corners, fx, fy = _corners(*_pixels(locations[..., level, :, :], shape), shape)
        c00, c01, c10, c11 = _read_corners(table, corners)
        top, bottom = c00 + fx * (c01 - c00), c10 + fx * (c11 - c10)
        d_x = ((1 - fy) * (c01 - c00) + fy * (c11 - c10)) * shape[1]
        d_y = (bottom - top) * shape[0]
        d_locations.append(weights[..., level, :, None] * jnp.stack([d_x, d_y], axis=-1))
        d_weights.append(top + fy * (bottom - top))
    return d_value, jnp.stack(d_locations, axis=3), jnp.stack(d_weights, axis=3)


_hat.defvjp(_hat_forward, _hat_backward)

_IMPLEMENTATIONS: dict[str, Callable[[jax.Array, Shapes, jax.Array, jax.Array], jax.Array]] = {
    "gather": _gather,
    "hat": _hat,
    "pallas": deformable_pallas.sample,
    "triton": _triton,
}
