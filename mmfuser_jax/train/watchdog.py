"""A run that hangs says where, and ends, so that whoever watches over it can start it again."""

from __future__ import annotations

import faulthandler
import sys


class Watchdog:
    """Ends the process with the stacks of all threads on stderr when nothing has been heard for too long.

    The clock is a thread of its own that needs no Python lock: a hang inside of a compiler or a collective is seen too.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds`: longest silence; 0 for no watchdog."""
        self._seconds = seconds

    def heard(self) -> None:
        """The run is alive: the clock starts anew."""
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=sys.__stderr__ or 2)

    def close(self) -> None:
        """Stops the clock; so does validation, which takes as long as it takes."""
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()
