"""Frozen kernels in 8 or 4 bits, for adapters to train beside (QLoRA, arXiv 2305.14314). Numerics by qwix."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import qwix
from flax import linen as nn
from jaxtyping import Float

from mmfuser_jax.ops.product import product
from mmfuser_jax.sharding import constrain, named
from mmfuser_jax.types import Array

BLOCK = 64
"""Weights that share a scale, at most: consecutive inputs of one output, as in QLoRA."""

FORMATS = ("int8", "int4", "nf4")
"""Evenly spaced values in 8 or 4 bits, or the 4-bit quantiles of a normal distribution (NormalFloat)."""

PACKED = ("int4", "nf4")
"""Formats of which two codes share a byte. Arrays of 4-bit dtypes take a byte a code on CPUs, in NumPy and on disk."""

KERNEL = re.compile(rf"(.*/kernel)/({'|'.join(FORMATS)}|scales)")
"""Parameters that a quantised kernel consists of: its codes, under the name of their format, and its scales."""

Codes = dict[str, jax.Array]
"""{format: codes, "scales": scales} of a kernel [in, out]: int8[in, out] or uint8[in / 2, out], float32[in / block, out]."""


def block_size(inputs: int) -> int:
    """The largest block of at most BLOCK weights that `inputs` consist of."""
    return max(size for size in range(1, BLOCK + 1) if inputs % size == 0)


def quantize(kernel: Float[Array, "inputs outputs"], kind: str) -> Codes:
    """The nearest codes of a kernel, scaled block by block to its largest weight.

    Args:
      kernel: any floating point dtype; worked on in float32.
      kind: one of FORMATS.

    Raises:
      ValueError: two inputs share a byte, and their number is odd.
    """
    inputs = kernel.shape[0]
    if kind in PACKED and inputs % 2:
        raise ValueError(f"{kind} packs pairs of inputs, {inputs} are odd")
    tiles = {0: block_size(inputs)}
    array = _by_columns(lambda x: qwix.quantize(x, kind, tiled_axes=tiles))(jnp.asarray(kernel, jnp.float32))
    codes = array.qvalue
    if kind in PACKED:
        low, high = (codes[half::2].astype(jnp.uint8) & 15 for half in (0, 1))
        codes = low | high << 4
    return {kind: codes, "scales": array.scale}


def dequantize(stored: Codes, kind: str) -> Float[jax.Array, "inputs outputs"]:
    """float32 kernel of codes and scales: the inverse of `quantize` up to its rounding."""
    codes, scales = stored[kind], stored["scales"]
    if kind in PACKED:
        codes = jnp.stack([codes & 15, codes >> 4], axis=1).reshape(-1, codes.shape[-1])
    if kind == "int4":  # two's complement
        codes = codes.astype(jnp.int8) - ((codes & 8) << 1).astype(jnp.int8)
    return _by_columns(lambda x, scale: qwix.dequantize(qwix.QArray(x, scale, qtype=kind)))(codes, scales)


def _by_columns(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of every output's weights. Of a whole matrix qwix makes one vector, which devices cannot share."""
    return jax.vmap(function, in_axes=1, out_axes=1)


def weights(path: str, shape: tuple[int, ...]) -> int:
    """How many weights a parameter stands for: of two packed codes both, and none of scales."""
    match = KERNEL.fullmatch(path)
    kind = match[2] if match else ""
    return 0 if kind == "scales" else math.prod(shape) * (2 if kind in PACKED else 1)


class QuantizedDense(nn.Module):
    """A dense layer without bias over a kernel in codes, which is turned back into numbers where it multiplies.

    The backward pass does so again: what it keeps of the kernel are the codes, whatever blocks remember.

    Attributes:
      features: output shape.
      axis: of the inputs, the last ones.
      axes: logical names of the kernel's axes, inputs first.
      kind: one of FORMATS.
      dtype: to compute in.
      kernel_init: of a fresh kernel, which is then quantised.
    """

    features: tuple[int, ...]
    axis: tuple[int, ...]
    axes: tuple[str, ...]
    kind: str
    dtype: Any
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        """The layer's output, in the compute dtype."""
        in_dims = len(self.axis)
        inputs = x.shape[x.ndim - in_dims :]
        rows, columns = self.axes[0], self.axes[in_dims]  # of axes that are one here, the first is spread over devices

        def init(key: jax.Array) -> Any:
            made = quantize(self.kernel_init(key, (math.prod(inputs), math.prod(self.features))), self.kind)
            # Scales are spread by their outputs, which divide over devices where blocks need not: 13B is 80 blocks wide.
            places = {self.kind: (rows, columns), "scales": (None, "embed")}
            return {name: named(lambda: x, *places[name])() for name, x in made.items()}  # noqa: B023 (called here)

        def multiply(x: jax.Array, stored: Codes) -> jax.Array:
            # What fsdp spreads is gathered in codes, a quarter of the bytes or less.
            rest = [None if name == "embed" else name for name in (rows, columns)]
            stored = {name: constrain(x, None if name == "scales" else rest[0], rest[1]) for name, x in stored.items()}
            kernel = dequantize(stored, self.kind).astype(self.dtype)
            return product(x, kernel.reshape(*inputs, *self.features), in_dims)

        return jax.checkpoint(multiply)(jnp.asarray(x, self.dtype), self.param("kernel", init))
