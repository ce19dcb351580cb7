"""Work spread over processes: results in the order of the tasks, little held at a time, and progress shown."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mmfuser_jax.processes import end_with_parent

LOG = logging.getLogger(__name__)
LOG_SECONDS = 10.0

T = TypeVar("T")
R = TypeVar("R")

_shared: Any = None
"""In a worker: what all its tasks need."""


def in_order(function: Callable[[Any, T], R], shared: Any, tasks: Iterable[T], workers: int) -> Iterator[R]:
    """`function(shared, task)` of every task, in the order of the tasks.

    Args:
      function: a module's function, as workers import it. It does not depend on earlier tasks.
      shared: sent to every worker once.
      tasks: small; taken as needed.
      workers: processes; with 1 all is done in this one.

    Raises:
      ValueError: no workers.
      RuntimeError: a worker was killed; and whatever `function` raises.
    """
    if workers < 1:
        raise ValueError(f"--workers={workers}: at least one is needed")
    if workers == 1:
        yield from (function(shared, task) for task in tasks)
        return
    # Spawned, not forked: threads of imported libraries do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(shared,))
    pending: deque[Future[R]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(_run, function, task))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(shared: Any) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    end_with_parent()


def _run(function: Callable[[Any, T], R], task: T) -> R:
    return function(_shared, task)


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
