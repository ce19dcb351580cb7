"""The shipped configs on the slices that one would rent for them: compiled once, kept with the repository.

A row belongs to what was compiled: the resolved config and the code of everything that makes the step. Where these have
changed since, the row is shown as what an earlier version compiled to, until it is compiled again.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import mmfuser_jax
from mmfuser_jax import files
from mmfuser_jax.aot.gpu import GpuPackagesError
from mmfuser_jax.aot.programs import decode_program, train_program
from mmfuser_jax.aot.report import compile_report, digest_of
from mmfuser_jax.aot.topology import find_topology, topology_mesh
from mmfuser_jax.train.config import parse_run

LOG = logging.getLogger(__name__)

COMPILED = (
    "models",
    "ops",
    "sharding.py",
    "types.py",
    "xla_flags.py",
    "train/state.py",
    "train/step.py",
    "train/optim.py",
    "aot/programs.py",
)
"""What makes the programs; reports are made of them by other files."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row to compile.

    Attributes:
      config: program and argument, "finetune:7b".
      topology: see `topology.find_topology`.
      changes: fields of the config that differ from what it ships, by dotted name.
      decode: one more token instead of a training step.
    """

    config: str
    topology: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decode: bool = False

    @property
    def key(self) -> str:
        """What names the row."""
        changes = " ".join(f"{name}={value}" for name, value in self.changes.items())
        return " ".join(filter(None, [self.config, self.topology, changes, "decode" if self.decode else ""]))


HALF = {"mesh.fsdp": 128, "mesh.tensor": 2}
"""256 chips for a batch of 128 rows."""

ANSWERS = {"stages.finetune.batch_size": 32, "mesh.fsdp": 1, "mesh.tensor": 8}
"""32 conversations at a time, of 2,048 tokens, with every matrix in eight."""

ENTRIES = (
    Entry("finetune:7b", "v5e:8x8"),
    Entry("finetune:7b", "v5e:8x8", {"remat": "dots"}),
    Entry("finetune:7b", "v5e:8x8", {"remat": "attention"}),
    Entry("finetune:7b", "v5e:4x4", {"stages.finetune.accumulate": 2}),
    Entry("finetune:7b", "v5e:4x4", {"stages.finetune.accumulate": 2, "remat": "attention"}),
    Entry("finetune:13b", "v5e:4x8", {"stages.finetune.accumulate": 2}),
    Entry("pretrain:7b", "v5e:2x4", {"stages.pretrain.accumulate": 4}),
    Entry("pretrain:7b", "v5e:4x4"),
    Entry("finetune:7b,lora", "v5e:2x2", {"stages.finetune.accumulate": 8}),
    Entry("finetune:7b", "h100:8"),
    Entry("pretrain:13b", "v5e:4x4", {"stages.pretrain.accumulate": 2}),
    Entry("finetune:13b", "v5e:8x8"),
    Entry("finetune:7b", "v5e:4x4"),
    Entry("finetune:7b", "v5e:16x16", HALF),
    Entry("finetune:7b", "2x v5e:8x8", {"mesh.data": 2}),
    Entry("finetune:7b", "v4:2x4x4"),
    Entry("finetune:7b", "v5p:2x2x4"),
    Entry("finetune:7b", "v6e:4x4"),
    Entry("finetune:13b", "v6e:8x8"),
    Entry("finetune:7b", "tpu7x:2x2x2"),
    Entry("finetune:13b,lora", "v5e:2x4", {"stages.finetune.accumulate": 4}),
    Entry("finetune:7b", "v5e:2x4", ANSWERS, decode=True),
    Entry("finetune:13b", "v5e:2x4", ANSWERS, decode=True),
    Entry("easy_vqa:mmfuser", "v5e:1x1"),
)


def resolve(entry: Entry) -> dict[str, Any]:
    """The config of an entry."""
    name, _, arg = entry.config.partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(*([arg] if arg else []))
    config.update_from_flattened_dict(dict(entry.changes))
    return config.to_dict()


def fingerprint(entry: Entry) -> str:
    """Of the resolved config and of the code that makes the step, without its comments and docstrings."""
    digest = hashlib.sha256(json.dumps([entry.key, resolve(entry)], sort_keys=True).encode())
    package = Path(mmfuser_jax.__path__[0])
    for name in COMPILED:
        for path in sorted((package / name).glob("*.py")) or [package / name]:
            digest.update(code_of(path.read_text()).encode())
    return digest.hexdigest()


def code_of(source: str) -> str:
    """A program's syntax tree without docstrings (and, as in every tree, without comments and layout)."""
    tree = ast.parse(source)
    node: Any
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [x for x in body if not (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))]
    return ast.dump(tree)


def mark_table(json_file: Path, markdown_file: Path) -> None:
    """Writes the table anew from the rows there are, and says which of them are no longer current."""
    files.write_text(markdown_file, markdown(read_rows(json_file)))


