"""MMFuser (arXiv 2410.11829, section 3.2): a deep ViT layer queries shallow layers for the detail it lost."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from mmfuser_jax.models.layers import DType, dense, layer_norm
from mmfuser_jax.ops.deformable_attention import deformable_attention
from mmfuser_jax.sharding import constrain, named

Grid = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class FuserConfig:
    """Shape of the fuser. Its width is the vision encoder's.

    Attributes:
      key_layers: hidden states of the vision encoder that serve as keys and values, shallow to deep, one per level;
        negative counts from the end. The reference uses (3, 8, 13, 18) of ViT-L under query layer -2.
      heads: N of both deformable attentions.
      points: K sampled per head and level.
      norm_epsilon: of every LayerNorm.
      impl: deformable attention implementation, see `ops.deformable_attention`.
    """

    key_layers: tuple[int, ...]
    heads: int = 16
    points: int = 4
    norm_epsilon: float = 1e-6
    impl: str = "auto"

    def __post_init__(self) -> None:
        if not self.key_layers:
            raise ValueError("a fuser needs at least one key layer; for LLaVA-1.5 leave the fuser out (None)")
        if self.heads < 1 or self.points < 1:
            raise ValueError(f"fuser heads {self.heads} and points {self.points} must be positive")


def pixel_centres(grid: Grid) -> np.ndarray:
    """float32[Q, 2]: (x, y) centres of a (rows, columns) grid in [0, 1], row-major: the reference points."""
    rows, columns = grid
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=-1).astype(np.float32)


def ring_offsets(heads: int, levels: int, points: int) -> np.ndarray:
    """float32[N*F*K*2], initial sampling offsets in pixels: head n looks along angle 2πn/N, point k at distance k+1.

    Directions have unit max-norm, so that points lie on square rings, alike on every level (Deformable DETR).
    """
    angle = np.arange(heads) * (2 * math.pi / heads)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction /= np.abs(direction).max(axis=-1, keepdims=True)
    distance = np.arange(1, points + 1)
    offsets = direction[:, None, None, :] * distance[None, None, :, None]
    return np.broadcast_to(offsets, (heads, levels, points, 2)).astype(np.float32).ravel()


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention: offsets and weights come from the query alone, not from query-key products.

    Attributes:
      levels: F; heads: N; points: K.
      impl: see `ops.deformable_attention`.
      dtype: of the dense layers; for the precision of sampling, see `ops.deformable_attention`.
    """

    levels: int
    heads: int
    points: int
    impl: str = "auto"
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: Float[jax.Array, "n Q D"],
        value: Float[jax.Array, "n S D"],
        *,
        query_grid: Grid,
        value_grids: tuple[Grid, ...],
    ) -> Float[jax.Array, "n Q D"]:
        """Lets every query sample `value`, whose levels are concatenated along S, around its own place in the picture.

        The softmax runs over levels and points jointly. An offset of one is one pixel of the level sampled.
        """
        count, queries, width = query.shape
        shape = (count, queries, self.heads, self.levels, self.points)
        samples = self.heads * self.levels * self.points
        xavier, zeros = nn.initializers.xavier_uniform(), nn.initializers.zeros_init()
        ring = ring_offsets(self.heads, self.levels, self.points)

        value = dense(width, ("embed", "embed_out"), name="value", kernel_init=xavier, dtype=self.dtype)(value)
        offsets = dense(
            samples * 2, ("embed", "sampling"), name="sampling_offsets", dtype=self.dtype,
            kernel_init=zeros, bias_init=lambda *_: jnp.asarray(ring),
        )(query)  # fmt: skip
        weights = dense(samples, ("embed", "sampling"), name="attention_weights", kernel_init=zeros, dtype=self.dtype)(
            query
        )
        weights = jax.nn.softmax(weights.astype(jnp.float32).reshape(*shape[:3], -1)).reshape(shape)

        pixels = np.asarray([(columns, rows) for rows, columns in value_grids], np.float32)
        offsets = offsets.astype(jnp.float32).reshape(*shape, 2) / pixels[None, None, None, :, None]
        locations = pixel_centres(query_grid)[None, :, None, None, None] + offsets
        value = value.reshape(count, -1, self.heads, width // self.heads)
        out = deformable_attention(value, value_grids, locations, weights, impl=self.impl)
        return dense(width, ("embed", "embed_out"), name="out", kernel_init=xavier, dtype=self.dtype)(out)


class Fuser(nn.Module):
    """query + gamma1 * (cross + gamma2 * self), where cross samples the shallow levels and self refines the result.

    Both gammas start at 0, so that a fresh fuser is the identity on the query. The residual is the query before its
    LayerNorm, and one LayerNorm serves all levels, as in the reference.

    Attributes:
      config: shape.
      dtype: compute dtype; fresh parameters are float32.
    """

    config: FuserConfig
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: Float[jax.Array, "n Q D"],
        levels: tuple[Float[jax.Array, "n _ _"], ...],
        *,
        query_grid: Grid,
        level_grids: tuple[Grid, ...],
    ) -> Float[jax.Array, "n Q D"]:
        """Fused features, at the place and width of the query.

        Args:
          query: the deep layer's patches.
          levels: the shallow layers' patches, one array per key layer; grids may differ in size and need not be square.
          query_grid: (rows, columns) of the query.
          level_grids: (rows, columns) of every level.

        Raises:
          ValueError: grids, levels and widths do not fit together.
        """
        config = self.config
        _check_levels(config, query, levels, query_grid, level_grids)
        width = query.shape[-1]

        def attend(name: str, count: int) -> DeformableAttention:
            return DeformableAttention(count, config.heads, config.points, config.impl, self.dtype, name=name)

        def norm(name: str) -> nn.LayerNorm:
            return layer_norm(config.norm_epsilon, name=name, dtype=self.dtype)

        features = norm("feature_norm")(jnp.concatenate(levels, axis=1))
        cross = attend("cross_attention", len(levels))(
            norm("query_norm")(query), features, query_grid=query_grid, value_grids=level_grids
        )
        normed = norm("self_norm")(cross)
        refined = attend("self_attention", 1)(normed, normed, query_grid=query_grid, value_grids=(query_grid,))
        gamma1, gamma2 = (
            self.param(name, named(nn.initializers.zeros_init(), "norm"), (width,)).astype(self.dtype)[None, None]
            for name in ("gamma1", "gamma2")
        )
        return constrain(query + gamma1 * (cross + gamma2 * refined), "batch", "patches", "activation_embed")


def _check_levels(
    config: FuserConfig,
    query: jax.Array,
    levels: tuple[jax.Array, ...],
    query_grid: Grid,
    level_grids: tuple[Grid, ...],
) -> None:
    if query.shape[-1] % config.heads:
        raise ValueError(f"fuser width {query.shape[-1]} does not divide by {config.heads} heads")
    if not len(levels) == len(level_grids) == len(config.key_layers):
        raise ValueError(
            f"fuser with {len(config.key_layers)} key layers got {len(levels)} levels and {len(level_grids)} grids"
        )
    names = ["query", *(f"level {index}" for index in range(len(levels)))]
    for name, x, (rows, columns) in zip(names, (query, *levels), (query_grid, *level_grids), strict=True):
        if x.shape[1] != rows * columns:
            raise ValueError(f"{name} has {x.shape[1]} patches, its grid {rows}x{columns} needs {rows * columns}")
        if x.shape[-1] != query.shape[-1]:
            raise ValueError(f"{name} is {x.shape[-1]} wide, the query {query.shape[-1]}")
