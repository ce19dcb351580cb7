"""Checksums of a checkpoint's files: what a disk or a copy did to them is found before a run goes on from it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmfuser_jax import files

LOG = logging.getLogger(__name__)

MANIFEST = "checksums.json"
THREADS = 4
"""SHA-256 leaves the interpreter's lock alone; more threads than this wait for the disk."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a checkpoint's files are against its manifest.

    Attributes:
      known: whether there is a manifest: a run that is killed between writing a checkpoint and its manifest leaves none.
      problems: one line a file that is damaged, missing, or not known.
    """

    known: bool
    problems: tuple[str, ...]


def write_manifest(folder: Path) -> None:
    """Adds the manifest to a complete checkpoint."""
    entries = {name: {"bytes": (folder / name).stat().st_size, "sha256": digest} for name, digest in _digests(folder)}
    files.write_text(folder / MANIFEST, json.dumps(entries, indent=1))


def check(folder: Path) -> Findings:
    """Compares every file of a checkpoint with its manifest, sizes first."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return Findings(False, ())
    try:
        entries = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.read_json(manifest).items()}
    except (ValueError, KeyError, TypeError, OSError) as error:
        return Findings(True, (f"{MANIFEST}: not readable ({error})",))
    present = set(_names(folder))
    problems = [f"{name}: missing" for name in sorted(entries.keys() - present)]
    problems += [f"{name}: not in {MANIFEST}" for name in sorted(present - entries.keys())]
    sizes = {name: (folder / name).stat().st_size for name in sorted(present & entries.keys())}
    odd = {name for name, size in sizes.items() if size != entries[name][0]}
    problems += [f"{name}: {sizes[name]} bytes instead of {entries[name][0]}" for name in sorted(odd)]
    if not problems:  # reading everything is for what looks whole
        problems = [f"{name}: damaged" for name, digest in _digests(folder) if digest != entries[name][1]]
    return Findings(True, tuple(problems))


def set_aside_damaged(checkpoints: Path) -> None:
    """Renames the newest checkpoints of a run to `STEP.damaged` until the newest one left is sound.

    Raises:
      ValueError: there are checkpoints, and none of them is sound. Nothing is renamed then.
    """
    damaged: dict[int, tuple[str, ...]] = {}
    for step in steps(checkpoints):
        found = check(checkpoints / str(step))
        if not found.known:
            LOG.warning("checkpoint of step %d has no checksums: it is used unchecked", step)
        if not found.problems:
            break
        damaged[step] = found.problems
    else:
        if damaged:
            raise ValueError(
                f"{checkpoints}: no checkpoint is sound ({_some(damaged)}); put back a copy of one, or start a new workdir"
            )
    for number, problems in damaged.items():
        target = _unused(checkpoints / f"{number}.damaged")
        (checkpoints / str(number)).rename(target)
        LOG.warning(
            "checkpoint of step %d is damaged (%s): kept as %s, not used", number, _first(problems), target.name
        )


def steps(checkpoints: Path) -> list[int]:
    """Steps of which there is a checkpoint, newest first."""
    entries = checkpoints.iterdir() if checkpoints.is_dir() else ()
    return sorted((int(entry.name) for entry in entries if entry.name.isdigit()), reverse=True)


def _names(folder: Path) -> Iterator[str]:
    """Every file of a checkpoint but the manifest, relative to it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(folder).as_posix()


def _digests(folder: Path) -> list[tuple[str, str]]:
    names = list(_names(folder))
    with ThreadPoolExecutor(THREADS) as pool:
        return list(zip(names, pool.map(lambda name: _sha256(folder / name), names), strict=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unused(path: Path) -> Path:
    others = (path.with_name(f"{path.name}.{count}") for count in itertools.count(2))
    return next(name for name in itertools.chain([path], others) if not name.exists())


def _first(problems: tuple[str, ...]) -> str:
    return problems[0] + (f" and {len(problems) - 1} more" if len(problems) > 1 else "")


def _some(damaged: dict[int, tuple[str, ...]]) -> str:
    return "; ".join(f"step {step}: {_first(problems)}" for step, problems in damaged.items())
