"""Where records come from: a name or path → random access to its records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mmfuser_jax.data import easy_vqa
from mmfuser_jax.data.json_files import JsonRows
from mmfuser_jax.data.records import Record


class Source(Protocol):
    """Random access to records. Pickles small, so that worker processes can have it; threads may share it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Raises RecordError where the record cannot be used."""

    def fingerprint(self) -> list[Any]:
        """JSON values that differ where the content does, found without reading it."""


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """What to read.

    Attributes:
      source: a registered name (`SOURCES`), a file, or a folder, see `open_source`.
      split: of sources that have splits; files of rows have only "train", which is all of them.
      image_folder: what picture paths are relative to; by default the folder of the file.
    """

    source: str
    split: str = "train"
    image_folder: str = ""


class InMemory(list[Record]):
    """Records that are small enough to be held."""

    def fingerprint(self) -> list[Any]:
        """How many there are, and the first and last."""
        return [len(self), *(record.id for record in (*self[:1], *self[-1:]))]


SOURCES: dict[str, Callable[[str], list[Record]]] = {
    "easy_vqa/questions": easy_vqa.questions,
    "easy_vqa/captions": easy_vqa.captions,
    "easy_vqa/matches": easy_vqa.matches,
}


def open_source(spec: SourceSpec) -> Source:
    """The records of a source, in a fixed order.

    Raises:
      ValueError: no such source or split; the message lists those there are.
    """
    if spec.source in SOURCES:
        return InMemory(SOURCES[spec.source](spec.split))
    path = Path(spec.source)
    return JsonRows(path, Path(spec.image_folder or path.parent))


def load_records(source: str, split: str) -> Source:
    """TEMPORARY: replaced by open_source at its callers."""
    return open_source(SourceSpec(source, split))


def check_source(source: str) -> None:
    """TEMPORARY."""
    if source not in SOURCES:
        raise ValueError(f"no data source {source!r}; there are {', '.join(SOURCES)}")
