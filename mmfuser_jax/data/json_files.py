"""Random access to the rows of JSON files that are larger than memory: an index of where rows begin, not the rows."""

from __future__ import annotations

import json
import os
import weakref
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from mmfuser_jax.data.llava_rows import record_from_llava
from mmfuser_jax.data.records import Record, RecordError

BLOCK = 1 << 20
"""Bytes searched at a time; what NumPy makes of them stays in the processor's cache."""

EDGE = 1 << 16
"""Bytes at the ends of a file in which a list must begin and end; before and after is only white space."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
QUOTE, BACKSLASH, LOWER = ord('"'), ord("\\"), 0x20
OPEN, CLOSE = ord("{"), ord("}")
"""With the bit LOWER set, square brackets become curly ones: two comparisons find all four."""


class JsonRows:
    """The rows of one .jsonl file (one object a line) or .json file (one list of objects), as records.

    Only the places of rows are held, 16 bytes each; a row is read when it is asked for. Threads and worker processes may
    share one: reading has no position.
    """

    def __init__(self, path: Path, image_folder: Path) -> None:
        """Finds the rows of `path`; picture paths are relative to `image_folder`.

        Raises:
          ValueError: a .json file that is not one list of objects; the message says at which byte.
          OSError: the file cannot be read.
        """
        self.path = path
        self._image_folder = image_folder
        self._spans = _list_spans(path) if path.suffix == ".json" else _line_spans(path)
        self._file: int | None = None

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Record:
        """Raises RecordError where the row is not valid; the message names it."""
        name = f"{self.path.name}:{range(len(self))[index]}"
        return record_from_llava(self.row(index), name, self._image_folder)

    def row(self, index: int) -> Any:
        """The row as it is written.

        Raises:
          RecordError: it is not JSON.
        """
        start, end = self._spans[index]
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
        try:
            return json.loads(os.pread(self._file, int(end - start), int(start)).decode("utf-8"))
        except (ValueError, RecursionError) as error:  # the latter: brackets in brackets without end
            name = f"record {self.path.name}:{range(len(self))[index]}"
            raise RecordError(f"{name}: not JSON ({error})", "bad_json") from None

    def fingerprint(self) -> list[Any]:
        """What tells this file from a changed one without reading it: its size, and where its rows stand."""
        return [self.path.name, os.path.getsize(self.path), len(self), zlib.crc32(self._spans.tobytes())]

    def __getstate__(self) -> dict[str, Any]:
        """Workers open the file for themselves."""
        return self.__dict__ | {"_file": None}


def _line_spans(path: Path) -> np.ndarray:
    """int64[rows, (start, end)] in bytes of every line that is not blank."""
    spans = [np.zeros((0, 2), np.int64)]
    with path.open("rb") as file:
        offset = file.seek(_mark_length(file.read(len(BYTE_ORDER_MARK))))
        while block := file.read(BLOCK) + file.readline():
            codes = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(codes == ord("\n"))
            if not block.endswith(b"\n"):
                ends = np.append(ends, len(block))
            starts = np.concatenate([[0], ends[:-1] + 1])
            kept = codes[starts] > ord(" ")
            for line in np.flatnonzero(~kept):  # begins with white space, and may be nothing else
                kept[line] = bool(block[starts[line] : ends[line]].strip())
            spans.append(offset + np.stack([starts, ends], axis=1)[kept])
            offset += len(block)
    return np.concatenate(spans)


def _list_spans(path: Path) -> np.ndarray:
    """int64[rows, (start, end)] in bytes of the objects in the list that is the file.

    Rows are not parsed: NumPy finds brackets and quotes several times faster than the json module. A row stands between
    two gaps; a gap is what is in the list and in no row, and must be one comma.

    Raises:
      ValueError: the file is something else, or is cut off.
    """
    first, last = _list_inside(path)
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    depth, quoted = 1, False  # brackets that are open: 1 in a gap, more in a row; and whether a text is open
    gap, gap_at = b",", first  # what was seen of the last gap; the first one looks as if a row stood before it
    for offset, block in _blocks(path, first, last):
        places, steps, quoted = _brackets(block, quoted)
        depths = depth + np.cumsum(steps)
        _check_depths(path, offset, block, places, steps, depths)
        starts.append(offset + places[(depths == 2) & (steps == 1)])
        ends.append(offset + places[depths == 1] + 1)
        gaps = ([offset] if depth == 1 else []) + ends[-1].tolist()
        texts = [block[a - offset : b and b - offset] for a, b in zip_longest(gaps, starts[-1].tolist())]
        if depth == 1:
            gaps[0], texts[0] = gap_at, gap + texts[0]
        depth = int(depths[-1]) if len(depths) else depth
        if depth == 1:
            gap, gap_at = texts.pop(), gaps.pop()
        for at, text in zip(gaps, texts, strict=True):
            if text.strip() != b",":
                raise _error(path, at, "expected one comma between rows")
    begun, ended = np.concatenate(starts), np.concatenate(ends)
    if depth > 1:
        raise _error(path, int(begun[-1]), "the row that begins here does not end")
    if gap.strip() != (b"" if len(begun) else b","):
        raise _error(path, gap_at, "expected a row or the end of the list")
    return np.stack([begun, ended], axis=1)


def _list_inside(path: Path) -> tuple[int, int]:
    """[start, end) of what stands between the brackets of the list that is the file."""
    with path.open("rb") as file:
        head = file.read(EDGE)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - EDGE))
        tail = file.read()
    start = len(head) - len(head[_mark_length(head) :].lstrip())
    if head[start : start + 1] != b"[":
        raise _error(path, start, "expected [, as the file must be one list of rows (one row a line is .jsonl)")
    end = size - len(tail) + len(tail.rstrip())
    if tail.rstrip()[-1:] != b"]":
        raise _error(path, end, "expected ], the end of the list; the file may be cut off")
    return start + 1, end - 1


def _check_depths(
    path: Path, offset: int, block: bytes, places: np.ndarray, steps: np.ndarray, depths: np.ndarray
) -> None:
    """Raises ValueError where a bracket of the block ends the list, or begins a row that is no object."""
    ended = places[depths < 1]
    if len(ended):
        raise _error(path, offset + int(ended[0]), "the list ends here, but the file goes on")
    starts = places[(depths == 2) & (steps == 1)]
    lists = starts[np.frombuffer(block, np.uint8)[starts] != OPEN]
    if len(lists):
        raise _error(path, offset + int(lists[0]), "expected {, as a row must be an object")


def _blocks(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The bytes [start, end) of a file, in blocks with their offsets; none ends inside an escape such as `\\"`."""
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(max(0, min(BLOCK, end - start))):
            if (len(block) - len(block.rstrip(b"\\"))) % 2:
                block += file.read(1)
            yield start, block
            start += len(block)


