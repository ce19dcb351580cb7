"""Published peaks of accelerators: what a step's time is bounded by, and what MFU is measured against."""

from __future__ import annotations

import dataclasses

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device: a chip, or one of the two cores of a TPU7x chip, which JAX shows as a device each.

    Attributes:
      name: family, as in topology names ("v5e").
      device_kinds: what `jax.Device.device_kind` says of it.
      flops: peak of bfloat16 matmuls with float32 sums, dense, FLOP/s.
      hbm_bandwidth: bytes/s.
      hbm_gib: memory a program can use, GiB: on TPUs what XLA's compiler says is available, a little under the label.
      link_bandwidth: bytes/s into the device over all its links to the others of a slice or node, one way.
      clock: Hz of the compiler's cycle estimates; None where it gives none or the clock is not published.
    """

    name: str
    device_kinds: tuple[str, ...]
    flops: float
    hbm_bandwidth: float
    hbm_gib: float
    link_bandwidth: float
    clock: float | None = None


CHIPS = (
    Chip("v4", ("TPU v4",), 275e12, 1200e9, 30.75, 300e9, 1.05e9),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 819e9, 15.75, 200e9, 1.503e9),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 2765e9, 95.73, 600e9, 1.75e9),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 1638e9, 31.24, 400e9),
    Chip("tpu7x", ("TPU7x",), 2307e12 / 2, 7380e9 / 2, 94.74, 600e9 / 2),
    Chip("a100", ("NVIDIA A100-SXM4-80GB",), 312e12, 2039e9, 79.1, 300e9),
    Chip("h100", ("NVIDIA H100 80GB HBM3",), 989e12, 3352e9, 79.1, 450e9),
    Chip("h200", ("NVIDIA H200",), 989e12, 4800e9, 139.8, 450e9),
)
"""Sources, per chip. TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x} (FLOP/s, HBM GB/s; links are half of the
"bidirectional ICI bandwidth per chip", for v4 six links of 50 GB/s, arXiv 2304.01433, table 4). Clocks: v4 the same paper
(1050 MHz), v5p jax-ml.github.io/scaling-book/tpus (1.75 GHz), v5e from its peak over four 128×128 MXUs. NVIDIA: the data
sheets of A100 80GB SXM, H100 SXM and H200 SXM (dense bfloat16, which is half of the figure "with sparsity"; NVLink is
half of its two-way figure); their memory is total bytes as the driver reports them."""


def find_chip(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None for CPUs and what the table does not hold."""
    return next((chip for chip in CHIPS if device_kind in chip.device_kinds), None)
