"""Multi-scale deformable attention as a Pallas TPU kernel: the sampling matrix exists only as tiles in vector memory.

The arithmetic is that of `hat` in `deformable_attention.py`: the bilinear weight of a pixel is a product of two hat
functions, so that sampling is one matrix product per picture and head, without gathers. Here the matrix is built
128 queries at a time and fed to the matrix unit at once; main memory sees only inputs and outputs.

Layout of one grid step (one picture, one head); the queries lie on the lanes, pixels and points on the sublanes:

    values^T   [H, S]       S: the levels' pixels, row after row; every row is padded with zero pixels to a multiple of
                            8, the sublanes of a tile
    locations  [F*K*2, Q]   x and y of every level and point in turn
    weights    [F*K, Q]
    matrix^T   [S, 128]     one row of pixels at a time: the outer product of the y hat, one number a query, and the
                            x hats, a column of W numbers a query; summed over points
    out^T      [H, Q]  =  values^T @ matrix^T

Backward, the matrix's gradient [S, 128] = values @ cotangent^T is another product. A point needs two of its pixel rows,
the ones above and below it: selects pick them while the rows pass by, and x is settled once, after the last row.

Only rows are padded in memory. Where the queries end within a block of 128, the rest of the block is undefined.

Unrolled code grows with the pixels, so levels are cut into bands of rows (`_bands`) and each group of bands that fits
is a kernel of its own. A band is a level of its own whose points are shifted: outside of it they read zeros.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float

from mmfuser_jax.sharding import per_shard, platform

LANES, SUBLANES = 128, 8
MAX_TILES = 2**11
"""Most products of 8 pixels × 128 queries that a kernel unrolls for its points (the published fuser: 1,152). Its code and
the time to compile it grow with them, seconds here, and so does what it holds in vector memory."""

Shapes = tuple[tuple[int, int], ...]


def sample(
    value: Float[jax.Array, "B S N H"],
    shapes: Shapes,
    locations: Float[jax.Array, "B Q N F K 2"],
    weights: Float[jax.Array, "B Q N F K"],
) -> Float[jax.Array, "B Q N H"]:
    """float[B, Q, N, H] in the dtype of `value`: deformable attention, shard by shard where a mesh is in use.

    Products are of the dtype of `value`, bfloat16 or float32, their sums float32; everything else is float32. On
    anything but a TPU the kernel is interpreted, which is slow: for tests.

    Args:
      value: bfloat16 or float32[B, S, N, H].
      shapes: (height, width) per level.
      locations: float32[B, Q, N, F, K, 2] in [0, 1].
      weights: float32[B, Q, N, F, K].
    """
    heads = ("batch", None, "activation_heads", None)
    return per_shard(
        lambda value, locations, weights: _sample(value, shapes, locations, weights),
        in_axes=(heads, (*heads, None, None), (*heads, None)),
        out_axes=heads,
    )(value, locations, weights)


class Band(NamedTuple):
    """Rows first … first + rows - 1 of a level of `height` rows and `width` columns."""

    level: int
    height: int
    width: int
    first: int
    rows: int

    @property
    def columns(self) -> int:
        """Width in the matrix: whole tiles."""
        return _round_up(self.width, SUBLANES)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _bands(shapes: Shapes, points: int) -> list[tuple[Band, ...]]:
    """The levels' rows in groups of at most MAX_TILES tiles (or of one row, where that is more already)."""
    groups: list[tuple[Band, ...]] = []
    room = 0
    for level, (height, width) in enumerate(shapes):
        tiles = points * _round_up(width, SUBLANES) // SUBLANES
        first = 0
        while first < height:
            if room < tiles:
                groups.append(())
                room = max(MAX_TILES, tiles)
            rows = min(height - first, room // tiles)
            groups[-1] += (Band(level, height, width, first, rows),)
            first, room = first + rows, room - rows * tiles
    return groups


def _sample(value: jax.Array, shapes: Shapes, locations: jax.Array, weights: jax.Array) -> jax.Array:
    """`sample` on one device."""
    groups = _bands(shapes, weights.shape[-1])
    # Groups add up in float32.
    dtype = value.dtype if len(groups) == 1 else jnp.float32
    parts = [
        _attend(
            _pixels_last(value, shapes, group),
            _queries_last(locations, group),
            _queries_last(weights, group),
            group,
            dtype,
        )
        for group in groups
    ]
    return functools.reduce(jnp.add, parts).transpose(0, 3, 1, 2).astype(value.dtype)


def _pixels_last(value: jax.Array, shapes: Shapes, bands: tuple[Band, ...]) -> jax.Array:
    """[B, N, H, S] of a group's bands from [B, S, N, H] of all levels, every row padded to whole tiles."""
    start = sum(height * width for height, width in shapes[: bands[0].level]) + bands[0].first * bands[0].width
    end = start + sum(band.rows * band.width for band in bands)
    pixels = value[:, start:end].transpose(0, 2, 3, 1)
    if all(band.columns == band.width for band in bands):
        return pixels
    parts = []
    ends = list(itertools.accumulate(band.rows * band.width for band in bands))
    for band, part in zip(bands, jnp.split(pixels, ends[:-1], axis=-1), strict=True):
        rows = part.reshape(*part.shape[:3], band.rows, band.width)
        rows = jnp.pad(rows, [(0, 0)] * 4 + [(0, band.columns - band.width)])
        parts.append(rows.reshape(*part.shape[:3], -1))
    return jnp.concatenate(parts, axis=-1)


def _queries_last(x: jax.Array, bands: tuple[Band, ...]) -> jax.Array:
    """[B, N, …, Q] of a group's bands from [B, Q, N, F, …] of all levels, the axes between flat."""
    x = jnp.stack([x[:, :, :, band.level] for band in bands], axis=3)
    return x.reshape(*x.shape[:3], -1).transpose(0, 2, 3, 1)


class _Point(NamedTuple):
    """A sampling point of 128 queries: pixel coordinates within its band, and weight, each float32[1, 128]."""

    x: jax.Array
    y: jax.Array
    weight: jax.Array


def _pixel(coordinate: jax.Array, size: int, first: int, rows: int) -> jax.Array:
    """Where a coordinate in [0, 1] of a level's side of `size` pixels lies among pixels first … first + rows - 1.

    Far outside is clamped: it reads zeros either way, and infinity would turn into NaN.
    """
    return jnp.clip(coordinate * size - (0.5 + first), -2, rows + 1)


def _points(locations: jax.Array, weights: jax.Array, bands: tuple[Band, ...]) -> list[list[_Point]]:
    """The points of every band, from float32[F*K*2, 128] and float32[F*K, 128]."""
    count = weights.shape[0] // len(bands)

    def point(row: int, band: Band) -> _Point:
        x, y = locations[2 * row : 2 * row + 1], locations[2 * row + 1 : 2 * row + 2]
        return _Point(
            _pixel(x, band.width, 0, band.width),
            _pixel(y, band.height, band.first, band.rows),
            weights[row : row + 1],
        )

    return [[point(index * count + k, band) for k in range(count)] for index, band in enumerate(bands)]


def _pixel_numbers(size: int) -> jax.Array:
    """float32[size, 128]: 0 … size - 1 down the sublanes."""
    return jax.lax.broadcasted_iota(jnp.int32, (size, LANES), 0).astype(jnp.float32)


def _hat(coordinate: jax.Array, size: int) -> jax.Array:
    """float32[size, 128]: bilinear weight of pixels 0 … size-1 for a coordinate of every query."""
    return jnp.maximum(0, 1 - jnp.abs(coordinate - _pixel_numbers(size)))


def _matrix(points: list[list[_Point]], y_hats: Any, bands: tuple[Band, ...]) -> jax.Array:
    """matrix^T float32[S, 128], the rows of every band after one another.

    `y_hats` is scratch memory: reading a row back from memory spreads it over a tile's sublanes for free.
    """
    tiles = []
    for index, (band, here) in enumerate(zip(bands, points, strict=True)):
        x_hats = [_hat(point.x, band.columns) for point in here]
        for k, point in enumerate(here):
            y_hats[index, k] = _hat(point.y, y_hats.shape[2]) * point.weight
        for row in range(band.rows):
            terms = [hat * y_hats[index, k, row : row + 1] for k, hat in enumerate(x_hats)]
            tiles.append(functools.reduce(jnp.add, terms))
    return jnp.concatenate(tiles, axis=0)


def _dot(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """Product over one axis of each, summed in float32. The matrix unit halves float32 unless told not to."""
    if platform() != "tpu":  # XLA's CPU backend has no such product of halves; theirs are exact in float32
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _for_blocks(queries: int, block: Callable[[Any, jax.Array], None]) -> None:
    """Calls `block` with the lanes of every 128 queries, and bool[1, 128]: which of them exist."""

    def step(index: Any, carry: None) -> None:
        start = pl.multiple_of(index * LANES, LANES)
        block(pl.ds(start, LANES), jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) < queries - start)
        return carry

    jax.lax.fori_loop(0, pl.cdiv(queries, LANES), step, None)


Ref = Any
"""Memory of the kernel's own, to read and write."""


def _forward_kernel(
    locations: Ref, weights: Ref, value: Ref, out: Ref, y_hats: Ref, *, bands: tuple[Band, ...], queries: int
) -> None:
    def block(lanes: Any, _: jax.Array) -> None:
        points = _points(locations[0, 0, :, lanes], weights[0, 0, :, lanes], bands)
        matrix = _matrix(points, y_hats, bands).astype(value.dtype)
        out[0, 0, :, lanes] = _dot(value[0, 0], matrix, (1, 0)).astype(out.dtype)

    _for_blocks(queries, block)


def _backward_kernel(
    locations: Ref, weights: Ref, value: Ref, cotangent: Ref, d_locations: Ref, d_weights: Ref, d_value: Ref,
    y_hats: Ref, pixels: Ref, d_pixels: Ref, *, bands: tuple[Band, ...], queries: int,
) -> None:  # fmt: skip
    """`pixels` [S, H] holds the values the other way round, `d_pixels` float32[H, S] sums their gradient.

    Queries that do not exist are zeros here, for d_pixels sums over them; forward, what they yield is cut off.
    """
    pixels[...] = value[0, 0].T
    d_pixels[...] = jnp.zeros_like(d_pixels)

    def block(lanes: Any, exists: jax.Array) -> None:
        where, weight, d_out = (jnp.where(exists, x[0, 0, :, lanes], 0) for x in (locations, weights, cotangent))
        points = _points(where, weight, bands)
        d_out = d_out.astype(value.dtype)
        d_matrix = _dot(pixels[...], d_out, (1, 0))
        start, k = 0, 0
        for band, here in zip(bands, points, strict=True):
            end = start + band.rows * band.columns
            neighbours = _neighbour_rows(d_matrix[start:end], band, here)
            for point, (above, below) in zip(here, neighbours, strict=True):
                d_x, d_y, d_weight = _point_gradient(point, above, below, band)
                d_locations[0, 0, 2 * k : 2 * k + 1, lanes] = d_x
                d_locations[0, 0, 2 * k + 1 : 2 * k + 2, lanes] = d_y
                d_weights[0, 0, k : k + 1, lanes] = d_weight
                k += 1
            start = end
        matrix = _matrix(points, y_hats, bands).astype(value.dtype)
        d_pixels[...] += _dot(d_out, matrix, (1, 1))

    _for_blocks(queries, block)
    d_value[0, 0] = d_pixels[...].astype(d_value.dtype)


def _neighbour_rows(table: jax.Array, band: Band, points: list[_Point]) -> list[tuple[jax.Array, jax.Array]]:
    """The rows of `table` [rows * columns, 128] above and below every point, [columns, 128] each; zero outside."""
    tops = [jnp.broadcast_to(jnp.floor(point.y), (band.columns, LANES)) for point in points]
    above = [jnp.zeros((band.columns, LANES))] * len(points)
    below = list(above)
    just_above = [top == -1 for top in tops]
    for row in range(band.rows):
        pixels = table[row * band.columns : (row + 1) * band.columns]
        for k, top in enumerate(tops):
            here = top == row
            above[k] = jnp.where(here, pixels, above[k])
            below[k] = jnp.where(just_above[k], pixels, below[k])
            just_above[k] = here
    return list(zip(above, below, strict=True))


def _point_gradient(point: _Point, above: jax.Array, below: jax.Array, band: Band) -> tuple[jax.Array, ...]:
    """Gradients [1, 128] of a point's x and y in [0, 1] and of its weight, from the matrix's gradient around it.

    At a pixel's centre, where the hats have a kink, x and y take the slope towards the next pixel, as `hat` does.
    """
    left, column = jnp.floor(point.x), _pixel_numbers(band.columns)
    x_hat = _hat(point.x, band.columns)
    x_slope = jnp.where(column == left, -1.0, jnp.where(column == left + 1, 1.0, 0.0))
    y_slope = below - above
    between = above + (point.y - jnp.floor(point.y)) * y_slope

    def over_columns(x: jax.Array) -> jax.Array:
        return x.sum(axis=0, keepdims=True)

    d_x = over_columns(x_slope * between) * point.weight * band.width
    d_y = over_columns(x_hat * y_slope) * point.weight * band.height
    return d_x, d_y, over_columns(x_hat * between)


def _call(
    kernel: Callable[..., None],
    bands: tuple[Band, ...],
    arrays: Sequence[jax.Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    scratch: Sequence[Any],
    name: str,
) -> Sequence[jax.Array]:
    """Runs a kernel on every picture and head: `arrays` and `outputs` are [B, N, rows, columns], blocks the last two."""
    batch, heads = arrays[0].shape[:2]
    weights, value = arrays[1:3]
    queries = weights.shape[-1]

    def specs(arrays: Sequence[jax.Array | jax.ShapeDtypeStruct]) -> list[pl.BlockSpec]:
        # The third, going in or coming out, is of pixels, the others of queries; these may end within a block.
        lanes = [x.shape[-1] if index == 2 else _round_up(queries, LANES) for index, x in enumerate(arrays)]
        rows = [x.shape[2] for x in arrays]
        return [pl.BlockSpec((1, 1, *block), lambda b, n: (b, n, 0, 0)) for block in zip(rows, lanes, strict=True)]

    y_hats = (len(bands), weights.shape[2] // len(bands), _round_up(max(band.rows for band in bands), SUBLANES), LANES)
    flops = 2 * len(outputs[1:] or outputs) * math.prod(value.shape) * queries  # one product forward, two backward
    size = sum(math.prod(x.shape) * x.dtype.itemsize for group in (arrays, outputs) for x in group)
    return pl.pallas_call(
        functools.partial(kernel, bands=bands, queries=queries),
        grid=(batch, heads),
        in_specs=specs(arrays),
        out_specs=specs(outputs),
        out_shape=list(outputs),
        scratch_shapes=[pltpu.VMEM(y_hats, jnp.float32), *scratch],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(flops=flops, bytes_accessed=size, transcendentals=0),
        interpret=platform() != "tpu",
        name=name,
    )(*arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(
    value: jax.Array, locations: jax.Array, weights: jax.Array, bands: tuple[Band, ...], dtype: Any
) -> jax.Array:
    """out^T [B, N, H, Q] of one group of bands; arguments in the kernel's layout."""
    out = jax.ShapeDtypeStruct((*value.shape[:3], weights.shape[-1]), dtype)
    return _call(_forward_kernel, bands, [locations, weights, value], [out], [], "deformable_attention_forward")[0]


Saved = tuple[jax.Array, jax.Array, jax.Array]


def _attend_forward(
    value: jax.Array, locations: jax.Array, weights: jax.Array, bands: tuple[Band, ...], dtype: Any
) -> tuple[jax.Array, Saved]:
    return _attend(value, locations, weights, bands, dtype), (value, locations, weights)


def _attend_backward(bands: tuple[Band, ...], dtype: Any, saved: Saved, cotangent: jax.Array) -> Saved:
    value, locations, weights = saved
    width, pixels = value.shape[2:]
    scratch = [pltpu.VMEM((pixels, width), value.dtype), pltpu.VMEM((width, pixels), jnp.float32)]
    outputs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (locations, weights, value)]
    arrays = [locations, weights, value, cotangent]
    name = "deformable_attention_backward"
    d_locations, d_weights, d_value = _call(_backward_kernel, bands, arrays, outputs, scratch, name)
    return d_value, d_locations, d_weights


_attend.defvjp(_attend_forward, _attend_backward)