def _brackets(block: bytes, quoted: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """Where brackets stand outside of texts, 1 or -1 as they open or close, and whether a text is open at the end.

    `quoted`: whether one is open at the beginning.
    """
    codes = np.frombuffer(block, np.uint8)
    curly = codes | LOWER
    places = np.flatnonzero((codes == QUOTE) | (curly == OPEN) | (curly == CLOSE))
    kinds = curly[places]
    quotes = kinds == QUOTE
    quotes[quotes] = ~_escaped(codes, places[quotes])
    count = np.cumsum(quotes) + quoted
    kept = (count % 2 == 0) & (kinds != QUOTE)
    return places[kept], np.where(kinds[kept] == OPEN, 1, -1), bool((quoted + np.count_nonzero(quotes)) % 2)


def _escaped(codes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """bool[places]: whether an odd number of backslashes stands before.

    Before the first byte comes the last, by NumPy's negative indices: a block never ends in an odd number of them.
    """
    escaped = np.zeros(len(places), bool)
    going, distance = np.arange(len(places)), 1
    while len(going):
        going = going[codes[places[going] - distance] == BACKSLASH]
        escaped[going] ^= True
        distance += 1
    return escaped


def _mark_length(head: bytes) -> int:
    return len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0


def _error(path: Path, byte: int, problem: str) -> ValueError:
    return ValueError(f"{path}: byte {byte}: {problem}")
