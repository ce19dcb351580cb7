"""Devices of machines that are not here, by the names that clouds give their slices."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from mmfuser_jax.aot import gpu
from mmfuser_jax.hardware import Chip, find_chip
from mmfuser_jax.sharding import ShardingError, make_mesh

FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
CUBIC = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}


@dataclasses.dataclass(frozen=True)
class TpuFamily:
    """A generation of TPUs.

    Attributes:
      shapes: the usual slice of so many chips.
      cores: what the number of "v4-32" counts in a chip: its cores, where it has two.
      options: of the topology: whether the two cores of a chip are one device, as JAX runs them.
    """

    shapes: Mapping[int, str]
    cores: int = 1
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


TPUS = {
    "v4": TpuFamily(CUBIC, 2, {"chip_config_name": "megacore"}),
    "v5e": TpuFamily(FLAT),
    "v5p": TpuFamily(CUBIC, 2, {"chip_config_name": "megacore"}),
    "v6e": TpuFamily(FLAT),
    "tpu7x": TpuFamily(CUBIC, 2),
}

LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What libtpu reads when it is loaded: there is no TPU to ask for its metadata, and other processes may compile too."""

EXAMPLES = "v5e:4x4, v5e-16, v6e:8x8, v4:2x2x1, v5p:4x4x4, tpu7x:4x4x4, h100:8, or several slices as '2x v5e:16x16'"


class TopologyError(ValueError):
    """There is no such topology, or what is needed to compile for it is not installed."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: "v5e:8x8", with the number of slices in front if there are several.
      chip: what the devices are.
      slices: groups of devices with fast links inside and a network between them.
      devices: all of them.
    """

    name: str
    chip: Chip
    slices: int
    devices: tuple[jax.Device, ...]


def find_topology(name: str, slices: int = 1) -> Topology:
    """Devices of a topology, for compiling only.

    Args:
      name: see EXAMPLES. The number after a dash counts chips, for v4, v5p and tpu7x cores, as in the clouds' names.
      slices: how many of them.

    Raises:
      TopologyError: no such topology, or a package is missing; the message says which.
    """
    match = re.fullmatch(r"\s*(?:(\d+)x\s+)?(\w+)([:\-])([\dx]+)\s*", name)
    if match is None:
        raise TopologyError(f"topology {name!r} is not like {EXAMPLES}")
    family, shape = match[2].lower(), match[4]
    slices = int(match[1] or slices)
    if family == "h100":
        devices, label = gpu.devices(_count(name, shape), slices), f"h100:{shape}"
    elif family in TPUS:
        shape = shape if match[3] == ":" else _shape_of(name, family, int(_count(name, shape)))
        devices, label = _tpu_devices(family, shape, slices), f"{family}:{shape}"
    else:
        raise TopologyError(f"topology {name!r}: {family!r} is not one of {', '.join(TPUS)}, h100")
    chip = find_chip(devices[0].device_kind)
    if chip is None:
        raise TopologyError(f"topology {name!r}: nothing is known of {devices[0].device_kind!r}")
    return Topology(f"{slices}x {label}" if slices > 1 else label, chip, slices, devices)


def _count(name: str, number: str) -> int:
    if not number.isdigit() or int(number) < 1:
        raise TopologyError(f"topology {name!r}: {number!r} is not a number of chips")
    return int(number)


def _shape_of(name: str, family: str, number: int) -> str:
    shapes, cores = TPUS[family].shapes, TPUS[family].cores
    if number % cores or number // cores not in shapes:
        known = ", ".join(f"{family}-{chips * cores}" for chips in shapes)
        raise TopologyError(f"topology {name!r} is not one of {known}; or give its shape, as {family}:{shapes[4]}")
    return shapes[number // cores]


def _tpu_devices(family: str, shape: str, slices: int) -> tuple[jax.Device, ...]:
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError("compiling for TPUs needs the package libtpu: pip install libtpu")
    for variable, value in LIBTPU.items():
        os.environ.setdefault(variable, value)
    several: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(f"{family}:{shape}", "tpu", **TPUS[family].options, **several)
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(f"topology {family}:{shape}: {str(error).splitlines()[0]}; known are {EXAMPLES}") from None
    return tuple(found.devices)


def topology_mesh(topology: Topology, sizes: Mapping[str, int]) -> Mesh:
    """The mesh of a run on these devices.

    Raises:
      ShardingError: the sizes do not multiply to the number of devices, or `data` does not divide over the slices.
    """
    try:
        return make_mesh(**sizes, devices=list(topology.devices))
    except ShardingError as error:
        raise ShardingError(f"{topology.name}: {error}; set --config.mesh.data, fsdp, tensor or sequence") from None
