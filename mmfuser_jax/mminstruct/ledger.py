"""Everything that a project has and did, in one SQLite file. Each change is on the disk before the next step relies on it."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

VERSION = 1

SCHEMA = """
CREATE TABLE images (
  sha TEXT PRIMARY KEY,       -- SHA-256 of the file, which is its name in the store
  domain TEXT NOT NULL,
  suffix TEXT NOT NULL,       -- of the file in the store
  width INTEGER NOT NULL, height INTEGER NOT NULL, bytes INTEGER NOT NULL,
  origin TEXT NOT NULL,       -- path or address that it was first found at
  licence TEXT NOT NULL,
  hash INTEGER NOT NULL,      -- perceptual, as a signed number of 64 bits
  state TEXT NOT NULL,        -- kept or dropped
  reason TEXT NOT NULL,       -- why it is dropped
  twin TEXT NOT NULL,         -- which picture it is nearly the same as
  at REAL NOT NULL
) STRICT;
CREATE INDEX images_by_state ON images (domain, state, reason);
CREATE TABLE findings (       -- every place that was looked at, whatever was there
  place TEXT PRIMARY KEY,
  stamp TEXT NOT NULL,        -- changes where the content may have changed
  domain TEXT NOT NULL,
  sha TEXT NOT NULL,          -- of the picture; none where there is no usable one
  reason TEXT NOT NULL,       -- why it is not, or that the picture was there before
  detail TEXT NOT NULL,
  at REAL NOT NULL
) STRICT;
CREATE INDEX findings_by_reason ON findings (domain, reason);
CREATE TABLE answers (        -- what came of every question that was asked; those without a row were not yet
  key TEXT PRIMARY KEY,       -- of the question and the model
  step TEXT NOT NULL, domain TEXT NOT NULL, image TEXT NOT NULL, kind TEXT NOT NULL, language TEXT NOT NULL,
  prompt TEXT NOT NULL,       -- template and its version
  seed INTEGER NOT NULL,
  model TEXT NOT NULL,
  text TEXT NOT NULL,         -- of the reply
  finish TEXT NOT NULL,       -- why it ends
  reason TEXT NOT NULL,       -- why there is no reply
  detail TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, usd REAL NOT NULL,
  seconds REAL NOT NULL,
  at REAL NOT NULL
) STRICT;
CREATE INDEX answers_by_step ON answers (step, domain, reason);
"""


class LedgerError(ValueError):
    """The ledger cannot be used; the message names its file."""


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """A picture of the store; the fields are those of the table `images`."""

    sha: str
    domain: str
    suffix: str
    width: int
    height: int
    bytes: int
    origin: str
    licence: str
    hash: int
    state: str
    reason: str = ""
    twin: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was at a place; the fields are those of the table `findings`."""

    place: str
    stamp: str
    domain: str
    sha: str = ""
    reason: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class AnswerRow:
    """What came of a question; the fields are those of the table `answers`."""

    key: str
    step: str
    domain: str
    image: str
    kind: str
    language: str
    prompt: str
    seed: int
    model: str
    text: str
    finish: str
    reason: str
    detail: str
    attempts: int
    input_tokens: int
    output_tokens: int
    usd: float
    seconds: float


