"""CLIP's vision transformer (arXiv 2103.00020), returning the hidden states that were asked for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from mmfuser_jax.models.layers import DType, Stack, dense, layer_norm
from mmfuser_jax.ops.attention import attention
from mmfuser_jax.sharding import constrain, named
from mmfuser_jax.types import Array


@dataclasses.dataclass(frozen=True)
class ClipVitConfig:
    """Shape of the vision encoder; names follow the axis letters of `types.py`.

    Attributes:
      width: D.
      depth: L of the checkpoint. Layers after the last hidden state that anyone reads are neither kept nor computed.
      heads: N; D must divide by it.
      mlp_width: M.
      image_size: height and width in pixels; must divide by `patch_size`.
      patch_size: height and width of a patch in pixels.
      norm_epsilon: of every LayerNorm.
      scan_layers: parameter layout, see `layers.Stack`.
    """

    width: int
    depth: int
    heads: int
    mlp_width: int
    image_size: int
    patch_size: int
    norm_epsilon: float = 1e-5
    scan_layers: bool = False

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} does not divide by patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"vision width {self.width} does not divide by {self.heads} heads")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def patches(self) -> int:
        """P, patches of one image (without the class token)."""
        return self.grid[0] * self.grid[1]

    def state_index(self, layer: int) -> int:
        """Non-negative hidden-state index of `layer`: 0 is the embedding, k the output of layer k, -1 the last.

        Raises:
          ValueError: there is no such hidden state.
        """
        index = layer + self.depth + 1 if layer < 0 else layer
        if not 0 <= index <= self.depth:
            raise ValueError(f"hidden state {layer} of a vision encoder with {self.depth} layers does not exist")
        return index


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x), CLIP's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    """Pre-LayerNorm transformer block with quick_gelu; sees all patches, no mask."""

    config: ClipVitConfig
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[jax.Array, "n P D"], _: None) -> tuple[jax.Array, jax.Array]:
        """Returns the new hidden state twice: to carry on, and to keep."""
        config = self.config
        head_width = config.width // config.heads
        h = layer_norm(config.norm_epsilon, name="norm1", dtype=self.dtype)(x)
        query, key, value = (
            dense((config.heads, head_width), ("embed", "heads", "head_dim"), name=name, dtype=self.dtype)(h)
            for name in ("query", "key", "value")
        )
        h = attention(query, key, value)
        x = x + dense(config.width, ("heads", "head_dim", "embed"), in_dims=2, name="out", dtype=self.dtype)(h)
        h = layer_norm(config.norm_epsilon, name="norm2", dtype=self.dtype)(x)
        h = quick_gelu(dense(config.mlp_width, ("embed", "mlp"), name="mlp_in", dtype=self.dtype)(h))
        h = constrain(h, "batch", "patches", "activation_mlp")
        x = x + dense(config.width, ("mlp", "embed"), name="mlp_out", dtype=self.dtype)(h)
        x = constrain(x, "batch", "patches", "activation_embed")
        return x, x


class ClipVit(nn.Module):
    """Patches + class token + learned positions → LayerNorm → blocks. The final LayerNorm of CLIP is never used.

    Attributes:
      config: shape.
      depth: blocks to build, at most config.depth: up to the deepest hidden state that will be asked for.
      keep_class: hidden states keep the class token in front of the patches.
      dtype: compute dtype; fresh parameters are float32.
      remat: key of `layers.REMAT_POLICIES`.
    """

    config: ClipVitConfig
    depth: int
    keep_class: bool = False
    dtype: DType = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "n height width 3"], *, states: Sequence[int]
    ) -> tuple[Float[jax.Array, "n P D"], ...]:
        """Hidden states of normalised pixels.

        Args:
          pixels: float[n, image_size, image_size, 3], normalised.
          states: non-negative indices: 0 is the embedding after the pre-LayerNorm, k the output of layer k.
        """
        config = self.config
        x = self._embed(pixels.astype(self.dtype))
        block = functools.partial(ClipBlock, config, self.dtype)
        _, outputs = Stack(block, self.depth, config.scan_layers, self.remat, name="encoder")(x, None)
        first = 0 if self.keep_class else 1
        return tuple((x if index == 0 else outputs[index - 1])[:, first:] for index in states)

    def _embed(self, pixels: Array) -> jax.Array:
        config = self.config
        count, (rows, columns), size = pixels.shape[0], config.grid, config.patch_size
        patches = pixels.reshape(count, rows, size, columns, size, 3).transpose(0, 1, 3, 2, 4, 5)
        x = dense(config.width, ("patch_pixels", "embed"), use_bias=False, name="patch_embedding", dtype=self.dtype)(
            patches.reshape(count, rows * columns, size * size * 3)
        )
        small = nn.initializers.normal(0.02)
        cls = self.param("class_embedding", named(small, "embed"), (config.width,))
        positions = self.param(
            "position_embedding", named(small, "patch_positions", "embed"), (config.patches + 1, config.width)
        )
        cls = jnp.broadcast_to(cls.astype(self.dtype), (count, 1, config.width))
        x = jnp.concatenate([cls, x], axis=1) + positions.astype(self.dtype)[None]
        return layer_norm(config.norm_epsilon, name="pre_norm", dtype=self.dtype)(x)
