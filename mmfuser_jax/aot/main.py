"""Compiling what a config describes for a topology, and telling people and programs about it."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from mmfuser_jax import files
from mmfuser_jax.aot.programs import decode_program
from mmfuser_jax.aot.report import Report, compile_report
from mmfuser_jax.aot.search import Found, compile_choice, given, recommend
from mmfuser_jax.aot.show import show, show_recommendation
from mmfuser_jax.aot.topology import Topology, find_topology, topology_mesh
from mmfuser_jax.train.config import RunConfig, Stage, parse_run

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compile, and what to do about it.

    Attributes:
      stage: of the config; "" for all.
      decode: one more token for every row of the stage's batch, instead of a training step.
      recommend: look for something faster even where the config fits; where it does not, something is always looked for.
    """

    stage: str = ""
    decode: bool = False
    recommend: bool = False


def check(config: Mapping[str, Any], topology: str, slices: int, options: Options, json_file: Path | None) -> bool:
    """Compiles the stages of a resolved config, prints the reports, and returns whether all fit.

    Raises:
      ConfigError: the config makes no sense, or has no such stage.
      TopologyError, GpuPackagesError: no such topology, or packages are missing.
      ShardingError: the mesh does not fit the topology, or the model or batch the mesh.
    """
    run, console = parse_run(config), Console(width=150)
    stages = run.named(options.stage)
    devices = find_topology(topology, slices)
    found = []
    for stage in stages[-1:] if options.decode else stages:
        LOG.info("compiling %s for %s", "decode" if options.decode else stage.name, devices.name)
        report, better = _one(run, stage, devices, options, console)
        best = {"flags": better[0][0].flags(stage.name), **better[0][1].to_json()} if better else None
        steps = stage.optimizer.steps
        hours = report.seconds.bound * steps / 3600 if report.seconds and not options.decode else None
        found.append({**report.to_json(), "steps": steps, "stage_hours_bound": hours, "recommended": best})
    fits = all(report["fits"] for report in found)
    if json_file is not None:
        text = json.dumps({"topology": devices.name, "fits": fits, "programs": found}, indent=2)
        files.write_text(json_file, text + "\n")
    return fits


def _one(run: RunConfig, stage: Stage, topology: Topology, options: Options, console: Console) -> tuple[Report, Found]:
    """The report of one program, and of what else fits where that was looked for."""
    if options.decode:
        mesh = topology_mesh(topology, run.mesh)
        report = compile_report(decode_program(run, stage, mesh), topology, mesh, run.remat)
        show(report, 0, console)
        return report, []
    report = compile_choice(run, stage, topology, given(run, stage, topology))
    show(report, stage.optimizer.steps, console)
    if report.fits and not options.recommend:
        return report, []
    fitting = recommend(run, stage, topology, report)
    show_recommendation(report, stage.name, fitting, console)
    return report, fitting
