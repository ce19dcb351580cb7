"""Random access to the rows of JSON files that are larger than memory: an index of where rows begin, not the rows."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from mmfuser_jax.data.llava_rows import record_from_llava
from mmfuser_jax.data.records import Record, RecordError

BLOCK = 64 << 20
"""Bytes searched at a time."""


class JsonRows:
    """The rows of one .jsonl file (one object a line) or .json file (one list), as records.

    Only the places of rows are held, 16 bytes each; a row is read when it is asked for. Threads and worker processes may
    share one: reading has no position.
    """

    def __init__(self, path: Path, image_folder: Path) -> None:
        """Finds the rows of `path`; picture paths are relative to `image_folder`.

        Raises:
          ValueError: a .json file that is not one list of objects; the message says where.
          FileNotFoundError: no such file.
        """
        self.path = path
        self._image_folder = image_folder
        self._spans = _line_spans(path)
        self._file: int | None = None

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Record:
        """Raises RecordError where the row is not valid; the message names it."""
        name = f"{self.path.name}:{index}"
        return record_from_llava(self.row(index), name, self._image_folder)

    def row(self, index: int) -> Any:
        """The row as it is written.

        Raises:
          RecordError: it is not JSON.
        """
        start, end = self._spans[index]
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        try:
            return json.loads(os.pread(self._file, int(end - start), int(start)))
        except ValueError as error:
            raise RecordError(f"record {self.path.name}:{index}: not JSON ({error})", "bad_json") from None

    def fingerprint(self) -> list[Any]:
        """What tells this file from a changed one, without reading it."""
        return [self.path.name, os.path.getsize(self.path), len(self)]

    def __getstate__(self) -> dict[str, Any]:
        """Workers open the file for themselves."""
        return self.__dict__ | {"_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)


def _line_spans(path: Path) -> np.ndarray:
    """int64[rows, (start, end)] in bytes of every line that is not blank."""
    if os.path.getsize(path) == 0:
        return np.zeros((0, 2), np.int64)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        breaks = [
            start + np.flatnonzero(np.frombuffer(content[start : start + BLOCK], np.uint8) == ord("\n"))
            for start in range(0, len(content), BLOCK)
        ]
        ends = np.concatenate([*breaks, [len(content)]])
        starts = np.concatenate([[0], ends[:-1] + 1])
        kept = ends - starts > 2  # short enough to be looked at one by one
        for index in np.flatnonzero(~kept):
            kept[index] = bool(content[starts[index] : ends[index]].strip())
    return np.stack([starts, ends], axis=1)[kept]
