"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

NAME = ".lock"


class LockedError(RuntimeError):
    """Somebody else is at work in a folder; the message says who."""


@contextlib.contextmanager
def locked(folder: Path, held: str = "a run is going on here") -> Iterator[None]:
    """Holds `folder` for this process; the system lets go when the process ends, however it does.

    Args:
      folder: made if it is not there.
      held: what to say to others who want it meanwhile.

    Raises:
      LockedError: another process holds it; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise LockedError(f"{folder}: {held} ({file.read().strip() or 'unknown'})") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
        file.truncate(0)
