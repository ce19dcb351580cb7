"""Strict settings for every test: eight fake CPU devices, no silent rank promotion, checked shape annotations."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling takes most of the time of these tests: without LLVM's optimizations, half of it.
UNOPTIMIZED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {UNOPTIMIZED}"

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


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny():
    """Smallest model with every part in use."""
    return presets.tiny()
