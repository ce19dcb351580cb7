"""FLOPs of the matrix products of a compiled program, each multiplication and each addition as one."""

from __future__ import annotations

import functools
import math
import re

import numpy as np

from mmfuser_jax.aot.hlo import Computation, Instruction


def matmul_flops(instruction: Instruction, computation: Computation) -> float:
    """FLOPs of a product or convolution, each multiplication and each addition as one; 0 for anything else."""
    if instruction.opcode == "dot":
        lhs = computation[instruction.operands[0]].shapes[0]
        contracted = _numbers(instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}"))
        return 2.0 * instruction.shapes[0].elements * math.prod(lhs.dims[i] for i in contracted)
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, computation)
    if '"gemm_backend_config"' in instruction.attributes:  # cuBLAS
        lhs = computation[instruction.operands[0]].shapes[0]
        contracted = re.findall(r"\d+", instruction.attribute(r'"lhs_contracting_dimensions":\[([^]]*)\]') or "")
        return 2.0 * instruction.shapes[0].elements * math.prod(lhs.dims[int(i)] for i in contracted)
    return 0.0


def _numbers(text: str | None) -> list[int]:
    return [int(x) for x in (text or "").split(",") if x]


def _convolution_flops(instruction: Instruction, computation: Computation) -> float:
    """As XLA counts: products with padding are none. TPUs write all matmuls as convolutions, heads as spatial windows."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels is not None
    lhs, rhs = (computation[name].shapes[0] for name in instruction.operands[:2])
    out = instruction.shapes[0]
    window = instruction.attribute(r"window=\{([^}]*)\}") or ""
    spatial = sorted(label for label in labels[1] if label.isdigit())
    fields = {key: value.split("x") for key, value in re.findall(r"(\w+)=([\w\-]+)", window)}
    products = 1.0
    for i, label in enumerate(spatial):
        low = int(fields["pad"][i].split("_")[0]) if "pad" in fields else 0
        stride, base, dilation = (
            int(fields[k][i]) if k in fields else 1 for k in ("stride", "lhs_dilate", "rhs_dilate")
        )
        sizes = (lhs.dims[labels[1].index(label)], rhs.dims[labels[2].index(label)], out.dims[labels[3].index(label)])
        products *= _valid_positions(*sizes, low, stride, base, dilation)
    batch, features = lhs.dims[labels[1].index("b")], lhs.dims[labels[1].index("f")]
    groups = [int(instruction.attribute(rf"{name}_group_count=(\d+)") or 1) for name in ("batch", "feature")]
    return 2.0 * products * (batch / groups[0]) * (features / groups[1]) * out.dims[labels[3].index("f")]


@functools.lru_cache
def _valid_positions(size: int, kernel: int, out: int, low: int, stride: int, base: int, dilation: int) -> int:
    """Pairs of a kernel and an output position that meet an element of the input, along one spatial axis."""
    position = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * dilation - low
    return int(((position >= 0) & (position < (size - 1) * base + 1) & (position % base == 0)).sum())
