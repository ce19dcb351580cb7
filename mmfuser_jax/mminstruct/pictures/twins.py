"""Which of the kept pictures looks the same as another one: by hashes first, and then, where these are near, by looking."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path

import numpy as np

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.inspection import CELLS, Cells, Inspected, cells_of, near_places, same

SOME = 43
"""Every so manieth of a picture's cells is held in memory: from all over it, enough to tell most pictures apart."""

TOGETHER = 512
"""Pictures that are compared by all of their cells at once."""


class Twins:
    """The kept pictures of a project. Of each, some 200 bytes are in memory, and all cells in a temporary file without a name."""

    def __init__(self, ledger: Ledger, images: Path, near: int) -> None:
        """Begins with what is kept.

        Args:
          ledger: of the project.
          images: its store; a picture of an earlier run is read again once, where that is needed.
          near: bits by which the hashes of two pictures differ at most that may be the same.
        """
        self._images, self._near = images, near
        self._shas, hashes = ledger.hashes()
        self._places = {sha: place for place, sha in enumerate(self._shas)}
        size = max(1024, 2 * len(hashes))
        self._hashes = np.zeros(size, np.int64)
        self._hashes[: len(hashes)] = hashes
        self._some = np.zeros((size, len(range(0, CELLS**2, SOME))), np.uint8)
        self._known = np.zeros(size, bool)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._cells = self._mapped()

    def _mapped(self) -> np.ndarray:
        """All cells, to be read. They are written to the file, as a full disk would kill a process that writes to a map."""
        shape = len(self._hashes), CELLS**2
        self._file.truncate(shape[0] * shape[1])
        return np.memmap(self._file, np.uint8, "r", shape=shape)

    def find(self, picture: Inspected) -> str:
        """SHA-256 of a kept picture that looks the same as another one; of several, always the same one; "" where none does.

        Raises:
          FileNotFoundError: a kept picture is gone from the store.
        """
        places = near_places(picture.hash, self._hashes[: len(self._shas)], self._near)
        for place in places[~self._known[places]].tolist():
            self._remember(place, cells_of(store.find(self._images, self._shas[place])))
        cells = np.frombuffer(picture.cells, np.uint8)
        alike = [(self._shas[place], place) for place in places[same(cells[::SOME], self._some[places])].tolist()]
        others = sorted(pair for pair in alike if pair[0] not in ("", picture.sha))
        for start in range(0, len(others), TOGETHER):
            some = others[start : start + TOGETHER]
            found = same(cells, self._cells[[place for _, place in some]])
            if found.any():
                return some[int(found.argmax())][0]
        return ""

    def _remember(self, place: int, cells: Cells) -> None:
        self._file.seek(place * CELLS**2)
        self._file.write(cells)
        self._file.flush()
        self._some[place] = np.frombuffer(cells, np.uint8)[::SOME]
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
            self._cells = self._mapped()
        self._shas.append(picture.sha)
        self._hashes[place] = picture.hash
        self._remember(place, picture.cells)

    def remove(self, sha: str) -> None:
        """Takes note that a picture is not kept any more, if it was."""
        if (place := self._places.pop(sha, None)) is not None:
            self._shas[place] = ""
            self._known[place] = True  # there is nothing to be read
