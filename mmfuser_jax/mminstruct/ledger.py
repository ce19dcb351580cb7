"""Everything that a project has and did, in one SQLite file. Each change is on the disk before the next step relies on it."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmfuser_jax.mminstruct.reasons import PASSING_SQL
from mmfuser_jax.mminstruct.schema import SCHEMA, TABLES, VERSION, AnswerRow, ImageRow

R = TypeVar("R")


class LedgerError(ValueError):
    """The ledger cannot be used; the message names its file."""


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
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{path}: not a ledger, or damaged ({error})") from None

    def _begin(self, path: Path) -> None:
        if self.query("PRAGMA user_version") == [(VERSION,)]:  # no lock is needed to see that
            return
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

    def add(self, row: Any, conflict: str = "") -> None:
        """Writes a row of `schema.TABLES` with the time.

        Args:
          row: of one of the classes there.
          conflict: "OR REPLACE" or "OR IGNORE" where there may be one with the same key.
        """
        values = {**dataclasses.asdict(row), "at": time.time()}
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        self._db.execute(f"INSERT {conflict} INTO {TABLES[type(row)]} ({names}) VALUES ({marks})", values)

    def rows(self, kind: type[R], where: str = "1", values: Sequence[Any] = (), order: str = "rowid") -> Iterator[R]:
        """Rows of a class of `schema.TABLES` that fulfil an SQL condition."""
        names = ", ".join(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
        for row in self._db.execute(f"SELECT {names} FROM {TABLES[kind]} WHERE {where} ORDER BY {order}", values):
            yield kind(*row)

    def row(self, kind: type[R], where: str, values: Sequence[Any]) -> R | None:
        """The first of these rows."""
        return next(self.rows(kind, where, values), None)

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What an SQL statement gives, or changes."""
        return self._db.execute(sql, values).fetchall()

    def add_answer(self, row: AnswerRow) -> None:
        """What came of a question, instead of what came of it before, in the same words or in others; what that had cost is added.

        In others: where the project was changed after no answer had come.
        """
        where = (
            f"key = ? OR image = ? AND step = ? AND kind = ? AND language = ? AND about = ? AND reason IN {PASSING_SQL}"
        )
        subject = (row.image, row.step, row.kind, row.language, row.about)
        for before in list(self.rows(AnswerRow, where, (row.key, *subject))):
            row = dataclasses.replace(
                row, usd=row.usd + before.usd, input_tokens=row.input_tokens + before.input_tokens,
                output_tokens=row.output_tokens + before.output_tokens, attempts=row.attempts + before.attempts,
            )  # fmt: skip
            self.query("DELETE FROM answers WHERE key = ?", (before.key,))
        self.add(row)

    def spent(self) -> float:
        """US dollars, over all steps."""
        return float(self.query("SELECT coalesce(sum(usd), 0) FROM answers")[0][0])

    def answered(self, step: str) -> tuple[int, float]:
        """(answers of a step that a model wrote, US dollars that they have cost)."""
        sql = "SELECT count(*), coalesce(sum(usd), 0.0) FROM answers WHERE step = ? AND output_tokens > 0"
        ((answered, usd),) = self.query(sql, (step,))
        return answered, usd

    def asked(self, step: str) -> tuple[int, float]:
        """(questions of a step, US dollars that they have cost)."""
        ((asked, usd),) = self.query("SELECT count(*), coalesce(sum(usd), 0.0) FROM answers WHERE step = ?", (step,))
        return asked, usd

    def stamps(self) -> dict[str, str]:
        """Place → stamp of what was found there."""
        return dict(self.query("SELECT place, stamp FROM findings"))

    def image(self, sha: str) -> ImageRow | None:
        """The picture of this hash, None where there is none."""
        return self.row(ImageRow, "sha = ?", (sha,))

    def has_questions(self, sha: str) -> bool:
        """Whether a model was asked about a picture, or it has items."""
        sql = "SELECT 1 FROM answers WHERE image = ? UNION ALL SELECT 1 FROM items WHERE image = ? LIMIT 1"
        return bool(self.query(sql, (sha, sha)))

    def hashes(self) -> tuple[list[str], np.ndarray]:
        """SHA-256 and perceptual hashes, int64[n], of the kept pictures."""
        rows = self.query("SELECT sha, hash FROM images WHERE state = 'kept' ORDER BY rowid")
        return [sha for sha, _ in rows], np.array([bits for _, bits in rows], np.int64)

    def picture_counts(self) -> dict[str, dict[str, int]]:
        """Domain → "kept", "imported", or the reason why neither → number of places, for every place that was looked at."""
        counts: dict[str, dict[str, int]] = {}
        sql = """
            SELECT f.domain, CASE WHEN f.reason <> '' THEN f.reason WHEN i.state <> 'dropped' THEN i.state ELSE i.reason END AS what,
              count(*) FROM findings f LEFT JOIN images i ON i.sha = f.sha GROUP BY 1, 2 ORDER BY 1, 3 DESC
        """
        for domain, what, count in self.query(sql):
            counts.setdefault(domain, {})[what] = count
        return counts
