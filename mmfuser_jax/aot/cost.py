"""What a compiled program does, counted from its text: matmul FLOPs, memory traffic, collectives, estimated cycles.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs; here it counts as often as it does.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from mmfuser_jax.aot.hlo import Execution, Instruction, Module, executions
from mmfuser_jax.aot.products import matmul_flops
from mmfuser_jax.aot.traffic import traffic

KERNELS = ("tpu_custom_call", "__gpu$xla.gpu.triton", "__cudnn$")
"""How targets of custom calls begin that are kernels written by hand."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a step, per chip.

    Attributes:
      count: how many run.
      received_bytes: what a chip must receive of the others, with every algorithm at least: (n-1)/n of the result of an
        all-gather or all-to-all among n chips, (n-1) results of a reduce-scatter, 2 (n-1)/n of an all-reduce (which is
        a reduce-scatter and an all-gather), the result of a permute.
      output_bytes: size of their results.
    """

    count: int
    received_bytes: float
    output_bytes: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """Per chip and step.

    Attributes:
      matmul_flops: of matrix products and convolutions.
      kernel_flops: of hand-written kernels, as far as they state them.
      hbm_bytes: read from and written to main memory. A slice of an array counts as the slice; what a kernel moves is its
        operands and results; what the compiler keeps in on-chip memory is free.
      collectives: by kind.
      estimated_cycles: the compiler's estimates, summed; it gives none for kernels and collectives.
      kernels: how many hand-written kernels run.
    """

    matmul_flops: float
    kernel_flops: float
    hbm_bytes: float
    collectives: Mapping[str, Collective]
    estimated_cycles: int
    kernels: int


def count_cost(module: Module, devices: int, *, trip_counts: bool = True) -> Cost:
    """Counts a program for one of `devices` chips; without `trip_counts`, every loop runs once."""
    products = kernel_flops = hbm_bytes = 0.0
    cycles = kernels = 0
    found: dict[tuple[str, str, str], tuple[int, float, float]] = {}
    for run in executions(module, trip_counts=trip_counts):
        products += run.times * matmul_flops(run.instruction, run.computation)
        if kind := _kind_where_it_runs(run):
            # Fused with computing, a collective is written down where it starts, goes on and ends, under one channel.
            channel = run.instruction.attribute(r"channel_id=(\d+)") if run.fused else None
            found[run.scope, kind, channel or run.instruction.name] = (run.times, *_volume(kind, run, devices))
        if run.fused:
            continue
        hbm_bytes += run.times * traffic(run, module)
        kernel_flops += run.times * _kernel_flops(run.instruction)
        kernels += run.times * run.instruction.label.startswith(KERNELS)
        cycles += run.times * int(run.instruction.attribute(r'"estimated_cycles":"(\d+)"') or 0)
    return Cost(products, kernel_flops, hbm_bytes, _by_kind(found), cycles, kernels)


def _by_kind(found: Mapping[tuple[str, str, str], tuple[int, float, float]]) -> dict[str, Collective]:
    kinds = sorted({kind for _, kind, _ in found})
    return {
        kind: Collective(
            count=sum(times for times, _, _ in rows),
            received_bytes=sum(times * received for times, received, _ in rows),
            output_bytes=sum(times * output for times, _, output in rows),
        )
        for kind in kinds
        for rows in [[row for (_, other, _), row in found.items() if other == kind]]
    }


def _kind_where_it_runs(run: Execution) -> str | None:
    """TPUs write a reduce-scatter as an all-reduce fused with taking the own part of it."""
    kind = run.instruction.collective
    scatters = kind == "all-reduce" and run.fused and any(x.opcode == "partition-id" for x in run.computation.values())
    return "reduce-scatter" if scatters else kind


def _volume(kind: str, run: Execution, devices: int) -> tuple[float, float]:
    """(received, output) bytes of one collective."""
    shapes = run.instruction.shapes
    if run.instruction.opcode.endswith("-start") and kind != "all-reduce":
        # (operands, results, …): of as many results as operands.
        count = len(run.instruction.operands)
        shapes = shapes[count : 2 * count] or shapes
    output = math.fsum(shape.bytes for shape in shapes)
    n = group_size(run.instruction.attributes, devices)
    if kind != run.instruction.collective:
        output /= n
    factor = {
        "all-reduce": 2 * (n - 1) / n,
        "reduce-scatter": n - 1,
        "collective-permute": 1,
        "collective-broadcast": 1,
    }.get(kind, (n - 1) / n)
    return factor * output, output


def group_size(attributes: str, devices: int) -> int:
    """Chips that a collective joins, from any of the three ways to write its groups."""
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes):
        return int(match[2])
    if match := re.search(r"replica_groups=mesh\[([^]]*)\] *\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'?([\w.]+)'?=(\d+)", match[1]))
        axes = re.findall(r"'([\w.]+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices


def _kernel_flops(instruction: Instruction) -> float:
    return float(instruction.attribute(r'"cost_estimate":\{"flops":"?(\d+)') or 0)
