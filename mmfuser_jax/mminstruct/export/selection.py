"""What is written and why the rest is not: decided once, into a file, as it may be larger than memory."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmfuser_jax.data.labels import text_length
from mmfuser_jax.data.records import IMAGE_MARKER, Turn
from mmfuser_jax.mminstruct.export import turns as turning
from mmfuser_jax.mminstruct.export.turns import TurnsError, conversation
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.questions import replies
from mmfuser_jax.mminstruct.review.decisions import Decision, decisions
from mmfuser_jax.mminstruct.schema import ImageRow, ItemRow
from mmfuser_jax.mminstruct.steps.step import seed_of
from mmfuser_jax.prepare.progress import shown

REASONS = {
    "refused": "the program refused it",
    "rejected": "people rejected it",
    "conflict": "people disagree on it",
    "doubtful": "it is doubtful, and nobody looked at it",
    "unreviewed": "nobody looked at it, and only what people took is wanted",
    "no_picture": "its picture is not kept in the store",
    "balance": "its domain and language have more judgements with this answer than with the other",
    **turning.REASONS,
}
"""Why an item is left out, by code."""

IMAGES = "images"
"""Folder of the pictures in a data set."""

LOCAL = "local files"
"""Instead of a host, of pictures that came from a disk."""

MADE = ("generate", "expand")
"""Steps whose items a model wrote; the others were taken over from the public set of that name."""

_TABLES = """
CREATE TABLE pictures (path TEXT PRIMARY KEY, domain TEXT, origin TEXT, host TEXT, licence TEXT);
CREATE TABLE items (
  id TEXT PRIMARY KEY,
  picture TEXT,      -- its path
  domain TEXT, type TEXT, language TEXT, step TEXT, state TEXT,
  decision TEXT, why TEXT, edited INT,
  left_out TEXT,     -- reason, "" where it is written
  answer TEXT,       -- of a choice its letter, of a judgement yes or no
  draw INT,          -- who goes first when some must go
  rounds INT, question INT, reply INT,   -- how many; words and characters of the human, and of the answers
  row TEXT           -- as it is written
);
CREATE INDEX items_by_place ON items (left_out, picture, id);
"""

TAGS = (
    "domain", "type", "language", "sha256", "origin", "licence", "step", "model", "prompt", "seed", "item", "reviewers",
    "edited",
)  # fmt: skip
"""What a row says of itself besides its words; all of it texts, as all formats and readers keep them."""

_ADD = f"INSERT INTO items VALUES ({', '.join('?' * 17)})"

_SURPLUS = """
UPDATE items SET left_out = 'balance' WHERE id IN (
  SELECT id FROM (
    SELECT id, row_number() OVER (PARTITION BY domain, language, answer ORDER BY draw, id) AS place,
      2 * sum(answer = 'yes') OVER whole AS twice_yes, count(*) OVER whole AS both
    FROM items WHERE type = 'judgement' AND left_out = ''
    WINDOW whole AS (PARTITION BY domain, language)
  ) WHERE place > min(twice_yes / 2, both - twice_yes / 2)
)
"""


class Selection:
    """A file of items and pictures; `query` asks it, in SQL."""

    def __init__(self, path: Path) -> None:
        """Begins an empty one."""
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;{_TABLES}")  # a kill begins anew

    def close(self) -> None:
        """Nothing can be asked any more."""
        self._db.close()

    def query(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows that an SQL statement gives, one by one."""
        return self._db.execute(sql, values)

    def count(self, condition: str = "left_out = ''") -> int:
        """How many items fulfil an SQL condition; those that are written."""
        return int(self._db.execute(f"SELECT count(*) FROM items WHERE {condition}").fetchone()[0])

    def rows(self) -> Iterator[dict[str, Any]]:
        """What is written, in its order: by path of the picture and id, so that all of a picture come together."""
        for (row,) in self.query("SELECT row FROM items WHERE left_out = '' ORDER BY picture, id"):
            yield json.loads(row)

    def pictures(self) -> Iterator[str]:
        """Paths of the pictures of items that are written, in order."""
        for (path,) in self.query("SELECT DISTINCT picture FROM items WHERE left_out = '' ORDER BY picture"):
            yield path


def select(project: Project, ledger: Ledger, selection: Selection) -> None:
    """Decides on every item that is not refused, and keeps what is written as the row that it becomes."""
    filling = _Filling(project, ledger, selection)
    ((total,),) = ledger.query("SELECT count(*) FROM items WHERE state <> 'refused'")
    selection.query("BEGIN")
    for item, decision in shown(decisions(ledger), "items", total, lambda _: 1):
        filling.add(item, decision)
    if project.config.export.balance:
        selection.query(_SURPLUS)
    selection.query("COMMIT")


