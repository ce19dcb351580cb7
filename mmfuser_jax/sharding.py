"""The device mesh, and the one table from logical axis names to mesh axes.

Modules name the axes of their parameters and activations (`named`, `constrain`); this file alone decides what a name
means on a mesh. Linen accepts an unknown name (it replicates) and a mesh axis used twice (it drops one) without a word,
so both are errors here.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import meta
from flax.traverse_util import flatten_dict
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from mmfuser_jax.types import Array

MESH_AXES = ("data", "fsdp", "tensor", "sequence")

AnyMesh = Mesh | AbstractMesh
"""Of devices, or of sizes alone, on which shapes are traced."""

Names = Sequence[str | None]
"""Logical names of an array's axes; None: whole on every device."""

Rules = Mapping[str, str | tuple[str, ...] | None]

RULES: Rules = {
    # Parameters: the model width over fsdp, the wide inner axis over tensor.
    "layers": None,
    "embed": "fsdp",
    "embed_out": "tensor",  # the second width of a width × width kernel
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "patch_pixels": None,
    "patch_positions": None,
    "sampling": "tensor",  # heads × levels × points (× 2) of deformable attention, head-major
    "lora_rank": None,
    "norm": None,
    # Activations.
    "batch": ("data", "fsdp"),
    "length": "sequence",
    "kv_length": None,
    "activation_embed": None,
    "activation_heads": "tensor",
    "activation_kv_heads": "tensor",
    "activation_mlp": "tensor",
    "activation_vocab": "tensor",
    "patches": None,
    "pixels": None,
}


class ShardingError(ValueError):
    """A logical axis is unknown, collides with another one, or does not divide by its mesh axis."""


def logical_to_spec(axes: Sequence[str | None], rules: Rules = RULES) -> PartitionSpec:
    """PartitionSpec of one array from the logical names of its axes (None: replicated along that axis).

    Raises:
      ShardingError: a name is not in the table, or two axes of the array map to the same mesh axis.
    """
    used: dict[str, str] = {}
    entries: list[str | tuple[str, ...] | None] = []
    for name in axes:
        if name is not None and name not in rules:
            raise ShardingError(f"unknown logical axis {name!r} in {tuple(axes)}; known: {', '.join(sorted(rules))}")
        entry = None if name is None else rules[name]
        for mesh_axis in (entry,) if isinstance(entry, str) else entry or ():
            if mesh_axis in used:
                raise ShardingError(
                    f"logical axes {used[mesh_axis]!r} and {name!r} of {tuple(axes)} both map to mesh axis {mesh_axis!r}"
                )
            used[mesh_axis] = str(name)
        entries.append(entry)
    return PartitionSpec(*entries)


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, sequence: int = 1, devices: Any = None) -> Mesh:
    """Mesh with the four axes of MESH_AXES; one axis may be -1 and takes the remaining devices.

    Inside a TPU slice, axes follow its torus. Only `data` crosses the network between slices: each slice is a block of it.

    Args:
      data, fsdp, tensor, sequence: sizes of the axes.
      devices: list of jax.Device; by default all there are; those of a topology description make a mesh to compile for.

    Raises:
      ShardingError: the sizes do not multiply to the number of devices, or `data` does not divide over the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor, sequence]
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = len(devices) // max(1, math.prod(s for s in sizes if s != -1))
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise ShardingError(f"mesh {dict(zip(MESH_AXES, sizes, strict=True))} does not cover {len(devices)} devices")
    slices = _slices(devices)
    if sizes[0] % len(slices):
        raise ShardingError(
            f"mesh axis data={sizes[0]} must be a multiple of the {len(slices)} slices: no other axis may cross them"
        )
    shape = (sizes[0] // len(slices), *sizes[1:])
    # Splitting: two mesh axes may share an axis of the torus. jax.make_mesh allows that on v5e alone, and so refuses
    # 32 × 2 on a 4 × 4 × 4 v5p.
    blocks = [mesh_utils.create_device_mesh(shape, part, allow_split_physical_axes=True) for part in slices]
    return Mesh(np.concatenate(blocks), MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES))


def _slices(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """Devices by TPU slice. GPUs and CPUs report each host as a slice, but share one network: any axis may cross hosts."""
    parts: dict[int, list[jax.Device]] = {}
    for device in devices:
        # A topology of a single slice describes devices without this attribute.
        index = getattr(device, "slice_index", 0) if device.platform == "tpu" else 0
        parts.setdefault(index, []).append(device)
    return [parts[index] for index in sorted(parts)]


_active: list[AnyMesh] = []


@contextlib.contextmanager
def use_mesh(mesh: AnyMesh | None) -> Iterator[AnyMesh | None]:
    """Makes `constrain` place activations on `mesh` (None: nowhere in particular) while the block traces."""
    if mesh is not None:
        _active.append(mesh)
    try:
        yield mesh
    finally:
        if mesh is not None:
            _active.pop()


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that the arrays of a tree are spread over, None for those of a single device."""
    placements = {getattr(x, "sharding", None) for x in jax.tree.leaves(tree)}
    meshes = {placement.mesh for placement in placements if isinstance(placement, NamedSharding)}
    return next((mesh for mesh in meshes if isinstance(mesh, Mesh) and mesh.size > 1), None)


