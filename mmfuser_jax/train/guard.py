"""Bad steps: a gradient that is not finite, a loss that leaps, a batch with nothing to learn from."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mmfuser_jax import files
from mmfuser_jax.train.errors import TrainingError
from mmfuser_jax.types import Leaf

LOG = logging.getLogger(__name__)

WINDOW = 128
"""Good steps that a leap is measured against; none is seen before half of them are there."""

LEAST_SPREAD = 0.01
"""Standard deviation that is assumed at least, as a share of the mean: a flat curve must not make everything a leap."""

MOST_SKIPPED = 10
"""Bad steps in a row that are skipped; after them a run stops, since it will hardly come right by itself."""

REPORT = "bad_steps.jsonl"


@dataclasses.dataclass(frozen=True)
class Guard:
    """What the train step looks for by itself, beside what the loop sees in its numbers.

    Attributes:
      skip: leave parameters and moments as they are after a bad step; False for a run that stops there.
      sigmas: a leap is a loss or gradient norm this many standard deviations above the mean of the last WINDOW good steps;
        0 looks for none.
    """

    skip: bool
    sigmas: float


@struct.dataclass
class Recent:
    """Numbers of the last good steps.

    Attributes:
      values: float32[2, WINDOW], losses and gradient norms, in a ring.
      count: int32[], good steps so far.
    """

    values: Leaf
    count: Leaf

    @classmethod
    def load(cls, saved: Mapping[str, Any] | None) -> Recent:
        """From what `save` returned; None for a run that has kept none."""
        saved = saved or {"values": np.zeros((2, WINDOW)), "count": 0}
        return cls(jnp.asarray(saved["values"], jnp.float32), jnp.asarray(saved["count"], jnp.int32))

    def save(self) -> dict[str, Any]:
        """JSON values, exact."""
        return {"values": np.asarray(self.values, np.float64).tolist(), "count": int(self.count)}


def judge(guard: Guard, recent: Recent, loss: jax.Array, norm: jax.Array, tokens: jax.Array) -> tuple[Any, Recent]:
    """Whether a step is good (bool[]), and the numbers to judge the next one by. Only good steps are remembered."""
    now = jnp.stack([loss, norm]).astype(jnp.float32)
    good = jnp.isfinite(now).all() & (tokens > 0)
    if guard.sigmas:
        there = (jnp.arange(WINDOW) < recent.count)[None]
        count = jnp.maximum(jnp.sum(there), 1)
        mean = jnp.sum(recent.values, axis=1, where=there) / count
        variance = jnp.sum((recent.values - mean[:, None]) ** 2, axis=1, where=there) / count
        spread = jnp.maximum(jnp.sqrt(variance), LEAST_SPREAD * mean)
        leaps = jnp.any(now > mean + guard.sigmas * spread) & (recent.count >= WINDOW // 2)
        good &= ~leaps
    written = recent.values.at[:, recent.count % WINDOW].set(now)
    return good, Recent(jnp.where(good, written, recent.values), recent.count + good)


def keep_unless(good: jax.Array, new: Any, old: Any) -> Any:
    """`new` after a good step, else `old`; counters go on in any case, so that the schedule stays in time."""

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(good, new, old) if jnp.issubdtype(new.dtype, jnp.inexact) else new

    return jax.tree.map(keep, new, old)


class Journal:
    """Steps whose numbers nobody has looked at yet, with the records they were made of; looking makes the host wait.

    Attributes:
      skipped: steps skipped since the stage began.
    """

    def __init__(self, workdir: Path, stage: str, guard: Guard | None, start: int) -> None:
        """Reports of steps after `start`, where the stage begins or goes on, are taken back: they will be done again."""
        name = REPORT if jax.process_index() == 0 else f"bad_steps_{jax.process_index()}.jsonl"
        self._path = workdir / name
        if self._path.exists():
            rows = [line for line in self._path.read_text().splitlines() if json.loads(line)["step"] <= start]
            files.write_text(self._path, "".join(f"{row}\n" for row in rows))
        self._stage = stage
        self._skip = guard is not None and guard.skip
        self._in_a_row = 0
        self._steps: list[tuple[int, Mapping[str, Any], Sequence[str]]] = []
        self.skipped = 0

    def add(self, step: int, metrics: Mapping[str, Any], records: Sequence[str]) -> None:
        """Notes a step: its numbers, still on the devices, and the ids of this process's records."""
        self._steps.append((step, metrics, records))

    def read(self) -> dict[str, Any]:
        """Looks at all steps noted since the last time, and returns the numbers of the newest.

        Raises:
          TrainingError: a step was bad, and the run is to stop at it; or too many were, one after the other.
        """
        steps, self._steps = self._steps, []
        metrics: dict[str, Any] = {}
        for (step, _, records), metrics in zip(steps, jax.device_get([x for _, x, _ in steps]), strict=True):
            reason = _reason(metrics)
            self._in_a_row = self._in_a_row + 1 if reason else 0
            if reason:
                self._report(step, reason, metrics, records)
        return metrics

    def _report(self, step: int, reason: str, metrics: Mapping[str, Any], records: Sequence[str]) -> None:
        numbers = {name: _json_number(metrics[name]) for name in ("loss", "grad_norm")}
        row = {"step": step, "stage": self._stage, "reason": reason, **numbers, "records": list(records)}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = ", ".join(records[:3]) + (f" and {len(records) - 3} more" if len(records) > 3 else "")
        where = (
            f"step {step} of stage {self._stage}: {reason} (loss {metrics['loss']:.4g}, gradient norm "
            f"{metrics['grad_norm']:.4g}); records {shown}: {self._path}"
        )
        if not self._skip:
            raise TrainingError(f"{where}; nothing of it is saved; --config.on_bad_step=skip goes on without it")
        self.skipped += 1
        LOG.warning("skipped %s", where)
        if self._in_a_row > MOST_SKIPPED:
            raise TrainingError(f"more than {MOST_SKIPPED} steps in a row were bad, at last {where}")


def _reason(metrics: Mapping[str, Any]) -> str:
    """What is wrong with a step; "" for a good one."""
    if not math.isfinite(metrics["loss"]) or not math.isfinite(metrics["grad_norm"]):
        return "loss or gradient is not finite"
    if metrics["tokens"] == 0:
        return "no token is supervised"
    return "" if metrics.get("good", True) else f"loss or gradient leaps above the last {WINDOW} steps"


def _json_number(x: Any) -> float | None:
    return float(x) if math.isfinite(x) else None
