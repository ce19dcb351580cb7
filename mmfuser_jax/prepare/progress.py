"""Progress over results: a bar on a terminal, else a line in the log now and then."""

from __future__ import annotations

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


def shown(results: Iterable[R], name: str, total: int, size: Callable[[R], int]) -> Iterator[R]:
    """Passes `results` on; meanwhile a bar on a terminal, else a line in the log every few seconds.

    Args:
      results: what is done.
      name: what the items are called.
      total: how many items there are.
      size: how many of them a result stands for.
    """
    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    done, start, said = 0, time.monotonic(), time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)
        for result in results:
            done += size(result)
            bar.update(task, completed=done)
            now = time.monotonic()
            if bar.disable and now - said > LOG_SECONDS:
                said = now
                LOG.info("%s: %s of %s (%s/s)", name, f"{done:,}", f"{total:,}", f"{done / (now - start):,.0f}")
            yield result