def gathered(tree: Any) -> Any:
    """Pins the arrays of a tree to be whole on every device of the mesh in use, so that every process can read them."""
    mesh = active_mesh()
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, replicated(mesh))


def constrain(x: Array, *axes: str | None) -> jax.Array:
    """Pins an activation to the placement its logical axes ask for; checks names even when no mesh is in use.

    An axis of one entry stays whole, such as the length of a row when decoding.
    """
    logical_to_spec(axes)
    if len(axes) != x.ndim:
        raise ShardingError(f"{len(axes)} names {axes} for an array of shape {x.shape}")
    if not _active:
        return jnp.asarray(x)
    spec = logical_to_spec([None if size == 1 else name for name, size in zip(axes, x.shape, strict=True)])
    return jax.lax.with_sharding_constraint(x, NamedSharding(_active[-1], spec))


def platform() -> str:
    """ "cpu", "gpu" or "tpu": where the mesh in use lies, which need not be here when compiling ahead of time."""
    mesh = _active[-1] if _active else None
    name = mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


def active_mesh() -> AnyMesh | None:
    """The mesh in use, None outside `use_mesh` and on a single device."""
    return _active[-1] if _active and _active[-1].size > 1 else None


def mesh_axes(name: str, rules: Rules = RULES) -> tuple[str, ...]:
    """Mesh axes that a logical axis is spread over."""
    (entry,) = logical_to_spec((name,), rules)
    return (entry,) if isinstance(entry, str) else entry or ()


def per_shard(
    function: Callable[..., Any], in_axes: Sequence[Names], out_axes: Names | Sequence[Names]
) -> Callable[..., Any]:
    """`function` on every device's own block of its arrays, for what the partitioner cannot split by itself or as well.

    Args:
      function: takes and returns arrays; what it does to the axes that are spread over devices is its own business.
      in_axes: logical axis names of each argument.
      out_axes: of the result, or of each of several results; () is a number that all devices have.

    Returns:
      `function` itself where no mesh is in use, or one of a single device.
    """
    out: Any = out_axes  # which of its two types it has, the type checker cannot tell
    several = any(isinstance(axes, tuple) for axes in out)
    in_specs = tuple(logical_to_spec(axes) for axes in in_axes)
    out_specs = tuple(logical_to_spec(axes) for axes in out) if several else logical_to_spec(out)
    mesh = active_mesh()
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def named(init: Callable[..., jax.Array], *axes: str | None) -> Callable[..., Any]:
    """Parameter initialiser whose result carries its logical axes (checked here, at trace time)."""
    logical_to_spec(axes)
    return nn.with_logical_partitioning(init, axes)


