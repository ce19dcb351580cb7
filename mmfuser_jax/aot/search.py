"""Looking for a way to run that fits: what blocks compute again, how devices are arranged, in how many parts a batch goes."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmfuser_jax.aot.programs import train_program
from mmfuser_jax.aot.report import Report, compile_report
from mmfuser_jax.aot.topology import Topology, topology_mesh
from mmfuser_jax.sharding import ShardingError, batch_devices
from mmfuser_jax.train.config import RunConfig, Stage

LOG = logging.getLogger(__name__)

BY_SPEED = ("none", "dots", "attention", "full")
"""Keys of `layers.REMAT_POLICIES`: each computes more again, and keeps less, than those before it."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to run a stage.

    Attributes:
      mesh: sizes of its axes, (name, size).
      remat: key of `layers.REMAT_POLICIES`.
      accumulate: parts of a batch.
    """

    mesh: tuple[tuple[str, int], ...]
    remat: str
    accumulate: int

    def flags(self, stage: str) -> str:
        """What to add to a command for it."""
        sizes = " ".join(f"--config.mesh.{axis}={size}" for axis, size in self.mesh if axis != "sequence" or size != 1)
        parts = f" --config.stages.{stage}.accumulate={self.accumulate}" if self.accumulate > 1 else ""
        return f"--config.remat={self.remat} {sizes}{parts}"


Found = list[tuple[Choice, Report]]


def given(run: RunConfig, stage: Stage, topology: Topology) -> Choice:
    """What the config says.

    Raises:
      ShardingError: its mesh does not cover the devices.
    """
    return Choice(tuple(topology_mesh(topology, run.mesh).shape.items()), run.remat, stage.accumulate)


def compile_choice(run: RunConfig, stage: Stage, topology: Topology, choice: Choice) -> Report:
    """Compiles the step of a stage.

    Raises:
      ShardingError: the mesh does not cover the devices, or something does not divide over it.
    """
    run, stage = dataclasses.replace(run, remat=choice.remat), dataclasses.replace(stage, accumulate=choice.accumulate)
    mesh = topology_mesh(topology, dict(choice.mesh))
    return compile_report(train_program(run, stage, mesh), topology, mesh, choice.remat)


def recommend(run: RunConfig, stage: Stage, topology: Topology, known: Report) -> Found:
    """Compiles alternatives to the config, whose report is `known`; those that fit, fastest first by their bounds.

    For every arrangement of the devices the least memory is asked for first. Where that fits, keeping more is tried,
    fastest first; where not, smaller parts of the batch.
    """
    tried: dict[Choice, Report | None] = {given(run, stage, topology): known}

    def fits(choice: Choice) -> bool:
        if choice not in tried:
            tried[choice] = _try(run, stage, topology, choice)
        report = tried[choice]
        return report is not None and report.fits

    for mesh in arrangements(run.mesh, topology):
        least = Choice(mesh, BY_SPEED[-1], stage.accumulate)
        if fits(least):
            next((remat for remat in BY_SPEED[:-1] if fits(dataclasses.replace(least, remat=remat))), None)
        elif report := tried[least]:
            rows = stage.batch_size // batch_devices(topology_mesh(topology, dict(mesh)))
            # n parts take no less than an n-th of the memory: fewer than this cannot fit.
            fewest = (report.needed_gib or 0) / report.limit_gib
            parts = (2**n * stage.accumulate for n in range(1, rows.bit_length()) if 2**n >= fewest)
            next((n for n in parts if fits(dataclasses.replace(least, accumulate=n))), None)
    fitting = [(choice, report) for choice, report in tried.items() if report is not None and report.fits]
    return sorted(fitting, key=lambda found: _order(*found))


def _try(run: RunConfig, stage: Stage, topology: Topology, choice: Choice) -> Report | None:
    """Compiles and tells; None where something does not divide."""
    try:
        report = compile_choice(run, stage, topology, choice)
    except ShardingError as error:
        LOG.info("%s: %s", choice.flags(stage.name), error)
        return None
    LOG.info("%s: %s", choice.flags(stage.name), outcome(report))
    return report


def _order(choice: Choice, report: Report) -> Any:
    """Fastest first; among equals, the least computed again, in the fewest parts."""
    bound = report.seconds.bound if report.seconds else math.inf
    return round(bound, 4), BY_SPEED.index(choice.remat), choice.accumulate


def arrangements(sizes: Mapping[str, int], topology: Topology) -> Iterator[tuple[tuple[str, int], ...]]:
    """The given mesh, then parameters spread over everything, over halves, and with the matrices themselves split."""
    yield tuple(topology_mesh(topology, sizes).shape.items())
    inside = len(topology.devices) // topology.slices
    for data, tensor in ((1, 1), (2, 1), (1, 2), (1, 4), (1, 8)):
        if inside % (data * tensor) == 0:
            mesh = {"data": data * topology.slices, "fsdp": inside // (data * tensor), "tensor": tensor, "sequence": 1}
            yield tuple(mesh.items())


def outcome(report: Report) -> str:
    """Whether it fits, in a few words."""
    needed = f"{report.needed_gib:.2f} GiB" if report.needed_gib is not None else "more memory"
    if not report.fits:
        return f"needs {needed} of {report.limit_gib:g} GiB"
    return f"fits with {needed}" + (f", at least {report.seconds.bound:.3f} s a step" if report.seconds else "")
