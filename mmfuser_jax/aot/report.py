"""One program compiled for one topology: whether it fits, what it does, and what that must take at least."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

from mmfuser_jax.aot import gpu
from mmfuser_jax.aot.cost import Cost, count_cost
from mmfuser_jax.aot.hlo import parse_module
from mmfuser_jax.aot.programs import Program
from mmfuser_jax.aot.topology import Topology
from mmfuser_jax.hardware import GIB
from mmfuser_jax.models.flops import total

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """GiB of a chip that must be there at once.

    Attributes:
      total: of everything below.
      arguments: parameters, optimizer state and batch; results take their place.
      results: that take the place of no argument.
      temporaries: activations, gradients, gathered weights, as the compiler packs them.
      code: the program.
    """

    total: float
    arguments: float
    results: float
    temporaries: float
    code: float


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Least time of a step, by what limits it, at the published peaks of the chip.

    Attributes:
      compute: all FLOPs at the peak of bfloat16: those of the model and of rematerialising by formula, or those of the
        compiled program where they are more.
      memory: all traffic of main memory.
      collectives: all bytes received over all links of a chip at once, as if inside one slice.
      bound: the largest, as if everything overlapped.
      without_overlap: their sum.
      estimate: the compiler's own estimate of what it can estimate (no kernels), and the collectives after it; None where
        it gives none.
    """

    compute: float
    memory: float | None
    collectives: float | None
    bound: float
    without_overlap: float
    estimate: float | None


@dataclasses.dataclass(frozen=True)
class Report:
    """A program on a topology; see the fields' types for units.

    Attributes:
      program: what was compiled.
      topology, mesh, remat: where, and how.
      fits: whether it does.
      memory: None where the compiler gave up first.
      needed_gib: the total, or what the compiler says that it would have needed; None where it does not say.
      limit_gib: what a program can use of a chip.
      cost: what the compiled program does; None where it does not fit, or its text cannot be had (`notes` says so).
      seconds: least time of a step; None where it does not fit.
      compile_seconds: tracing and compiling.
      digest: of the program before the compiler sees it, and of the compiler's flags.
      notes: what is missing, and why.
    """

    program: Program
    topology: Topology
    mesh: Mesh
    remat: str
    fits: bool
    memory: Memory | None
    needed_gib: float | None
    limit_gib: float
    cost: Cost | None
    seconds: Seconds | None
    compile_seconds: float
    digest: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        flops = {part: dataclasses.asdict(x) | {"model": x.model} for part, x in self.program.flops.items()}
        whole = total(self.program.flops)
        return {
            "program": self.program.name,
            "topology": self.topology.name,
            "chips": len(self.topology.devices),
            "mesh": dict(self.mesh.shape),
            "remat": self.remat,
            "batch": {"rows": self.program.rows, "length": self.program.slots, "images": self.program.images},
            "fits": self.fits,
            "memory_gib_per_chip": dataclasses.asdict(self.memory) if self.memory else None,
            "needed_gib": self.needed_gib,
            "limit_gib": self.limit_gib,
            "model_flops": {**flops, "total": dataclasses.asdict(whole) | {"model": whole.model}},
            "compiled": dataclasses.asdict(self.cost) if self.cost else None,
            "seconds": dataclasses.asdict(self.seconds) if self.seconds else None,
            "step_seconds_bound": self.seconds.bound if self.seconds else None,
            **self.rates(),
            "digest": self.digest,
            "compile_seconds": round(self.compile_seconds, 1),
            "notes": list(self.notes),
        }

    def rates(self) -> dict[str, float]:
        """What the bound allows: rows and tokens a second, and the MFU that it amounts to; nothing if it does not fit."""
        if self.seconds is None:
            return {}
        peak = self.topology.chip.flops * len(self.topology.devices)
        return {
            "samples_per_second_bound": self.program.rows / self.seconds.bound,
            "tokens_per_second_bound": self.program.tokens / self.seconds.bound,
            "mfu_bound": total(self.program.flops).model / (self.seconds.bound * peak),
        }


def compile_report(program: Program, topology: Topology, mesh: Mesh, remat: str) -> Report:
    """Compiles a program for a topology."""
    on_gpu = topology.devices[0].platform == "gpu"
    options: Any = gpu.OPTIONS if on_gpu else None
    notes = [gpu.NOTE] if on_gpu else []
    started, compiled, needed = time.monotonic(), None, None
    lowered = program.lower()
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = needed_gib(str(error))
    compile_seconds = time.monotonic() - started
    memory = _memory(compiled.memory_analysis()) if compiled else None
    fits = memory is not None and memory.total <= topology.chip.hbm_gib
    cost = None
    if compiled and fits:
        try:
            cost = count_cost(parse_module(compiled.as_text() or ""), len(topology.devices))
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0][:80]
            notes.append(f"the compiler cannot print this program ({reason}): no traffic counted")
    return Report(
        program=program,
        topology=topology,
        mesh=mesh,
        remat=remat,
        fits=fits,
        memory=memory,
        needed_gib=memory.total if memory else needed,
        limit_gib=topology.chip.hbm_gib,
        cost=cost,
        seconds=_seconds(program, topology, cost) if fits else None,
        compile_seconds=compile_seconds,
        digest=digest_of(lowered),
        notes=tuple(notes),
    )


def digest_of(lowered: jax.stages.Lowered) -> str:
    """What tells a program from another: its text, without where in the source it comes from, and the flags for TPUs."""
    return hashlib.sha256((lowered.as_text() + os.environ.get("LIBTPU_INIT_ARGS", "")).encode()).hexdigest()


def _memory(stats: Any) -> Memory:
    arguments, code = stats.argument_size_in_bytes / GIB, stats.generated_code_size_in_bytes / GIB
    results = (stats.output_size_in_bytes - stats.alias_size_in_bytes) / GIB
    temporaries = stats.temp_size_in_bytes / GIB
    return Memory(arguments + results + temporaries + code, arguments, results, temporaries, code)


def needed_gib(message: str) -> float | None:
    """What a program would have needed, from the error of a compiler that ran out of memory; None if it does not say.

    XLA says "Used 22.48G of 15.75G hbm" or "the total memory required for HLO temporaries (22.48G) exceeds", in which
    arguments are counted too.
    """
    match = re.search(r"Used ([\d.]+)([KMGT]) of|required for [\w ]+ \(([\d.]+)([KMGT])\) exceeds", message)
    if match is None:
        return None
    return float(match[1] or match[3]) * UNITS[match[2] or match[4]] / GIB


def _seconds(program: Program, topology: Topology, cost: Cost | None) -> Seconds:
    chip, whole = topology.chip, total(program.flops)
    flops = (whole.model + whole.recomputed) / len(topology.devices)
    if cost is None:
        compute = flops / chip.flops
        return Seconds(compute, None, None, compute, compute, None)
    compute = max(flops, cost.matmul_flops) / chip.flops
    memory = cost.hbm_bytes / chip.hbm_bandwidth
    collectives = sum(x.received_bytes for x in cost.collectives.values()) / chip.link_bandwidth
    bounds = (compute, memory, collectives)
    estimate = cost.estimated_cycles / chip.clock + collectives if chip.clock and cost.estimated_cycles else None
    return Seconds(compute, memory, collectives, max(bounds), sum(bounds), estimate)
