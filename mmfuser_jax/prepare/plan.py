"""Which rows of a source go into which file of a build: decided once, written down, and then only followed."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from mmfuser_jax.prepare.pictures import digest
from mmfuser_jax.prepare.scan import Scan

_NAME = re.compile(r"[a-z][a-z0-9_]*(/[a-z0-9][a-z0-9_.]*)?")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a build is to be.

    Attributes:
      name: DATASET or DATASET/CONFIG, in small letters, as TFDS will know it.
      validation: share of the rows in the split "validation"; 0 makes only "train".
      max_side: pictures with a longer side than this are stored shrunk to it, see `shards.shrink`; 0 stores every file
        as it is.
      shard_mb: about how many megabytes a file holds.

    Raises:
      ValueError: a value makes no sense.
    """

    name: str = "mminstruct/qa_en"
    validation: float = 0.02
    max_side: int = 0
    shard_mb: float = 256.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"--name={self.name}: expected DATASET or DATASET/CONFIG in small letters, digits and _")
        if not 0 <= self.validation < 1:
            raise ValueError(f"--validation={self.validation} is not in [0, 1)")
        if self.max_side < 0 or not 0 < self.shard_mb < 1e6:
            raise ValueError(f"--max_side={self.max_side} --shard_mb={self.shard_mb}: expected positive numbers")

    @property
    def dataset(self) -> str:
        """The name without the config, which begins the names of files."""
        return self.name.partition("/")[0]


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a build.

    Attributes:
      split, number, of: which file of which split.
      rows: places of its records in the source, ascending.
      pictures: hash of the contents of all their pictures, as they were when they were looked at.
    """

    split: str
    number: int
    of: int
    rows: list[int]
    pictures: int

    def file(self, dataset: str) -> str:
        """Its name, as TFDS expects it."""
        return f"{dataset}-{self.split}.array_record-{self.number:05d}-of-{self.of:05d}"


def pictures_digest(digests: np.ndarray) -> int:
    """One hash of the hashes uint64[n] of pictures."""
    return digest(digests.astype("<u8").tobytes())


def plan_shards(scanned: Scan, options: Options) -> list[Shard]:
    """Shards that hold every usable row once, each at least one, in the order of the source.

    Raises:
      ValueError: no row can be used.
    """
    accepted = scanned.accepted()
    if not len(accepted):
        raise ValueError("no row can be used")
    held_out = _held_out(scanned, options.validation)
    contents = scanned.pictures["content"][scanned.used()]
    starts = np.searchsorted(scanned.uses["row"], np.arange(len(scanned.rows) + 1))
    sizes = _sizes(scanned, options.max_side)
    shards = []
    for split, rows in (("train", accepted[~held_out[accepted]]), ("validation", accepted[held_out[accepted]])):
        parts = _cut(rows, sizes[rows], options.shard_mb * 1e6)
        for number, part in enumerate(parts):
            uses = np.concatenate([contents[starts[row] : starts[row + 1]] for row in part])
            shards.append(Shard(split, number, len(parts), part.tolist(), pictures_digest(uses)))
    return shards


def _held_out(scanned: Scan, share: float) -> np.ndarray:
    """bool[n]: rows for validation, drawn by the content of their pictures (by their words where they have none).

    Rows that share a picture, directly or over other rows, go the same way, under whatever name the file stands.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, (contents, content) = len(scanned.rows), np.unique(scanned.pictures["content"], return_inverse=True)
    nodes = rows + len(contents)
    # Refused rows tie nothing together: all broken pictures have the same content, none.
    usable = np.isin(scanned.uses["row"], scanned.accepted())
    shown = scanned.uses["row"][usable], rows + content[scanned.used()][usable]
    edges = np.ones(len(shown[0]), bool), shown
    count, groups = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)
    smallest = np.full(count, np.iinfo("u8").max, "u8")
    np.minimum.at(smallest, groups, np.concatenate([np.full(rows, np.iinfo("u8").max, "u8"), contents]))
    drawn = smallest[groups[:rows]]
    alone = scanned.rows["images"] == 0
    drawn[alone] = scanned.rows["words"][alone]
    # The smallest hash of a group is small; a multiplication spreads it over all numbers again.
    return drawn * np.uint64(0x9E3779B97F4A7C15) < np.uint64(share * 2**64)


def _sizes(scanned: Scan, max_side: int) -> np.ndarray:
    """float64[n]: about how many bytes each row takes."""
    pictures = scanned.pictures["bytes"].astype(float)
    if max_side:
        longest = np.maximum(scanned.pictures["width"], scanned.pictures["height"])
        pictures *= np.minimum(1, max_side / np.maximum(longest, 1)) ** 2
    sizes = scanned.rows["bytes"].astype(float)
    np.add.at(sizes, scanned.uses["row"], pictures[scanned.used()])
    return sizes


def _cut(rows: np.ndarray, sizes: np.ndarray, target: float) -> list[np.ndarray]:
    """Consecutive parts of about equal size, none empty."""
    if not len(rows):
        return []
    ends = np.cumsum(sizes)
    count = min(len(rows), max(1, round(ends[-1] / target)))
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count)
    return [part for part in np.split(rows, np.unique(cuts)) if len(part)]


def to_json(shards: list[Shard]) -> list[dict[str, Any]]:
    """JSON values of shards."""
    return [dataclasses.asdict(shard) for shard in shards]


def from_json(values: list[dict[str, Any]]) -> list[Shard]:
    """The shards again."""
    return [Shard(**value) for value in values]
