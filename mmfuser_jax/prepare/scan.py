"""Everything worth knowing of a source, in tables: one entry a row, a use of a picture, and a picture.

Tables stay small (about 60 bytes a row), so that a million rows fit; texts and pixels are seen and let go. What a report
or a build needs follows from the tables by NumPy. They do not depend on how many processes filled them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from mmfuser_jax.data.labels import text_length
from mmfuser_jax.data.records import ImageFile, Record, RecordError
from mmfuser_jax.data.sources import Source
from mmfuser_jax.prepare.pictures import NOTES, Facts, digest, examine
from mmfuser_jax.prepare.progress import shown
from mmfuser_jax.processes import in_order

ROWS_A_TASK = 1024
PICTURES_A_TASK = 64

Labels = tuple[tuple[str, str, str], ...]
"""(domain, language, type) of every conversation of a row; "" where there is none."""

ROW = np.dtype(
    [
        ("id", "u8"),
        ("words", "u8"),
        ("length", "i4"),
        ("turns", "i4"),
        ("images", "i4"),
        ("bytes", "i4"),
        ("labels", "i4"),
    ]
)
"""Hash of the id and of all words; words as `labels.text_length` counts them; turns of all conversations; pictures; bytes of
text; and place in `Scan.labels`, -1 where the row itself is refused."""

USE = np.dtype([("row", "i8"), ("order", "i4"), ("key", "u8")])
"""Row, which of its pictures, and a hash of the picture's path (of its content where there is no path)."""

PICTURE = np.dtype(
    [
        ("key", "u8"),
        ("content", "u8"),
        ("bytes", "i8"),
        ("width", "i4"),
        ("height", "i4"),
        ("kind", "i4"),
        ("notes", "u2"),
    ]
)
"""One of each key, sorted: hash of the file's content, its size, pixels, place in `Scan.kinds` (-1: unusable), bits of NOTES."""


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A row that cannot be used: its place in the source, its id, a short code, and the whole message."""

    index: int
    id: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a source holds.

    Attributes:
      rows: ROW[n], of every row in order.
      uses: USE[m], of every picture of every row that is not refused by itself, in order.
      pictures: PICTURE[k].
      labels: what `rows["labels"]` numbers.
      kinds: what `pictures["kind"]` numbers.
      rejected: rows that cannot be used, by place.
    """

    rows: np.ndarray
    uses: np.ndarray
    pictures: np.ndarray
    labels: list[Labels]
    kinds: list[str]
    rejected: list[Rejection]

    def accepted(self) -> np.ndarray:
        """int64[a]: places of the rows that can be used."""
        usable = np.ones(len(self.rows), bool)
        usable[[rejection.index for rejection in self.rejected]] = False
        return np.flatnonzero(usable)

    def used(self) -> np.ndarray:
        """int64[m]: which picture each use is of."""
        return np.searchsorted(self.pictures["key"], self.uses["key"])


def scan(source: Source, workers: int = 1) -> Scan:
    """Reads every row once, decodes every picture once.

    Raises:
      ValueError: the source has no rows, or there are no workers.
    """
    if not len(source):
        raise ValueError("the source has no rows")
    rows, uses, labels, refused = _scan_rows(source, workers)
    pictures, kinds, broken = _scan_pictures(source, uses, workers)
    # The first unusable picture of a row refuses it.
    unusable = uses[np.isin(uses["key"], np.array(list(broken), "u8"))]
    for row, first in zip(*np.unique(unusable["row"], return_index=True), strict=True):
        error = broken[int(unusable["key"][first])]
        name = source[int(row)].id
        refused.append(Rejection(int(row), name, error.reason, f"record {name}: {error.detail}"))
    return Scan(rows, uses, pictures, labels, kinds, sorted(refused, key=lambda rejection: rejection.index))


def row_digest(record: Record) -> tuple[int, int, int]:
    """Hashes of a record's id and of its words, and how many bytes of text it has.

    Raises:
      RecordError: a text is no Unicode (half a surrogate pair), which no tokenizer and no file takes.
    """
    words = json.dumps(
        [[[turn.role, turn.text] for turn in turns] for turns in record.conversations], ensure_ascii=False
    )
    tags = json.dumps([dict(tags) for tags in record.tags], ensure_ascii=False)
    try:
        content = words.encode()
        return digest(record.id.encode()), digest(content), len(content) + len(tags.encode())
    except UnicodeEncodeError as error:
        name = record.id.encode("ascii", "backslashreplace").decode()
        raise RecordError(f"record {name}: a text is not Unicode ({error.reason})", "schema") from None