def make_table(json_file: Path, markdown_file: Path) -> None:
    """Compiles what is missing or stale, and writes both files after every row; run again, it goes on.

    Where code has changed and the program it makes has not, its row is kept.
    """
    # Kernels carry the lines of source that they were called from: without them a program depends on what it does alone.
    jax.config.update("jax_traceback_in_locations_limit", 0)
    kept = read_rows(json_file)
    rows: dict[str, dict[str, Any]] = {}
    for index, entry in enumerate(ENTRIES):
        current = fingerprint(entry)
        if kept.get(entry.key, {}).get("fingerprint") == current:
            rows[entry.key] = kept[entry.key]
            continue
        LOG.info("%d/%d %s", index + 1, len(ENTRIES), entry.key)
        try:
            row = _compile(entry, kept.get(entry.key, {}))
        except GpuPackagesError as error:
            LOG.warning("%s: left as it is (%s)", entry.key, error)
            rows |= {entry.key: kept[entry.key]} if entry.key in kept else {}
            continue
        rows[entry.key] = {**row, "entry": dataclasses.asdict(entry), "fingerprint": current}
        todo = {key: row for key, row in kept.items() if key not in rows and key in {x.key for x in ENTRIES}}
        _write({**rows, **todo}, json_file, markdown_file)
    _write(rows, json_file, markdown_file)


def _compile(entry: Entry, kept: Mapping[str, Any]) -> Mapping[str, Any]:
    """The report of the last stage, with how long all its steps take at least; `kept` if it is of the same program."""
    run, topology = parse_run(resolve(entry)), find_topology(entry.topology)
    stage, mesh = run.stages[-1], topology_mesh(topology, run.mesh)
    program = (decode_program if entry.decode else train_program)(run, stage, mesh)
    if kept and kept.get("digest") == digest_of(program.lower()):
        LOG.info("%s: the same program as before", entry.key)
        return kept
    report = compile_report(program, topology, mesh, run.remat)
    if entry.decode:
        return report.to_json()
    hours = report.seconds.bound * stage.optimizer.steps / 3600 if report.seconds else None
    return {**report.to_json(), "steps": stage.optimizer.steps, "stage_hours_bound": hours}


def _write(rows: Mapping[str, Any], json_file: Path, markdown_file: Path) -> None:
    ordered = {entry.key: rows[entry.key] for entry in ENTRIES if entry.key in rows}
    files.write_text(json_file, json.dumps(ordered, indent=1) + "\n")
    files.write_text(markdown_file, markdown(ordered))


def read_rows(json_file: Path) -> dict[str, dict[str, Any]]:
    """Rows by key; none without a file."""
    return json.loads(json_file.read_text()) if json_file.exists() else {}


HEAD = """# What fits where

Every row is a whole training step (or one decoding step) of a shipped config, compiled ahead of time for the slice by
`python launch/aot.py --table`; nothing here ran on an accelerator. Times are lower bounds at the published peaks
(`mmfuser_jax/hardware.py`): the largest of computing, memory traffic and collectives, as if they overlapped. Real runs
are slower.

A row marked "earlier" was compiled before the code or the config last changed.

| config | slice | mesh | remat | batch × tokens | GiB a chip | limit | step ≥ s | limited by | rows/s ≤ | MFU ≤ | stage ≥ h | version |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table for people."""
    current = {entry.key: fingerprint(entry) for entry in ENTRIES}
    return HEAD + "".join(_line(row, row["fingerprint"] == current.get(key)) for key, row in rows.items())


def _line(row: Mapping[str, Any], current: bool) -> str:
    entry, batch, seconds = row["entry"], row["batch"], row["seconds"]
    version = "this" if current else "earlier"
    mesh = " × ".join(f"{axis} {size}" for axis, size in row["mesh"].items() if size > 1) or "one device"
    needed = f"{row['needed_gib']:.2f}" if row["needed_gib"] is not None else "more"
    cells = [entry["config"] + (" (decode)" if entry["decode"] else ""), row["topology"], mesh, row["remat"]]
    parts = next((value for name, value in entry["changes"].items() if name.endswith("accumulate")), 1)
    cells += [
        f"{batch['rows']} × {batch['length']:,}" + (f" in {parts} parts" if parts > 1 else ""),
        needed if row["fits"] else f"**{needed}**",
        f"{row['limit_gib']:g}",
    ]
    if seconds is None:
        return f"| {' | '.join([*cells, 'does not fit', '', '', '', '', version])} |\n"
    limits = {name: seconds[name] for name in ("compute", "memory", "collectives") if seconds[name] is not None}
    hours = row.get("stage_hours_bound")
    cells += [f"{seconds['bound']:.3g}", max(limits, key=lambda name: limits[name])]
    cells += [
        f"{row['samples_per_second_bound']:.3g}",
        f"{row['mfu_bound']:.2f}",
        f"{hours:.3g}" if hours else "",
        version,
    ]
    return f"| {' | '.join(cells)} |\n"
