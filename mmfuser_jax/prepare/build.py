"""The build: a source as a TFDS dataset of ArrayRecord files, written by many processes and resumed after any kill.

    OUT/DATASET/CONFIG/1.0.0/
      plan.json                 what is to be built, from which source, and which rows go into which file
      rejected.jsonl            rows that cannot be used, and why
      DATASET-train.array_record-00000-of-00042, …
      dataset_info.json, features.json    what TFDS reads first
      manifest.json             checksum, size and rows of every file; grows with the files, "complete" when all are there

A file is a function of the plan, so that it does not matter which process wrote it, or when.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmfuser_jax import files
from mmfuser_jax.data.sources import Source, SourceSpec, check_images, open_source
from mmfuser_jax.data.tfds_records import INFO_FILE, features
from mmfuser_jax.prepare.plan import Options, Shard, from_json, plan_shards, to_json
from mmfuser_jax.prepare.progress import shown
from mmfuser_jax.prepare.scan import Rejection, scan
from mmfuser_jax.prepare.shards import Job, write_shard
from mmfuser_jax.processes import in_order

LOG = logging.getLogger(__name__)
VERSION = "1.0.0"
PLAN, MANIFEST, REJECTED = "plan.json", "manifest.json", "rejected.jsonl"
METADATA = (INFO_FILE, "features.json")
_LIBRARIES = ("mmfuser-jax", "array-record", "protobuf", "pillow", "tensorflow-datasets")


def build(
    spec: SourceSpec, out: Path, options: Options, *, max_bad_fraction: float = 0.05, workers: int = 1
) -> dict[str, Any]:
    """Builds a dataset, or goes on where an earlier call was stopped; returns the manifest.

    `tfds.data_source(options.name, data_dir=out)` then has the splits "train" and, where asked for, "validation".

    Args:
      spec: the source.
      out: where TFDS datasets are ("data_dir").
      options: what it is to be.
      max_bad_fraction: build nothing where more of the rows cannot be used.
      workers: processes; the files do not depend on them.

    Raises:
      ValueError: the source cannot be used or has too many bad rows, or the folder holds another build.
      RuntimeError: the source changed, another process builds here, or a library is missing.
    """
    folder = out / options.name / VERSION
    source = open_source(spec)
    features()  # a missing library is said before hours of work
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        shards = _planned(folder, source, options) or _plan(folder, source, options, max_bad_fraction, workers)
        manifest = _write_shards(folder, source, options, shards, workers)
        if not manifest["complete"]:
            _write_metadata(folder, options, manifest)
            manifest["complete"] = True
            _write_json(folder / MANIFEST, manifest)
    counts = ", ".join(f"{count:,} in {split}" for split, count in manifest["splits"].items())
    LOG.info("%s: %s; %s rows refused (%s)", folder, counts, f"{manifest['rejected']:,}", REJECTED)
    return manifest


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second build out, and clears away what a killed one was writing."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield
    except BlockingIOError:
        raise RuntimeError(f"{folder}: another process is building here") from None
    finally:
        os.close(handle)


def _planned(folder: Path, source: Source, options: Options) -> list[Shard] | None:
    """The plan of an earlier call, None where there is none yet."""
    if not (folder / PLAN).exists():
        strangers = [path.name for path in folder.iterdir() if path.name != REJECTED]
        if strangers:
            raise ValueError(
                f"{folder}: holds {strangers[0]} and no {PLAN}; it is no unfinished build, choose another --out"
            )
        return None
    plan = files.read_json(folder / PLAN)
    wanted = dataclasses.asdict(options)
    changed = [f"--{key}={value}" for key, value in plan["options"].items() if wanted.get(key) != value]
    if changed:
        raise ValueError(f"{folder}: was begun with {' '.join(changed)}; finish it so, or choose another --out")
    if plan["fingerprint"] != json.loads(json.dumps(source.fingerprint())):
        raise ValueError(f"{folder}: was begun from another source, or the source has changed; choose another --out")
    return from_json(plan["shards"])


def _plan(folder: Path, source: Source, options: Options, max_bad_fraction: float, workers: int) -> list[Shard]:
    check_images(source)
    scanned = scan(source, workers)
    bad = len(scanned.rejected) / len(scanned.rows)
    if bad > max_bad_fraction:
        reason, count = Counter(rejection.reason for rejection in scanned.rejected).most_common(1)[0]
        raise ValueError(
            f"{100 * bad:.1f} % of the rows cannot be used, {count:,} of {len(scanned.rows):,} for {reason}, such as: "
            f"{scanned.rejected[0].detail}; look at them with audit, or allow it with --max_bad_fraction={bad + 0.001:.3f}"
        )
    shards = plan_shards(scanned, options)
    files.write_text(folder / REJECTED, _lines(scanned.rejected))
    plan = {
        "options": dataclasses.asdict(options),
        "rows": len(scanned.rows),
        "rejected": len(scanned.rejected),
        "fingerprint": source.fingerprint(),
        "shards": to_json(shards),
    }
    _write_json(folder / PLAN, plan, indent=None)
    return shards


def _lines(rejected: list[Rejection]) -> str:
    return "".join(json.dumps(dataclasses.asdict(rejection)) + "\n" for rejection in rejected)


def _write_json(path: Path, value: Mapping[str, Any], indent: int | None = 1) -> None:
    files.write_text(path, json.dumps(value, indent=indent) + "\n")


def _write_shards(folder: Path, source: Source, options: Options, shards: list[Shard], workers: int) -> dict[str, Any]:
    """Writes the files that are not there yet, and returns the manifest."""
    manifest = files.read_json(folder / MANIFEST) or _new_manifest(folder, source, options, shards)
    known = manifest["files"]
    missing = [shard for shard in shards if not _is_there(folder, shard.file(options.dataset), known)]
    if missing:
        manifest["complete"] = False
    jobs = [Job(folder, options.dataset, options.max_side, shard) for shard in missing]
    total = sum(len(shard.rows) for shard in missing)
    for name, entry in shown(in_order(write_shard, source, jobs, workers), "records", total, _records):
        known[name] = entry
        manifest["files"] = known = dict(sorted(known.items()))
        _write_json(folder / MANIFEST, manifest)
    return manifest


def _records(written: tuple[str, Mapping[str, Any]]) -> int:
    return written[1]["records"]


def _is_there(folder: Path, name: str, known: Mapping[str, Any]) -> bool:
    return name in known and (folder / name).is_file() and (folder / name).stat().st_size == known[name]["bytes"]


def _new_manifest(folder: Path, source: Source, options: Options, shards: list[Shard]) -> dict[str, Any]:
    plan = files.read_json(folder / PLAN)
    splits: Counter[str] = Counter()
    for shard in shards:
        splits[shard.split] += len(shard.rows)
    return {
        "complete": False,
        "options": dataclasses.asdict(options),
        "rows": plan["rows"],
        "rejected": plan["rejected"],
        "splits": dict(splits),
        "fingerprint": source.fingerprint(),
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "files": {},
    }


def _write_metadata(folder: Path, options: Options, manifest: Mapping[str, Any]) -> None:
    """Makes the files a TFDS dataset."""
    import tensorflow_datasets as tfds

    splits = []
    for split in manifest["splits"]:
        entries = [entry for entry in manifest["files"].values() if entry["split"] == split]
        template = tfds.core.ShardedFileTemplate(
            dataset_name=options.dataset, data_dir=folder, split=split, filetype_suffix="array_record"
        )
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[entry["records"] for entry in entries],
                num_bytes=sum(entry["bytes"] for entry in entries),
                filename_template=template,
            )
        )
    for name in METADATA:  # what a killed build wrote may be cut off
        (folder / name).unlink(missing_ok=True)
    # check_data would read through TensorFlow; every file was read back when it was written.
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features(), split_infos=splits, version=VERSION, check_data=False
    )


def verify(folder: Path) -> str:
    """Compares every file of a finished build with its checksum; returns a line that says how much was compared.

    Raises:
      ValueError: there is no finished build, or a file is missing or differs; all such files are named.
    """
    manifest = files.read_json(folder / MANIFEST)
    if not manifest.get("complete") or not (folder / INFO_FILE).is_file():
        raise ValueError(f"{folder}: no finished build here (no complete {MANIFEST}); it is the folder of the version")
    known = manifest["files"]
    checked = shown(in_order(_checksum, folder, known, 1), "files", len(known), lambda _: 1)
    wrong = [name for name, found in checked if found != known[name]["sha256"]]
    if wrong:
        raise ValueError(f"{folder}: missing or changed since it was built: {', '.join(wrong)}")
    return (
        f"{folder}: {len(known)} files are as they were written ({sum(e['records'] for e in known.values()):,} records)"
    )


def _checksum(folder: Path, name: str) -> tuple[str, str]:
    try:
        with (folder / name).open("rb") as file:
            return name, hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return name, ""
