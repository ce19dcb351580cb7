"""What the C allocator is told, so that steps on a CPU find the memory of the last one."""

from __future__ import annotations

import ctypes
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Of glibc's malloc.h."""

ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel[0-9]*", "vfio/[0-9]*")
"""Device files of GPUs and TPUs. On such hosts many threads load data, and would wait for each other in one arena."""


def keep_freed_memory() -> None:
    """Has glibc keep what is freed for the next allocation. Does nothing with another allocator, or beside accelerators.

    To be called before JAX makes its threads, each of which would get an arena of its own, which returns large blocks.

    Every step on a CPU allocates and frees one block for all its temporaries. Returned to the system, its pages would be
    mapped and zeroed again at every step: 3.4 s instead of 2.85 for a train step of 80 M parameters on two cores.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    accelerators = any(found for pattern in ACCELERATORS for found in Path("/dev").glob(pattern))
    if mallopt is not None and not accelerators:
        mallopt(M_ARENA_MAX, 1)  # only the first arena has room for large blocks
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
