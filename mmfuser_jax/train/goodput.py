"""Where the time of a run goes: what share of it trains, and what takes the rest."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from mmfuser_jax import files
from mmfuser_jax.train.metrics import read_metrics

FILE = "goodput.json"
KINDS = ("startup", "compile", "data", "validation", "saving", "lost")
"""What is not training: opening and restoring, the first call of every stage's step, waiting for batches, validating,
waiting for checkpoints, and steps that a kill made a run do again."""


class Goodput:
    """Seconds of a run by kind, over all of its parts; kept in goodput.json, which a killed run leaves behind as well."""

    def __init__(self, workdir: Path, saved_seconds: float, started: float) -> None:
        """Goes on from what is there.

        Args:
          workdir: of the run.
          saved_seconds: of the run up to the checkpoint that it goes on from.
          started: by the monotonic clock, when this part of it began; all since then was startup.
        """
        self._path = workdir / FILE
        self._started = started
        self._seconds = dict.fromkeys((*KINDS, "training"), 0.0)
        if saved_seconds and self._path.exists():
            self._seconds |= files.read_json(self._path)
            logged = (row.get("elapsed_seconds", 0.0) for row in read_metrics(workdir / "metrics.jsonl"))
            lost = min(max(0.0, max(logged, default=0.0) - saved_seconds), self._seconds["training"])
            self._seconds["lost"] += lost
            self._seconds["training"] -= lost
        self._before = sum(self._seconds.values())
        self._seconds["startup"] += time.monotonic() - started

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """The time of its block goes to `kind`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[kind] += time.monotonic() - started

    def read(self) -> Mapping[str, float]:
        """Seconds by kind; training is what nothing else has taken."""
        total = self._before + time.monotonic() - self._started
        others = sum(self._seconds[kind] for kind in KINDS)
        return {**self._seconds, "training": max(0.0, total - others)}

    def share(self) -> float:
        """Of all the time, the share that trained."""
        seconds = self.read()
        return seconds["training"] / max(sum(seconds.values()), 1e-9)

    def write(self) -> None:
        """Keeps it, for the next part of the run; process 0 does."""
        if jax.process_index() == 0:
            rounded = {kind: round(seconds, 3) for kind, seconds in self.read().items()}
            files.write_text(self._path, json.dumps(rounded, indent=1) + "\n")

    def describe(self) -> str:
        """One line, largest first."""
        seconds = self.read()
        rest = sorted(((seconds[kind], kind) for kind in KINDS if seconds[kind] >= 0.05), reverse=True)
        return f"{self.share():.1%} of the time trained; " + ", ".join(f"{kind} {x:.1f} s" for x, kind in rest)
