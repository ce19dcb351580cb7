"""LLaVA-NeXT's training mixtures: a .yaml file that lists files of rows, and how much of each is taken."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mmfuser_jax.data.sources import Source, SourceSpec, Subset, concatenate, open_source

STRATEGY = re.compile(r"all|(first|end|random):(\d+)(%?)")
FIELDS = ("json_path", "sampling_strategy", "image_folder")


def open_mixture(path: Path, image_folder: str) -> Source:
    """The records of all entries, one entry after the other.

    The file is {datasets: [{json_path, sampling_strategy, image_folder}, …]}. `json_path` is any file or folder that
    `open_source` understands but another mixture, or several as `rows_{1,2}.json`; like `image_folder` it is absolute or
    relative to the .yaml file. `sampling_strategy` is all, first:N, end:N or random:N with a number or N% of the rows, rounded up as in
    LLaVA-NeXT; all where it is left out. What is drawn at random follows from `json_path`, and is the same in every run.

    Args:
      path: the .yaml file.
      image_folder: for entries without one.

    Raises:
      ValueError: the file is no mixture, or an entry cannot be read; the message names file and entry.
      OSError: the file cannot be read.
    """
    return concatenate(_open_entry(path, index, entry, image_folder) for index, entry in enumerate(_entries(path)))


def _entries(path: Path) -> list[Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    entries = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list of entries with json_path and sampling_strategy under 'datasets'")
    return entries


def _open_entry(path: Path, index: int, entry: Any, image_folder: str) -> Source:
    name = f"{path}: entry {index}"
    if not isinstance(entry, dict) or not all(isinstance(text, str) for item in entry.items() for text in item):
        raise ValueError(f"{name}: expected fields with texts: {', '.join(FIELDS)}")
    unknown = sorted(entry.keys() - FIELDS)
    if unknown or not entry.get("json_path"):
        wrong = f"unknown field {unknown[0]!r}" if unknown else "no json_path"
        raise ValueError(f"{name}: {wrong}; an entry has {', '.join(FIELDS)}")
    file = entry["json_path"]
    if Path(file).suffix in (".yaml", ".yml"):
        raise ValueError(f"{name}: {file} is itself a mixture; list its entries here")
    if "image_folder" in entry:
        image_folder = str(path.parent / entry["image_folder"])
    try:
        source = open_source(SourceSpec(str(path.parent / file), image_folder=image_folder))
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {error}") from None
    return _sample(source, entry.get("sampling_strategy", "all"), file, name)


def _sample(source: Source, strategy: str, seed: str, name: str) -> Source:
    match = STRATEGY.fullmatch(strategy)
    if match is None:
        raise ValueError(f"{name}: sampling_strategy {strategy!r} is not all, first:N, end:N or random:N (N or N%)")
    way, number, percent = match.groups()
    if way is None:
        return source
    rows = len(source)
    wanted = int(number)
    if not wanted or (percent and wanted > 100):
        raise ValueError(f"{name}: sampling_strategy {strategy!r} must take 1 row or more, or 1% to 100%")
    count = min(rows, math.ceil(wanted * rows / 100) if percent else wanted)
    if way == "random":
        indices = np.random.default_rng(zlib.crc32(seed.encode())).choice(rows, count, replace=False)
    else:
        indices = np.arange(count) if way == "first" else np.arange(rows - count, rows)
    return Subset(source, indices)
