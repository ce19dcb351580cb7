"""Which of the kept pictures looks the same as another one: by hashes first, and then, where these are near, by looking."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.inspection import CELLS, Cells, Inspected, cells_of, near_places, same

SOME = CELLS - 1
"""Every so manieth of a picture's cells is held in memory: from all over it, enough to tell most pictures apart."""

RECENT = 1024
"""Pictures of which all cells are remembered: of those that many others look the same as."""


class Twins:
    """The kept pictures of a project. Of each, some 200 bytes are in memory."""

    def __init__(self, ledger: Ledger, images: Path, near: int) -> None:
        """Begins with what is kept.

        Args:
          ledger: of the project.
          images: its store; pictures are read again where that is needed.
          near: bits by which the hashes of two pictures differ at most that may be the same.
        """
        self._near = near
        self._shas, hashes = ledger.hashes()
        self._places = {sha: place for place, sha in enumerate(self._shas)}
        size = max(1024, 2 * len(hashes))
        self._hashes = np.zeros(size, np.int64)
        self._hashes[: len(hashes)] = hashes
        self._some = np.zeros((size, len(range(0, CELLS**2, SOME))), np.uint8)
        self._known = np.zeros(size, bool)
        self._cells_of = functools.lru_cache(RECENT)(lambda sha: _cells(cells_of(store.find(images, sha))))

    def find(self, picture: Inspected) -> str:
        """SHA-256 of a kept picture that looks the same as another one; of several, always the same one; "" where none does.

        Raises:
          FileNotFoundError: a kept picture is gone from the store.
        """
        places = near_places(picture.hash, self._hashes[: len(self._shas)], self._near)
        for place in places[~self._known[places]].tolist():
            self._remember(place, self._cells_of(self._shas[place]))
        cells = _cells(picture.cells)
        alike = [self._shas[place] for place in places[same(cells[::SOME], self._some[places])].tolist()]
        return min(
            (sha for sha in alike if sha not in ("", picture.sha) and same(cells, self._cells_of(sha))), default=""
        )

    def _remember(self, place: int, cells: np.ndarray) -> None:
        self._some[place] = cells[::SOME]
        self._known[place] = True

    def add(self, picture: Inspected) -> None:
        """Takes note of a picture that is kept by now."""
        if picture.sha in self._places:
            return
        place = self._places[picture.sha] = len(self._shas)
        if place == len(self._hashes):
            self._hashes, self._some, self._known = (
                np.concatenate([x, np.zeros_like(x)]) for x in (self._hashes, self._some, self._known)
            )
        self._shas.append(picture.sha)
        self._hashes[place] = picture.hash
        self._remember(place, _cells(picture.cells))

    def remove(self, sha: str) -> None:
        """Takes note that a picture is not kept any more, if it was."""
        if (place := self._places.pop(sha, None)) is not None:
            self._shas[place] = ""
            self._known[place] = True  # there is nothing to be read


def _cells(cells: Cells) -> np.ndarray:
    return np.frombuffer(cells, np.uint8)