def reviewers(ledger: Ledger, *, named: bool) -> dict[str, str]:
    """Reviewer → what a data set calls them: their name, which may be an address, only where that is wanted.

    Else a number in the order of first verdicts, which later ones do not change.
    """
    rows = ledger.query("SELECT reviewer FROM verdicts GROUP BY reviewer ORDER BY min(number)")
    return {name: name if named else f"reviewer {place}" for place, (name,) in enumerate(rows, 1)}


class _Filling:
    """Adds item by item."""

    def __init__(self, project: Project, ledger: Ledger, selection: Selection) -> None:
        self._unreviewed = project.config.export.unreviewed
        self._selection = selection
        self._ledger = ledger
        self._reviewers = reviewers(ledger, named=project.config.export.reviewer_names)
        sources = project.config.collect.sources
        self._folders = [project.path(text) for x in sources for text in (x.folder, x.pool) if text]
        self._picture = functools.lru_cache(maxsize=16)(self._known_picture)
        self._answer = functools.lru_cache(maxsize=256)(self._known_answer)

    def add(self, item: ItemRow, decision: Decision) -> None:
        """Adds one."""
        left_out, turns, picture = self._left_out(item, decision), [], self._picture(item.image)
        if not left_out:
            try:
                turns = conversation(item, decision.body)
            except TurnsError as error:
                left_out = error.reason
        if not left_out and picture is None:
            left_out = "no_picture"
        row = ""
        if picture is not None and not left_out:
            fields = {
                "id": item.id,
                "image": picture["path"],
                "conversations": [{"from": turn.role, "value": turn.text} for turn in turns],
                "tags": self._tags(item, decision, picture),
            }
            row = json.dumps(fields, ensure_ascii=False)
        texts = [turn.text.removeprefix(f"{IMAGE_MARKER}\n") for turn in turns]
        values = (
            item.id, picture["path"] if picture else "", item.domain, item.type, item.language, item.step, item.state,
            decision.state, decision.reason, int(decision.edited),
            left_out, _short_answer(item, turns), seed_of("balance", item.id),
            len(turns) // 2, sum(map(text_length, texts[::2])), sum(map(text_length, texts[1::2])), row,
        )  # fmt: skip
        self._selection.query(_ADD, values)

    def _left_out(self, item: ItemRow, decision: Decision) -> str:
        if decision.state != "open":
            return "" if decision.state == "accepted" else decision.state
        if item.state != "good":
            return "doubtful"
        return "" if self._unreviewed else "unreviewed"

    def _tags(self, item: ItemRow, decision: Decision, picture: dict[str, str]) -> dict[str, str]:
        people = ", ".join(self._reviewers[name] for name in decision.reviewers)
        values = (
            item.domain, item.type, item.language, item.image, picture["origin"], picture["licence"], item.step,
            *self._answer(item.answer), item.id, people, "yes" if decision.edited else "no",
        )  # fmt: skip
        return dict(zip(TAGS, values, strict=True))

    def _known_picture(self, sha: str) -> dict[str, str] | None:
        image = self._ledger.image(sha)
        if image is None or image.state == "dropped":
            return None
        picture = {
            "path": f"{IMAGES}/{image.domain}/{sha}{image.suffix}",
            "domain": image.domain,
            "origin": self._origin(image),
            "host": urlsplit(image.origin).hostname or LOCAL if "://" in image.origin else LOCAL,
            "licence": image.licence,
        }
        self._selection.query("INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?, ?)", tuple(picture.values()))
        return picture

    def _origin(self, image: ImageRow) -> str:
        """Where a picture is from, without the folders of this machine: they are nobody's business, and change."""
        path = Path(image.origin)
        if "://" in image.origin or not path.is_absolute():
            return image.origin
        for folder in self._folders:
            if path.is_relative_to(folder):
                return f"{folder.name}/{path.relative_to(folder)}"
        return path.name

    def _known_answer(self, key: str) -> tuple[str, ...]:
        """Model, prompt and seed that an item comes of; nothing where no model wrote it."""
        found = self._ledger.query("SELECT model, prompt, seed FROM answers WHERE key = ?", (key,))
        return tuple(map(str, found[0])) if found else ("", "", "")


def _short_answer(item: ItemRow, turns: Sequence[Turn]) -> str:
    """By which choices and judgements are counted."""
    if not turns or item.type not in ("choice", "judgement"):
        return ""
    answer = turns[1].text
    return answer if item.type == "choice" else str(replies.truth_of(answer))
