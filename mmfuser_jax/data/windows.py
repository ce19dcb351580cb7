"""Mixing and packing streams: examples are collected in windows, and each window is laid into as few rows as fit.

Grain's own packers fill rows as examples come, and carry their pixels while they wait. Seen as a window of lengths, the
same examples fill rows better (the longest first), and pictures are decoded only for rows that leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from mmfuser_jax.data.packing import plan_rows
from mmfuser_jax.data.rows import Drawn, Rejected, Row


class PackedRows(grain.IterDataset):
    """Named streams of `Drawn | Rejected` → one stream of `Row`, mixed by weight."""

    def __init__(
        self,
        streams: Mapping[str, grain.IterDataset],
        weights: Mapping[str, float],
        *,
        length: int,
        tiles: int,
        window: int,
        seed: int,
    ) -> None:
        """
        Args:
          streams: what to pack, by name; endless.
          weights: share of each in the examples, relative to the others'.
          length, tiles: T and I of a row.
          window: examples looked at together; more fill rows better, and are held in memory (without their pixels).
          seed: of the order in which the rows of a window leave.
        """
        super().__init__(list(streams.values()))
        self._streams = streams
        self.weights = dict(weights)
        self._length = length
        self._tiles = tiles
        self._window = window
        self._seed = seed

    def __iter__(self) -> grain.DatasetIterator:
        return _PackedRowsIterator({name: stream.__iter__() for name, stream in self._streams.items()}, self)

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

    def shares(self, weights: Mapping[str, float], number: int) -> dict[str, int]:
        """How many examples of window `number` are of each stream: what is due up to its end less what was before."""
        total = sum(weights.values())
        names = sorted(weights)
        bounds = np.cumsum([0.0, *(weights[name] / total for name in names)])
        ends, starts = (np.round(bounds * self._window * n).astype(int) for n in (number + 1, number))
        return dict(zip(names, (np.diff(ends) - np.diff(starts)).tolist(), strict=True))


class _PackedRowsIterator(grain.DatasetIterator):
    """Its state: where the streams stood when the window began, its weights, and how many of its rows have left.

    A window is finished with the weights that it was begun with, or rows of it would be seen twice and others never.
    """

    def __init__(self, streams: Mapping[str, grain.DatasetIterator], dataset: PackedRows) -> None:
        super().__init__(list(streams.values()))
        self._streams = streams
        self._dataset = dataset
        self._begin: dict[str, Any] = self._positions()
        self._weights = dataset.weights
        self._number = 0
        self._emitted = 0
        self._rows: list[Row] | None = None

    def _positions(self) -> dict[str, Any]:
        return {name: stream.get_state() for name, stream in self._streams.items()}

    def __next__(self) -> Row:
        while self._rows is None or self._emitted == len(self._rows):
            if self._rows is not None:
                self._begin, self._weights = self._positions(), self._dataset.weights
                self._number, self._emitted = self._number + 1, 0
            self._rows = self._dataset.plan(self._read(), self._number)
        self._emitted += 1
        return self._rows[self._emitted - 1]

    def _read(self) -> list[Drawn | Rejected]:
        shares = self._dataset.shares(self._weights, self._number)
        return [next(self._streams[name]) for name, count in shares.items() for _ in range(count)]

    def get_state(self) -> dict[str, Any]:
        """JSON values, a few hundred bytes."""
        return {"window": self._begin, "weights": self._weights, "number": self._number, "emitted": self._emitted}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken; the window that it stood in is read again."""
        self._begin, self._weights = state["window"], state["weights"]
        self._number, self._emitted = state["number"], state["emitted"]
        for name, stream in self._streams.items():
            stream.set_state(self._begin[name])
        self._rows = None
