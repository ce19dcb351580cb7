"""A profile of some steps, on demand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax

LOG = logging.getLogger(__name__)


def parse_steps(text: str) -> range:
    """ "100:103" → the three steps after step 100; "" → none.

    Raises:
      ValueError: anything else.
    """
    first, _, last = text.partition(":")
    if not text:
        return range(0)
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise ValueError(f"profile_steps {text!r} is not FIRST:LAST, two steps, the second later")
    return range(int(first), int(last))


class Profile:
    """Records what devices and host do during some steps, for TensorBoard's profile page and ui.perfetto.dev."""

    def __init__(self, folder: Path, steps: range) -> None:
        """`steps`: global; empty for no profile."""
        self._folder = folder
        self._steps = steps
        self._recording = False

    def before(self, step: int) -> None:
        """Begins, if `step` is the one to begin at."""
        if self._steps and step == self._steps.start:
            jax.profiler.start_trace(str(self._folder))
            self._recording = True

    def after(self, step: int, result: Any) -> None:
        """Ends, if `step` was the last one; waits for the devices, whose work would else be cut off."""
        if self._recording and step >= self._steps.stop:
            jax.block_until_ready(result)
            self.close()
            LOG.info("profile of steps %d to %d: %s", self._steps.start, step, self._folder)

    def close(self) -> None:
        """Writes what there is, if the run ends before."""
        if self._recording:
            self._recording = False
            jax.profiler.stop_trace()
