"""Low-rank adapters beside the dense layers of the language model (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from mmfuser_jax.models.quantized import QuantizedDense
from mmfuser_jax.ops.product import product
from mmfuser_jax.sharding import named
from mmfuser_jax.types import Array

TARGETS = ("query", "key", "value", "out", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which dense layers of a decoder block get adapters, and of what size.

    Attributes:
      rank: inner width.
      alpha: the adapter's output is scaled by alpha / rank.
      dropout: share of inputs that an adapter does not see in a training step.
      targets: names of the layers.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA rank {self.rank} must be positive, dropout {self.dropout} in [0, 1)")
        if unknown := set(self.targets) - set(TARGETS):
            raise ValueError(f"LoRA targets {sorted(unknown)} are not among {', '.join(TARGETS)}")


class LoraDense(nn.Module):
    """x W + (alpha / rank) x A B: a dense layer whose kernel usually stays frozen while A and B train.

    A starts like PyTorch's `kaiming_uniform_(a=sqrt(5))`, B at zero, as in PEFT, so that a fresh adapter adds nothing.

    Attributes:
      base: the layer; its kernel keeps its name and place.
      axes: logical names of the kernel's axes.
      lora: sizes.
    """

    base: nn.DenseGeneral | QuantizedDense
    axes: tuple[str, ...]
    lora: LoraConfig

    def setup(self) -> None:
        nn.share_scope(self, self.base)

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        """The layer's output, adapter included; drops inputs only where a "dropout" key is given."""
        base, lora = self.base(x), self.lora
        inner_dims = np.size(self.base.axis)
        inputs, outputs = x.shape[-inner_dims:], base.shape[x.ndim - inner_dims :]
        uniform = nn.initializers.variance_scaling(
            1 / 3, "fan_in", "uniform", in_axis=range(len(inputs)), out_axis=-1
        )  # of 1 / sqrt(inputs) at most
        down_axes, up_axes = (*self.axes[: len(inputs)], "lora_rank"), ("lora_rank", *self.axes[len(inputs) :])
        down = self.param("lora_a", named(uniform, *down_axes), (*inputs, lora.rank))
        up = self.param("lora_b", named(nn.initializers.zeros_init(), *up_axes), (lora.rank, *outputs))
        x = nn.Dropout(lora.dropout, deterministic=not self.has_rng("dropout"))(x.astype(base.dtype))
        inner = product(x, down.astype(base.dtype), len(inputs))
        return base + product(inner, up.astype(base.dtype)) * (lora.alpha / lora.rank)


def merged(kernel: Any, down: Any, up: Any, lora: LoraConfig) -> Any:
    """The kernel that does alone what it does with its adapter: W + (alpha / rank) A B."""
    inner = down.reshape(-1, lora.rank) @ up.reshape(lora.rank, math.prod(up.shape[1:]))
    return kernel + (lora.alpha / lora.rank) * inner.reshape(kernel.shape)