class Ledger:
    """A project's ledger, open for one process at a time to write and any number to read."""

    def __init__(self, path: Path) -> None:
        """Opens or begins it.

        Raises:
          LedgerError: it is of another version, or no ledger.
        """
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30.0)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # what is committed survives a power cut
            self._begin(path)
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{path}: not a ledger, or damaged ({error})") from None

    def _begin(self, path: Path) -> None:
        with self.changes():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise LedgerError(f"{path}: is of version {version}, and this program writes version {VERSION}")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextlib.contextmanager
    def changes(self) -> Iterator[None]:
        """All changes inside of the block are made, or, if it is left by an error or a kill, none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _insert(self, table: str, row: Any, conflict: str = "") -> None:
        values = {**dataclasses.asdict(row), "at": time.time()}
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        self._db.execute(f"INSERT {conflict} INTO {table} ({names}) VALUES ({marks})", values)

    def add_image(self, row: ImageRow) -> None:
        """A picture that is new to the ledger."""
        self._insert("images", row)

    def add_finding(self, finding: Finding) -> None:
        """What was found at a place, instead of what was found there before."""
        self._insert("findings", finding, "OR REPLACE")

    def add_answer(self, row: AnswerRow) -> None:
        """What came of a question, instead of what came of it before; what that had cost and taken is added."""
        before = self._db.execute(
            "SELECT usd, input_tokens, output_tokens, attempts FROM answers WHERE key = ?", (row.key,)
        ).fetchone() or (0.0, 0, 0, 0)
        usd, read, written, attempts = before
        row = dataclasses.replace(
            row, usd=row.usd + usd, input_tokens=row.input_tokens + read, output_tokens=row.output_tokens + written,
            attempts=row.attempts + attempts,
        )  # fmt: skip
        self._insert("answers", row, "OR REPLACE")

    def settled(self, step: str, passing: Sequence[str]) -> set[str]:
        """Keys of a step's questions that need not be asked again: all but those that failed for a passing reason."""
        marks = ", ".join("?" * len(passing))
        sql = f"SELECT key FROM answers WHERE step = ? AND reason NOT IN ({marks})"
        return {key for (key,) in self._db.execute(sql, (step, *passing))}

    def spent(self) -> float:
        """US dollars, over all steps."""
        return float(self._db.execute("SELECT coalesce(sum(usd), 0) FROM answers").fetchone()[0])

    def answers(self, step: str) -> Iterator[AnswerRow]:
        """What came of a step's questions, in the order of their keys."""
        names = ", ".join(field.name for field in dataclasses.fields(AnswerRow))
        for row in self._db.execute(f"SELECT {names} FROM answers WHERE step = ? ORDER BY key", (step,)):
            yield AnswerRow(*row)

    def stamps(self) -> dict[str, str]:
        """Place → stamp of what was found there."""
        return dict(self._db.execute("SELECT place, stamp FROM findings"))

    def image(self, sha: str) -> ImageRow | None:
        """The picture of this hash, None where there is none."""
        names = ", ".join(field.name for field in dataclasses.fields(ImageRow))
        row = self._db.execute(f"SELECT {names} FROM images WHERE sha = ?", (sha,)).fetchone()
        return ImageRow(*row) if row else None

    def images(self, where: str = "1", values: Mapping[str, Any] | None = None) -> Iterable[ImageRow]:
        """Pictures that fulfil an SQL condition, in the order in which they came."""
        names = ", ".join(field.name for field in dataclasses.fields(ImageRow))
        for row in self._db.execute(f"SELECT {names} FROM images WHERE {where} ORDER BY rowid", values or {}):
            yield ImageRow(*row)

    def hashes(self) -> tuple[list[str], np.ndarray]:
        """SHA-256 and perceptual hashes, int64[n], of the kept pictures."""
        rows = self._db.execute("SELECT sha, hash FROM images WHERE state = 'kept' ORDER BY rowid").fetchall()
        return [sha for sha, _ in rows], np.array([bits for _, bits in rows], np.int64)

    def picture_counts(self) -> dict[str, dict[str, int]]:
        """Domain → "kept", or the reason why not → number of places, for every place that was looked at."""
        counts: dict[str, dict[str, int]] = {}
        sql = """
            SELECT f.domain, CASE WHEN f.reason <> '' THEN f.reason WHEN i.state = 'kept' THEN 'kept' ELSE i.reason END AS what,
              count(*) FROM findings f LEFT JOIN images i ON i.sha = f.sha GROUP BY 1, 2 ORDER BY 1, 3 DESC
        """
        for domain, what, count in self._db.execute(sql):
            counts.setdefault(domain, {})[what] = count
        return counts
