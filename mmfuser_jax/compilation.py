"""What the compiler is told for use and for training, and keeping what was compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

# Which operations go to the YNNPACK library. For float32 products of a few rows XLA's own code is faster (eight rows of 768
# by 2048, one core: 8.7 ms instead of 13.4 for six of them), for sums YNNPACK (2 ms instead of 13 for 4 M).
_LIBRARIES = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}

USE_ON_CPU = {
    **_LIBRARIES,
    # The default starts early whatever it can: it converts all 16-bit weights to float32 before the first is used.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
"""Options of the CPU compiler for programs that run a model."""

TRAIN_ON_CPU = {
    **_LIBRARIES,
    # Else parameters and moments that a step may overwrite are copied all the same.
    "xla_cpu_copy_insertion_use_region_analysis": True,
}
"""Options of the CPU compiler for a train step."""


@functools.cache
def _is_known(name: str, value: Any) -> bool:
    """Whether the CPU compiler here has an option; one that it does not know is an error of every program."""
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that this version's CPU compiler has: they are experimental, and come and go."""
    return {name: value for name, value in options.items() if _is_known(name, value)}


def cache_compilations(folder: Path) -> None:
    """Keeps compiled programs in `folder`, so that the next run of the same config starts at once.

    Several processes may share it: of one run, process 0 writes and all read (on CPUs none do, see `distributed.joined`);
    what was torn by a killed run is compiled again, with a warning. A program is found again only by the same versions,
    flags and kind of device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def frugal_jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` for running a model that fills the memory: a 7 B model in bfloat16 needs its weights once, not thrice.

    The backend is looked up at the first call, so that a module can be imported before devices are set up.
    """

    @functools.cache
    def compiled() -> Callable[..., Any]:
        compiler_options = known_options(USE_ON_CPU) if jax.default_backend() == "cpu" else None
        return jax.jit(function, compiler_options=compiler_options, **options)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call
