"""A row of a benchmark, and how rows are shown, kept and put into a document."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmfuser_jax import files

BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"
"""What stands around a generated table in a document; its name is inserted."""


@dataclasses.dataclass(frozen=True)
class BenchRow:
    """One thing measured.

    Attributes:
      name: what.
      ours, theirs: in `unit`.
      unit: of both; of seconds and bytes less is better, of anything else more.
      peer: what ours is compared with.
      note: what the numbers depend on.
      ratios: how many times better ours was in each repeat, where ours and the peer were measured in turns.
    """

    name: str
    ours: float
    theirs: float
    unit: str
    peer: str
    note: str = ""
    ratios: tuple[float, ...] = ()

    @property
    def ratio(self) -> float:
        """How many times better ours is."""
        less_is_better = self.unit in ("s", "MB")
        return self.theirs / self.ours if less_is_better else self.ours / self.theirs

    @property
    def spread(self) -> str:
        """Lowest and highest ratio among the repeats."""
        return f"{min(self.ratios):.2f} to {max(self.ratios):.2f}" if self.ratios else ""

    def __str__(self) -> str:
        spread = f" ({self.spread})" if self.ratios else ""
        return f"{self.name}: {self.ours:,.4g} {self.unit}, {self.peer} {self.theirs:,.4g}: {self.ratio:.2f}×{spread}"


Suites = Mapping[str, Sequence[BenchRow]]
"""Rows by suite."""

COLUMNS = ("what", "ours", "peer", "unit", "times better", "in single repeats", "peer is", "note")
NUMBERS = COLUMNS[1:3] + COLUMNS[4:5]


def _cells(row: BenchRow) -> tuple[str, ...]:
    numbers = f"{row.ours:,.4g}", f"{row.theirs:,.4g}", row.unit, f"{row.ratio:.2f}"
    return row.name, *numbers, row.spread, row.peer, row.note


def show(suites: Suites) -> None:
    """Prints a table."""
    table = Table(title=f"{platform.machine()}, Python {platform.python_version()}")
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in NUMBERS else "left")
    for rows in suites.values():
        for row in rows:
            table.add_row(*_cells(row))
        table.add_section()
    Console(width=190).print(table)


def save(suites: Suites, path: Path) -> None:
    """Writes rows as JSON; suites that the file has and `suites` has not stay in it."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name, rows in suites.items():
        kept[name] = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows]
    files.write_text(path, json.dumps(kept, indent=2) + "\n")


def load(path: Path) -> dict[str, list[BenchRow]]:
    """The inverse of `save`.

    Raises:
      OSError, ValueError: no such file, or none that `save` wrote.
    """
    suites: dict[str, list[dict[str, Any]]] = json.loads(path.read_text())
    return {suite: [_row(**kept) for kept in rows] for suite, rows in suites.items()}


def _row(*, ratio: float, ratios: Sequence[float], **fields: Any) -> BenchRow:
    """A row from what `save` wrote of it; the ratio follows from the rest."""
    return BenchRow(ratios=tuple(ratios), **fields)


def markdown(suites: Suites) -> str:
    """A table of all rows."""
    lines = ["| " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + "|".join("---:" if name in NUMBERS else "---" for name in COLUMNS) + "|")
    lines += ["| " + " | ".join(_cells(row)) + " |" for rows in suites.values() for row in rows]
    return "\n".join(lines) + "\n"


def put_into(document: Path, name: str, table: str) -> None:
    """Replaces what stands between the two markers of that name in a document.

    Raises:
      ValueError: the document lacks the markers.
    """
    marks = BEGIN.format(name), END.format(name)
    text = document.read_text("utf-8")
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"{document}: put {marks[0]} and {marks[1]} where the table belongs")
    files.write_text(document, f"{before}{begin}\n{table}{end}{after}")