def param_specs(boxed: Any, rules: Rules = RULES) -> dict[str, Any]:
    """PartitionSpecs of a parameter tree whose leaves carry logical names, as `jax.eval_shape(model.init, …)` returns.

    Raises:
      ShardingError: a parameter carries no names, or its names are unknown or collide.
    """

    def spec(path: Any, leaf: Any) -> PartitionSpec:
        if not isinstance(leaf, nn.LogicallyPartitioned):
            raise ShardingError(f"parameter {jax.tree_util.keystr(path)} has no logical axis names")
        try:
            return logical_to_spec(leaf.names, rules)
        except ShardingError as error:
            raise ShardingError(f"parameter {jax.tree_util.keystr(path)}: {error}") from None

    return jax.tree_util.tree_map_with_path(spec, boxed, is_leaf=lambda x: isinstance(x, meta.AxisMetadata))


def param_shardings(boxed: Any, mesh: AnyMesh, rules: Rules = RULES) -> Any:
    """NamedShardings of a boxed parameter tree on `mesh`.

    Raises:
      ShardingError: as `param_specs`, or a dimension does not divide by the devices along its mesh axes.
    """
    specs = param_specs(boxed, rules)
    shapes = flatten_dict(meta.unbox(boxed))
    for path, spec in flatten_dict(specs).items():
        for size, devices, axes in _uneven(shapes[path].shape, spec, mesh):
            raise ShardingError(f"{'/'.join(path)}: size {size} does not divide over {devices} devices of {axes}")
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, PartitionSpec))


def _uneven(shape: Sequence[int], spec: PartitionSpec, mesh: AnyMesh) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """(size, devices, mesh axes) of the axes of an array that cannot be split into equal parts."""
    for size, entry in zip(shape, spec, strict=False):
        axes = (entry,) if isinstance(entry, str) else entry or ()
        devices = math.prod(mesh.shape[axis] for axis in axes)
        if size % devices:
            yield size, devices, axes


def replicated(mesh: AnyMesh) -> NamedSharding:
    """Sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_devices(mesh: AnyMesh | None) -> int:
    """Devices that the rows of a batch are spread over; their number must divide by it."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in mesh_axes("batch"))


def padded_rows(count: int, mesh: AnyMesh | None) -> int:
    """The next number of rows that divides over the devices of a mesh (None: over one)."""
    devices = batch_devices(mesh)
    return -(-count // devices) * devices


def batch_spec(x: Any) -> PartitionSpec:
    """PartitionSpec of a field of a batch: [B, T] by rows and length, anything else by rows alone."""
    return logical_to_spec(("batch", "length") if x.ndim == 2 else ("batch",))


@functools.cache
def batch_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): the share of the global batch's rows that this process loads, and how many shares there are.

    Processes whose devices work on the same rows, because a tensor or sequence axis spans them, load the same share.

    Raises:
      ShardingError: some processes have rows in common, but not all of theirs.
    """
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices).reshape(batch_devices(mesh), -1)
    try:
        return row_shares(owners)[jax.process_index()]
    except ShardingError as error:
        raise ShardingError(f"mesh {dict(mesh.shape)}: {error}") from None


def row_shares(owners: np.ndarray) -> dict[int, tuple[int, int]]:
    """`batch_share` of every process, from the processes [blocks of rows, devices of a block] that own the devices."""
    blocks = {int(process): tuple(np.flatnonzero((owners == process).any(axis=1))) for process in np.unique(owners)}
    shares = sorted(set(blocks.values()))
    if len({len(share) for share in shares}) > 1 or sum(map(len, shares)) != len(owners):
        raise ShardingError(
            "some processes share rows of the batch only in part; let tensor × sequence divide the devices of a process, "
            "or be a multiple of them"
        )
    return {process: (shares.index(held), len(shares)) for process, held in blocks.items()}


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Global arrays from this process's rows of a batch, see `batch_share` and `batch_spec`.

    Raises:
      ShardingError: the global row count, or the length, does not divide by the devices that share it.
    """
    _, shares = batch_share(mesh)

    def place(x: np.ndarray) -> jax.Array:
        spec, shape = batch_spec(x), (x.shape[0] * shares, *x.shape[1:])
        for size, devices, axes in _uneven(shape, spec, mesh):
            what = "tokens a row" if axes == mesh_axes("length") else "rows"
            raise ShardingError(
                f"{size} {what} of a batch do not divide over {devices} devices (mesh axes {' × '.join(axes)})"
            )
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), x, shape)

    return jax.tree.map(place, batch)
