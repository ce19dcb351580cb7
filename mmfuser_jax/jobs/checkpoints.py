"""Looking after the checkpoints of a run: what there is, whether it is sound, what may go, and how two differ."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mmfuser_jax import checksums, model_folder
from mmfuser_jax.checkpoint import CheckpointError, StoredParams
from mmfuser_jax.hardware import GIB

SHOWN = 20
"""Parameters that a comparison names."""


def folder_of(workdir: Path) -> Path:
    """The checkpoints of a run or model folder.

    Raises:
      CheckpointError: it has none.
    """
    folder = workdir / model_folder.CHECKPOINTS
    if not folder.is_dir():
        raise CheckpointError(f"{workdir}: no run or model here, it has no {model_folder.CHECKPOINTS}/")
    return folder


def show(workdir: Path) -> None:
    """Prints a line for every checkpoint, and for what was set aside."""
    table = Table("step", "saved", "GiB", "files", "checksums", title=str(workdir))
    folder = folder_of(workdir)
    for path in [folder / str(step) for step in checksums.steps(folder)] + sorted(folder.glob("*.damaged*")):
        found = [file.stat() for file in path.rglob("*") if file.is_file()]
        saved = datetime.datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "seconds")
        size = sum(file.st_size for file in found) / GIB
        known = "yes" if (path / checksums.MANIFEST).exists() else "no"
        table.add_row(path.name, saved, f"{size:.3f}", str(len(found)), known)
    Console().print(table)


def verify(workdir: Path, step: int | None = None) -> bool:
    """Compares files with their checksums, prints what is found, and returns whether all are known and sound.

    Raises:
      CheckpointError: there is no such checkpoint.
    """
    folder = folder_of(workdir)
    steps = checksums.steps(folder)
    if step is not None and step not in steps:
        raise CheckpointError(f"{folder}: no checkpoint of step {step}; there are {steps}")
    sound = True
    for number in steps if step is None else [step]:
        found = checksums.check(folder / str(number))
        print(f"step {number}: {'damaged' if found.problems else 'sound' if found.known else 'no checksums'}")
        for problem in found.problems:
            print(f"  {problem}")
        sound = sound and found.known and not found.problems
    return sound


def prune(workdir: Path, keep: int) -> None:
    """Deletes all but the newest `keep` sound checkpoints, and what was set aside. Never the only sound one.

    Raises:
      CheckpointError: none is sound.
    """
    folder = folder_of(workdir)
    sound = (step for step in checksums.steps(folder) if not checksums.check(folder / str(step)).problems)
    kept = list(itertools.islice(sound, keep))
    if not kept:
        raise CheckpointError(f"{folder}: no checkpoint is sound, so none is deleted")
    for path in [*(folder / str(step) for step in checksums.steps(folder)), *folder.glob("*.damaged*")]:
        if path.name not in map(str, kept):
            shutil.rmtree(path)
            print(f"deleted {path}")


@dataclasses.dataclass(frozen=True)
class Difference:
    """One parameter of two checkpoints.

    Attributes:
      path: its name.
      what: in words, where the two cannot be compared; "" else.
      largest: of the absolute differences.
      relative: norm of the difference over the norm of the first.
    """

    path: str
    what: str = ""
    largest: float = 0.0
    relative: float = 0.0

    @property
    def differs(self) -> bool:
        """Whether they are not the same."""
        return bool(self.what or self.largest)


def compare(first: StoredParams, second: StoredParams) -> Iterator[Difference]:
    """Every parameter of either, read one by one."""
    for path in sorted(first.shapes.keys() | second.shapes.keys()):
        shapes = [stored.shapes[path].shape if path in stored.shapes else None for stored in (first, second)]
        if None in shapes:
            yield Difference(path, f"only in the {'second' if shapes[0] is None else 'first'}")
        elif shapes[0] != shapes[1]:
            yield Difference(path, f"{shapes[0]} and {shapes[1]}")
        else:
            yield _numbers(path, *(stored.read([path])[path].astype(np.float32) for stored in (first, second)))


def _numbers(path: str, x: Any, y: Any) -> Difference:
    change, norm = x - y, np.linalg.norm(x)
    largest = float(np.max(np.abs(change), initial=0.0))
    return Difference(path, "", largest, float(np.linalg.norm(change) / norm) if norm else largest)


def show_differences(first: StoredParams, second: StoredParams) -> bool:
    """Prints the parameters that differ the most, and returns whether all are the same."""
    found = list(compare(first, second))
    differing = sorted((x for x in found if x.differs), key=lambda x: (not x.what, -x.relative))
    print(f"{len(found) - len(differing)} of {len(found)} parameters are the same")
    if differing:
        table = Table("parameter", "largest difference", "relative to its norm")
        for x in differing[:SHOWN]:
            table.add_row(x.path, x.what or f"{x.largest:.3g}", "" if x.what else f"{x.relative:.3g}")
        Console().print(table)
    return not differing
