"""One recipe, fuser off and on, several seeds: mean, spread, and how much the fused branch adds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmfuser_jax import files
from mmfuser_jax.jobs.main import train_and_evaluate

ARMS = ("off", "on")


def run_ablation(off: Mapping[str, Any], on: Mapping[str, Any], workdir: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Trains and scores both arms for every seed, writes ablation.json and prints the table.

    The arms of a seed share the stages that bypass the fuser: with and without one those are the same computation.
    They then differ in nothing but the fuser. Runs that are finished are only read.

    Args:
      off, on: the recipe without and with the fuser, stage by stage alike.
      workdir: gets a folder per seed.
      seeds: the recipe is repeated for each.

    Returns:
      What ablation.json holds: {"runs": [one per seed and arm], "off" | "on" | "difference": {"mean", "spread"}}.

    Raises:
      ValueError: the arms have other stages, or `off` has a fuser, or `on` has none.
    """
    if off["stage_order"] != on["stage_order"] or off["model"]["fuser"] or not on["model"]["fuser"]:
        raise ValueError("an ablation needs the same stages twice, once without and once with a fuser")
    shared = tuple(name for name in on["stage_order"] if not on["stages"][name]["fuser"])
    rest = tuple(name for name in on["stage_order"] if name not in shared)
    runs = []
    for seed in seeds:
        base = workdir / f"seed{seed}" / "base"
        train_and_evaluate({**off, "seed": seed, "stage_order": shared, "test": {**off["test"], "source": ""}}, base)
        for arm, config in zip(ARMS, (off, on), strict=True):
            out = workdir / f"seed{seed}" / f"fuser_{arm}"
            given = {**config, "seed": seed, "stage_order": rest, "init_from": str(base)}
            scores = train_and_evaluate(given, out)
            by_type = {name: share["accuracy"] for name, share in scores["by_type"].items()}
            share = scores.get("fused_share", 0.0)
            runs.append({"seed": seed, "fuser": arm, "accuracy": scores["accuracy"], **by_type, "fused_share": share})
    result = {"runs": runs, **_summary(runs)}
    files.write_text(workdir / "ablation.json", json.dumps(result, indent=2) + "\n")
    _print(result)
    return result


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    accuracy = {arm: [run["accuracy"] for run in runs if run["fuser"] == arm] for arm in ARMS}
    accuracy["difference"] = [on - off for off, on in zip(accuracy["off"], accuracy["on"], strict=True)]
    return {
        name: {"mean": statistics.mean(values), "spread": statistics.stdev(values) if len(values) > 1 else 0.0}
        for name, values in accuracy.items()
    }


def _print(result: Mapping[str, Any]) -> None:
    columns = [name for name in result["runs"][0] if name not in ("seed", "fuser")]
    table = Table(title="fuser off and on; spread is the standard deviation over seeds")
    for name in ("seed", "fuser", *columns):
        table.add_column(name.replace("_", " "), justify="right")
    for run in result["runs"]:
        table.add_row(str(run["seed"]), run["fuser"], *(f"{100 * run[name]:.2f} %" for name in columns))
    table.add_section()
    for name in (*ARMS, "difference"):
        summary = result[name]
        table.add_row("mean", name, f"{100 * summary['mean']:.2f} ± {100 * summary['spread']:.2f} %")
    Console(width=110).print(table)
