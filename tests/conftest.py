"""Strict settings for every test: eight fake CPU devices, no silent rank promotion, checked shape annotations."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling takes most of the time of these tests: without LLVM's optimizations, half of it.
UNOPTIMIZED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
DEVICES = os.environ.get("MMFUSER_TEST_DEVICES", "8")  # fewer in processes that tests start
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES} {UNOPTIMIZED}"

from jaxtyping import install_import_hook

install_import_hook("mmfuser_jax", "beartype.beartype")

from pathlib import Path

import jax
import numpy as np
import pytest

from mmfuser_jax import presets, sharding

jax.config.update("jax_numpy_rank_promotion", "raise")

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def mesh():
    """All eight fake devices along `data`."""
    return sharding.make_mesh(data=-1)


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Modules whose tests train the same models over and over share what was compiled, over all workers of a session."""
    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "compiled"
    values = {"jax_compilation_cache_dir": str(shared), "jax_persistent_cache_min_compile_time_secs": 0.1}
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny():
    """Smallest model with every part in use."""
    return presets.tiny()