@dataclasses.dataclass
class _Rows:
    """What a task found in a range of rows."""

    rows: np.ndarray
    uses: np.ndarray
    labels: dict[Labels, int]
    refused: list[Rejection]


def _scan_rows(source: Source, workers: int) -> tuple[np.ndarray, np.ndarray, list[Labels], list[Rejection]]:
    starts = range(0, len(source), ROWS_A_TASK)
    found = in_order(_look_at_rows, source, starts, workers)
    parts = []
    numbers: dict[Labels, int] = {}
    for part in shown(found, "rows", len(source), lambda part: len(part.rows)):
        renumbered = np.array([numbers.setdefault(labels, len(numbers)) for labels in part.labels], "i4")
        good = part.rows["labels"] >= 0
        part.rows["labels"][good] = renumbered[part.rows["labels"][good]]
        parts.append(part)
    rows = np.concatenate([part.rows for part in parts])
    uses = np.concatenate([part.uses for part in parts])
    return rows, uses, list(numbers), [rejection for part in parts for rejection in part.refused]


def _look_at_rows(source: Source, start: int) -> _Rows:
    count = min(ROWS_A_TASK, len(source) - start)
    found = _Rows(np.zeros(count, ROW), np.zeros(0, USE), {}, [])
    uses = []
    for place, index in enumerate(range(start, start + count)):
        try:
            record = source[index]
            name, words, size = row_digest(record)
        except RecordError as error:
            found.rows[place]["labels"] = -1
            found.refused.append(_refusal(index, error))
            continue
        labels = found.labels.setdefault(_labels(record), len(found.labels))
        turns = [turn for turns in record.conversations for turn in turns]
        length = sum(text_length(turn.text) for turn in turns)
        found.rows[place] = (name, words, length, len(turns), len(record.images), size, labels)
        uses += [(index, order, _key(image)) for order, image in enumerate(record.images)]
    found.uses = np.array(uses, USE)
    return found


def _refusal(index: int, error: RecordError) -> Rejection:
    message = str(error).encode("utf-8", "backslashreplace").decode()
    named = re.match(r"record (.*?): ", message, re.DOTALL)
    return Rejection(index, named.group(1) if named else str(index), error.reason, message)


def _labels(record: Record) -> Labels:
    tags = record.tags or ({},) * len(record.conversations)
    return tuple((tag.get("domain", ""), tag.get("language", ""), tag.get("type", "")) for tag in tags)


def _key(image: ImageFile) -> int:
    return digest(image if isinstance(image, bytes) else os.fsencode(image))


@dataclasses.dataclass(frozen=True)
class _Broken:
    """Why a picture cannot be used."""

    reason: str
    detail: str


def _scan_pictures(source: Source, uses: np.ndarray, workers: int) -> tuple[np.ndarray, list[str], dict[int, _Broken]]:
    keys, first = np.unique(uses["key"], return_index=True)
    # In the order of the rows, so that files of rows are read from front to back.
    places = np.sort(first)
    tasks = _batches([(int(use["row"]), int(use["order"])) for use in uses[places]], PICTURES_A_TASK)
    found = in_order(_look_at_pictures, source, tasks, workers)
    pictures = np.zeros(len(keys), PICTURE)
    pictures["key"], pictures["kind"] = keys, -1
    kinds: dict[str, int] = {}
    broken: dict[int, _Broken] = {}
    order = iter(np.searchsorted(keys, uses["key"][places]))
    for part in shown(found, "pictures", len(keys), len):
        for facts, place in zip(part, order, strict=False):
            key = int(keys[place])
            if isinstance(facts, _Broken):
                broken[key] = facts
                continue
            kind = kinds.setdefault(facts.kind, len(kinds))
            notes = sum(1 << NOTES.index(note) for note in facts.notes)
            pictures[place] = (key, facts.digest, facts.size, facts.width, facts.height, kind, notes)
    return pictures, list(kinds), broken


def _batches(items: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _look_at_pictures(source: Source, uses: Sequence[tuple[int, int]]) -> list[Facts | _Broken]:
    found: list[Facts | _Broken] = []
    for row, order in uses:
        try:
            found.append(examine(source[row].images[order]))
        except RecordError as error:
            found.append(_Broken(error.reason, str(error)))
    return found


def label_counts(scanned: Scan) -> Counter[tuple[str, str, str]]:
    """How many conversations of usable rows have each (domain, language, type)."""
    counts: Counter[tuple[str, str, str]] = Counter()
    numbers, rows = np.unique(scanned.rows["labels"][scanned.accepted()], return_counts=True)
    for number, count in zip(numbers, rows, strict=True):
        for labels in scanned.labels[number]:
            counts[labels] += int(count)
    return counts
