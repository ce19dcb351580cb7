"""Several processes that work on one run: joining them, leaving together, and what only the first of them does."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmfuser_jax import xla_flags

LOG = logging.getLogger(__name__)

HINT = "give --coordinator=HOST:PORT, --num_processes and --process_id to every process, or start them by SLURM or on a pod"


class ClusterError(RuntimeError):
    """The processes of a run do not find each other, or another one of them has stopped."""


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the processes of a run; from then on `jax.devices()` are the devices of all of them.

    Call it before JAX touches a device. On Cloud TPU, GKE, SLURM and Open MPI nothing needs to be given: JAX asks the
    cluster. Elsewhere the arguments say it, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID do. On
    SLURM and Open MPI each process gets the GPU of its local rank, unless JAX_LOCAL_DEVICE_IDS says which. CPUs talk by
    Gloo, JAX's default.

    Args:
      coordinator: host:port where process 0 listens.
      num_processes: how many there are.
      process_id: 0 … num_processes - 1.

    Raises:
      ClusterError: no cluster, or an argument that makes no sense; the message says what to give.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            _given(num_processes, "JAX_NUM_PROCESSES"),
            _given(process_id, "JAX_PROCESS_ID"),
        )
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise ClusterError(f"cannot join the run's other processes ({str(error).rstrip('.')}); {HINT}") from error
    if jax.process_index():
        logging.getLogger("mmfuser_jax").setLevel(logging.WARNING)  # one process tells what all of them do
    LOG.info("%d processes, %d devices", jax.process_count(), jax.device_count())


def _given(value: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    return int(text) if value is None and text else value


@contextlib.contextmanager
def joined(
    together: bool, coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> Iterator[None]:
    """What a launch script runs in: the platform's compiler flags, and one run of several processes if there are.

    Args:
      together: ask the cluster for the other processes. Naming a coordinator says so as well.
      coordinator, num_processes, process_id: see `initialize`.

    Raises:
      ClusterError: see `initialize`.
    """
    platform = xla_flags.apply()
    if not together and coordinator is None:
        yield
        return
    initialize(coordinator, num_processes, process_id)
    if platform == "cpu":
        # Gloo gives up on a process that still compiles 30 s after another one has found its program in the cache.
        jax.config.update("jax_compilation_cache_dir", None)
    try:
        yield
    except BaseException:
        # JAX leaves through a barrier, where this process would wait for others that wait for it in a collective. They
        # hear of an end without goodbye at once. Handlers run in reverse order, so this one is ahead of JAX's.
        atexit.register(os._exit, 1)
        raise
    jax.distributed.shutdown()


def on_first(action: Callable[[], None]) -> None:
    """Runs `action`, which writes files, on process 0, while the others wait; so the files are there when it returns.

    Raises:
      ClusterError: on the others, where it failed; process 0 gets its error.
    """
    error: Exception | None = None
    if jax.process_index() == 0:
        try:
            action()
        except Exception as caught:
            error = caught
    if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.bool_(error is not None)) and error is None:
        raise ClusterError("process 0 has failed; its output says why")
    if error is not None:
        raise error
