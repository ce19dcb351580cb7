"""Packing a stream: examples are collected in windows, and each window is laid into as few rows as fit.

Grain's own packers fill rows as examples come, and carry their pixels while they wait. Seen as a window of lengths, the
same examples fill rows better (the longest first), and pictures are decoded only for rows that leave.
"""

from __future__ import annotations

from typing import Any

import grain
import numpy as np

from mmfuser_jax.data.packing import plan_rows
from mmfuser_jax.data.rows import Drawn, Rejected, Row


class PackedRows(grain.IterDataset):
    """Stream of `Drawn | Rejected` → stream of `Row`."""

    def __init__(self, parent: grain.IterDataset, *, length: int, tiles: int, window: int, seed: int) -> None:
        """
        Args:
          parent: what to pack.
          length, tiles: T and I of a row.
          window: examples looked at together; more fill rows better, and are held in memory (without their pixels).
          seed: of the order in which the rows of a window leave.
        """
        super().__init__(parent)
        self._length = length
        self._tiles = tiles
        self._window = window
        self._seed = seed

    def __iter__(self) -> grain.DatasetIterator:
        return _PackedRowsIterator(self._parent.__iter__(), self)

    def plan(self, elements: list[Drawn | Rejected], number: int) -> list[Row]:
        """The rows of window `number`, in the order in which they leave."""
        drawn = [x for x in elements if isinstance(x, Drawn)]
        rejected = tuple(x for x in elements if isinstance(x, Rejected))
        lengths, tiles = [x.example.length for x in drawn], [x.example.tiles for x in drawn]
        planned = plan_rows(lengths, tiles, self._length, self._tiles)
        order = np.random.default_rng([self._seed, number]).permutation(len(planned))
        rows = [Row(tuple(drawn[i] for i in planned[row])) for row in order]
        if rejected:
            rows[:1] = [Row(rows[0].drawn if rows else (), rejected)]
        return rows

    def read(self, parent: grain.DatasetIterator) -> list[Drawn | Rejected]:
        """The next window; shorter at the end of a finite stream, then empty."""
        elements = []
        for _ in range(self._window):
            try:
                elements.append(next(parent))
            except StopIteration:
                break
        return elements


class _PackedRowsIterator(grain.DatasetIterator):
    """Its state is where the parent stood when the window began, and how many of the window's rows have left."""

    def __init__(self, parent: grain.DatasetIterator, dataset: PackedRows) -> None:
        super().__init__(parent)
        self._dataset = dataset
        self._begin: dict[str, Any] = parent.get_state()
        self._number = 0
        self._emitted = 0
        self._rows: list[Row] | None = None

    def __next__(self) -> Row:
        if self._rows is not None and self._emitted == len(self._rows):
            self._begin, self._number, self._emitted, self._rows = self._parent.get_state(), self._number + 1, 0, None
        if self._rows is None:
            self._rows = self._dataset.plan(self._dataset.read(self._parent), self._number)
            if not self._rows:
                raise StopIteration
        if self._emitted >= len(self._rows):  # restored with all of its window gone, or into a window that is shorter
            self._emitted = len(self._rows)
            return next(self)
        self._emitted += 1
        return self._rows[self._emitted - 1]

    def get_state(self) -> dict[str, Any]:
        return {"window": self._begin, "number": self._number, "emitted": self._emitted}

    def set_state(self, state: dict[str, Any]) -> None:
        self._begin, self._number, self._emitted = state["window"], state["number"], state["emitted"]
        self._parent.set_state(self._begin)
        self._rows = None
