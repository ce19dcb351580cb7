"""Progress of long work: a bar on a terminal, else a line in the log now and then."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LOG = logging.getLogger(__name__)
LOG_SECONDS = 10.0

R = TypeVar("R")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Items a second."""
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")


class Counter:
    """How much of something is done, and what is said of it."""

    def __init__(self, bar: Progress, name: str, total: int) -> None:
        """`bar` is shown if it is not disabled."""
        self._bar, self._name, self._total = bar, name, total
        self._task = bar.add_task(name, total=total, note="")
        self._done, self._start, self._said = 0, time.monotonic(), time.monotonic()

    def add(self, count: int, note: str = "") -> None:
        """So many more are done; `note` is shown behind the numbers."""
        self._done += count
        self._bar.update(self._task, completed=self._done, note=note)
        now = time.monotonic()
        if self._bar.disable and now - self._said > LOG_SECONDS:
            self._said = now
            rate = self._done / (now - self._start)
            left = f"{(self._total - self._done) / rate:,.0f} s left" if rate else ""
            numbers = f"{self._done:,} of {self._total:,} ({rate:,.0f}/s)"
            LOG.info("%s: %s", self._name, ", ".join(filter(None, (numbers, note, left))))


@contextlib.contextmanager
def counting(name: str, total: int) -> Iterator[Counter]:
    """A bar on a terminal while the block runs, else a line in the log every few seconds.

    Args:
      name: what the items are called.
      total: how many items there are.
    """
    console = Console(stderr=True)
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), _Rate(), note, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield Counter(bar, name, total)


def shown(results: Iterable[R], name: str, total: int, size: Callable[[R], int]) -> Iterator[R]:
    """Passes `results` on; meanwhile their progress is shown.

    Args:
      results: what is done.
      name: what the items are called.
      total: how many items there are.
      size: how many of them a result stands for.
    """
    with counting(name, total) as counter:
        for result in results:
            counter.add(size(result))
            yield result
