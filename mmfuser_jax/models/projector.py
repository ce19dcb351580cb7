"""LLaVA's projector: an MLP from the vision width to the language model's width."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from mmfuser_jax.models.layers import DType, dense


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """Kind of projector, by LLaVA's names.

    Attributes:
      kind: "linear", "mlpNx_gelu" (N dense layers with exact GELU between them), or "identity".
    """

    kind: str = "mlp2x_gelu"

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "identity") and not re.fullmatch(r"mlp[1-9]\d*x_gelu", self.kind):
            raise ValueError(f"projector kind {self.kind!r} is not linear, identity or mlpNx_gelu")

    @property
    def depth(self) -> int:
        """Number of dense layers."""
        match = re.fullmatch(r"mlp(\d+)x_gelu", self.kind)
        return int(match[1]) if match else int(self.kind == "linear")


class Projector(nn.Module):
    """`depth` dense layers (`layers_0`, …) with exact (erf) GELU between them.

    Attributes:
      config: kind.
      width: output width, the language model's.
      dtype: compute dtype; fresh parameters are float32.
    """

    config: ProjectorConfig
    width: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "n P D"]) -> Float[jax.Array, "n P E"]:
        """Patches at the language model's width.

        Raises:
          ValueError: an identity projector between different widths.
        """
        if self.config.depth == 0 and x.shape[-1] != self.width:
            raise ValueError(f"identity projector from width {x.shape[-1]} to {self.width}")
        for layer in range(self.config.depth):
            if layer:
                x = jax.nn.gelu(x, approximate=False)
            axes = ("embed", "embed_out") if layer % 2 == 0 else ("embed_out", "embed")
            x = dense(self.width, axes, name=f"layers_{layer}", dtype=self.dtype)(x)
        return x.astype(self.dtype)
