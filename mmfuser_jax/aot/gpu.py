"""NVIDIA GPUs to compile for: XLA needs to be told what it would otherwise ask the driver."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import jax
from jax.experimental import topologies

H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability 9.0a"
  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  device_address_bits: 64
  pcie_bandwidth: 34359738368
  device_interconnect_info { active_links: 18 }
  driver_version: "13.0.0"
  runtime_version: "12.9.0"
  compile_time_toolkit_version: "12.9.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""What `cudaGetDeviceProperties` says of an H100 SXM, in XLA's `GpuTargetConfigProto` (`Compute Capability 9.0`, tables of
the CUDA programming guide, "compute capabilities")."""

PACKAGES = ("jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cuda-nvcc-cu12")

OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}
"""Choosing kernels by trying them needs a GPU."""

NOTE = "compiled without Triton matmuls and autotuning, which need a GPU: memory is that of cuBLAS alone"


class GpuPackagesError(ValueError):
    """The packages that compile for GPUs are not installed."""


def devices(count: int, nodes: int = 1) -> tuple[jax.Device, ...]:
    """`count` H100s in each of so many nodes.

    Raises:
      GpuPackagesError: packages are missing; the message says how to install them.
    """
    installed = {distribution.name.lower() for distribution in importlib.metadata.distributions() if distribution.name}
    missing = [name for name in PACKAGES if name not in installed]
    if missing or importlib.util.find_spec("jax_plugins.xla_cuda12") is None:
        version = jax.__version__
        wanted = f"jax-cuda12-plugin=={version} jax-cuda12-pjrt=={version} nvidia-cuda-nvcc-cu12"
        raise GpuPackagesError(f"compiling for GPUs needs packages: pip install --no-deps {wanted}")
    found = topologies.get_topology_desc("h100", "cuda", target_config=H100, topology=f"1x{nodes}x{count}")
    return tuple(found.devices)
