"""A row of a benchmark, and how rows are shown."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmfuser_jax import files


@dataclasses.dataclass(frozen=True)
class BenchRow:
    """One thing measured.

    Attributes:
      name: what.
      ours, theirs: in `unit`.
      unit: of both; of seconds and bytes less is better, of anything else more.
      peer: what ours is compared with.
      note: what the numbers depend on.
    """

    name: str
    ours: float
    theirs: float
    unit: str
    peer: str
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times better ours is."""
        less_is_better = self.unit in ("s", "MB")
        return self.theirs / self.ours if less_is_better else self.ours / self.theirs


def show(rows: Sequence[BenchRow], path: Path | None) -> None:
    """Prints a table, and writes it as JSON where a path is given."""
    table = Table(title=f"{platform.machine()}, Python {platform.python_version()}")
    for name in ("what", "ours", "peer", "unit", "times better", "peer is", "note"):
        table.add_column(name, justify="right" if name in ("ours", "peer", "times better") else "left")
    for row in rows:
        table.add_row(
            row.name, f"{row.ours:,.4g}", f"{row.theirs:,.4g}", row.unit, f"{row.ratio:.2f}", row.peer, row.note
        )
    Console(width=170).print(table)
    if path:
        found = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows]
        files.write_text(path, json.dumps(found, indent=2) + "\n")
