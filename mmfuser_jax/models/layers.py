"""The few layers that every module shares: named dense layers, norms, and a stack of equal blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmfuser_jax.models.lora import LoraConfig, LoraDense
from mmfuser_jax.models.quantized import QuantizedDense
from mmfuser_jax.ops.attention import RESIDUAL
from mmfuser_jax.ops.product import dense_product
from mmfuser_jax.sharding import named

DType = Any
Initializer = Callable[..., jax.Array]

REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(RESIDUAL),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What a rematerialised block keeps for its backward pass: everything, nothing, the outputs of its attention (which
spare the attention kernel of a TPU a second run), or the outputs of its matmuls."""


def dense(
    features: int | tuple[int, ...],
    axes: Sequence[str],
    *,
    name: str,
    dtype: DType,
    in_dims: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    lora: LoraConfig | None = None,
    quantize: str = "",
) -> nn.DenseGeneral | QuantizedDense | LoraDense:
    """A dense layer over the last `in_dims` axes; `axes` names the kernel's axes, inputs first, then `features`.

    Parameters are float32, computing happens in `dtype`. Default initialisation: LeCun normal and zero bias. A layer that
    `lora` names gets an adapter. With `quantize`, a format of `quantized.FORMATS`, the kernel is kept in codes.

    Raises:
      ValueError: a quantised layer with a bias.
    """
    adapted = lora is not None and name in lora.targets
    place: Any = {"parent": None} if adapted else {"name": name}
    axis, init = tuple(range(-in_dims, 0)), kernel_init or nn.initializers.lecun_normal()
    layer: nn.DenseGeneral | QuantizedDense
    if quantize:
        if use_bias:
            raise ValueError(f"{name}: a quantised layer has no bias")
        outputs = (features,) if isinstance(features, int) else features
        layer = QuantizedDense(outputs, axis, tuple(axes), quantize, dtype, init, **place)
    else:
        layer = nn.DenseGeneral(
            features=features,
            axis=axis,
            use_bias=use_bias,
            dtype=dtype,
            dot_general=dense_product,
            kernel_init=named(init, *axes),
            bias_init=named(bias_init or nn.initializers.zeros_init(), *axes[in_dims:]),
            **place,
        )
    return LoraDense(layer, tuple(axes), lora, name=name) if lora is not None and adapted else layer


def layer_norm(epsilon: float, *, name: str, dtype: DType) -> nn.LayerNorm:
    """LayerNorm over the width; statistics in float32 by the two-pass formula, which is what parity needs."""
    return nn.LayerNorm(
        epsilon=epsilon,
        dtype=dtype,
        use_fast_variance=False,
        scale_init=named(nn.initializers.ones_init(), "norm"),
        bias_init=named(nn.initializers.zeros_init(), "norm"),
        name=name,
    )


def rms_norm(epsilon: float, *, name: str, dtype: DType) -> nn.RMSNorm:
    """RMSNorm over the width (arXiv 1910.07467); statistics in float32."""
    return nn.RMSNorm(epsilon=epsilon, dtype=dtype, scale_init=named(nn.initializers.ones_init(), "norm"), name=name)


class Stack(nn.Module):
    """`depth` equal blocks, unrolled (`layers_0`, `layers_1`, …) or scanned (`layers`, stacked on a leading axis).

    A block maps (carry, per-layer input, *broadcast inputs) to (carry, per-layer output). Scanning compiles one block
    whatever the depth; unrolled layers can be named one by one.

    Attributes:
      make_block: builds one block from a name.
      depth: number of blocks.
      scan: stack the parameters and scan over them.
      remat: key of REMAT_POLICIES.
    """

    make_block: Callable[..., nn.Module]
    depth: int
    scan: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, carry: Any, per_layer: Any, *broadcast: Any) -> tuple[Any, Any]:
        """Returns the last carry and the outputs, indexable by layer: a tuple, or arrays with a leading axis L.

        Unrolled outputs are not stacked: the copies would cost more than a small model's layers.
        """
        block = self.make_block
        if self.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[self.remat], prevent_cse=not self.scan)
        if self.scan:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, *[nn.broadcast] * len(broadcast)),
                length=self.depth,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            return scanned(name="layers")(carry, per_layer, *broadcast)
        outputs = []
        for layer in range(self.depth):
            here = jax.tree.map(lambda x, layer=layer: x[layer], per_layer)
            carry, output = block(name=f"layers_{layer}")(carry, here, *broadcast)
            outputs.append(output)
        return carry, tuple(outputs)


def stack_outputs(outputs: Any) -> Any:
    """Outputs of a Stack with a leading axis L in either layout."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs) if isinstance(outputs[0], tuple) else outputs
