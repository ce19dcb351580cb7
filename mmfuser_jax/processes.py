"""Work spread over worker processes that do not outlive their parent: results in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection
from typing import Any, TypeVar

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


def end_with_parent() -> None:
    """Called in a worker: ends it when its parent is gone. One whose parent was killed would wait for work forever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
