"""One run at a time in a workdir."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mmfuser_jax.train.errors import TrainingError

NAME = ".lock"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds `workdir` for this process; the system lets go when the process ends, however it does.

    Raises:
      TrainingError: another run holds it; the message says which.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise TrainingError(f"{workdir}: a run is going on here ({file.read().strip() or 'unknown'})") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
        file.truncate(0)
