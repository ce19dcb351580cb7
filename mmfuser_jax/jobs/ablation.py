"""One recipe, fuser off and on, several seeds: mean, spread, and how much the fused branch adds."""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmfuser_jax.jobs.main import train_and_evaluate

ARMS = ("off", "on")


def run_ablation(config: Mapping[str, Any], workdir: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Trains and scores both arms for every seed, writes ablation.json and prints the table.

    The arms of a seed share the stages that bypass the fuser: with and without one those are the same computation.
    They then differ in nothing but the fuser. Runs that are finished are only read.

    Returns:
      What ablation.json holds: {"runs": [one per seed and arm], "off" | "on" | "difference": {"mean", "spread"}}.
    """
    runs = []
    for seed in seeds:
        base = workdir / f"seed{seed}" / "base"
        shared = tuple(name for name in config["stage_order"] if not config["stages"][name]["fuser"])
        rest = tuple(name for name in config["stage_order"] if name not in shared)
        train_and_evaluate({**_arm(config, "off"), "seed": seed, "stage_order": shared, "test_source": ""}, base)
        for arm in ARMS:
            out = workdir / f"seed{seed}" / f"fuser_{arm}"
            given = {**_arm(config, arm), "seed": seed, "stage_order": rest, "init_from": str(base)}
            if not (out / "eval.json").exists():
                train_and_evaluate(given, out)
            scores = json.loads((out / "eval.json").read_text())
            by_type = {name: share["accuracy"] for name, share in scores["by_type"].items()}
            share = scores.get("fused_share", 0.0)
            runs.append({"seed": seed, "fuser": arm, "accuracy": scores["accuracy"], **by_type, "fused_share": share})
    result = {"runs": runs, **_summary(runs)}
    (workdir / "ablation.json").write_text(json.dumps(result, indent=2) + "\n")
    _print(result)
    return result


def _arm(config: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """The recipe itself, or without the fuser: no module, and no mention of it in the tables."""
    given = copy.deepcopy(dict(config))
    if arm == "off":
        given["model"]["fuser"] = None
        for stage in given["stages"].values():
            stage["rules"] = tuple(
                (pattern.replace("(fuser|projector)/", "projector/"), rate)
                for pattern, rate in stage["rules"]
                if pattern != "fuser/"
            )
    return given


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
