"""Being told to stop: SIGTERM of a scheduler that takes the machine back, SIGINT of a person."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

LOG = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818  (it is no error)
    """Training was told to stop, and has saved.

    Attributes:
      exit_code: 128 and the signal, as shells report it.
    """

    def __init__(self, number: int | None, step: int) -> None:
        """`number`: of the signal; None is SIGTERM, which another process of the run got."""
        number = number or signal.SIGTERM
        super().__init__(f"stopped at step {step} by {signal.Signals(number).name}; run again to go on")
        self.exit_code = 128 + number


class _Interrupted(BaseException):
    """Leaves a block that may be left at any time; no Exception, as who handles all of these would take it for his own."""


class StopSignals:
    """Notes the first SIGTERM or SIGINT; the second one ends the process at once.

    Attributes:
      received: the signal; None before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._leave = False

    def notice(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        del frame
        name = signal.Signals(number).name
        if self.received is not None:
            LOG.warning("%s again: stopping at once", name)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        LOG.warning("%s: saving after this step, then stopping; a second one stops at once", name)
        if jax.process_count() > 1 and number != signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)  # that JAX notices, and tells the other processes
        elif self._leave:
            raise _Interrupted

    def reached(self, step: int) -> bool:
        """Whether training stops after `step`, which has just been done: the same answer in all processes of a run."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.received is not None

    def interruptible(self, action: Callable[[], None]) -> bool:
        """Runs something that the first signal may end in the middle; returns whether it came to its end.

        Where other processes wait for this one, it always does.
        """
        if jax.process_count() > 1:
            action()
            return True
        if self.received is not None:
            return False
        try:
            self._leave = True
            action()
            self._leave = False
        except _Interrupted:
            return False
        finally:
            self._leave = False
        return True


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Listens inside of its block. Of several processes, JAX listens for SIGTERM itself, since they started."""
    stop = StopSignals()
    numbers = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # Python tells only the main thread
    before = {number: signal.signal(number, stop.notice) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
