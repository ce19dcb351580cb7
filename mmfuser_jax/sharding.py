"""The device mesh, and the one table from logical axis names to mesh axes.

Modules name the axes of their parameters and activations (`named`, `constrain`); this file alone decides what a name
means on a mesh. Linen accepts an unknown name (it replicates) and a mesh axis used twice (it drops one) without a word,
so both are errors here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import meta
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from mmfuser_jax.types import Array

MESH_AXES = ("data", "fsdp", "tensor", "sequence")

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


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, sequence: int = 1) -> Mesh:
    """Mesh over all devices, with the four axes of MESH_AXES; one axis may be -1 and takes the remaining devices.

    Raises:
      ShardingError: the sizes do not multiply to the number of devices.
    """
    sizes = [data, fsdp, tensor, sequence]
    count = jax.device_count()
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = count // max(1, math.prod(s for s in sizes if s != -1))
    if min(sizes) < 1 or math.prod(sizes) != count:
        raise ShardingError(f"mesh {dict(zip(MESH_AXES, sizes, strict=True))} does not cover {count} devices")
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES))


_active: list[Mesh] = []


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Makes `constrain` place activations on `mesh` while the block traces."""
    _active.append(mesh)
    try:
        yield mesh
    finally:
        _active.pop()


def constrain(x: Array, *axes: str | None) -> jax.Array:
    """Pins an activation to the placement its logical axes ask for; checks names even when no mesh is in use."""
    spec = logical_to_spec(axes)
    if len(axes) != x.ndim:
        raise ShardingError(f"{len(axes)} names {axes} for an array of shape {x.shape}")
    if not _active:
        return jnp.asarray(x)
    return jax.lax.with_sharding_constraint(x, NamedSharding(_active[-1], spec))


def platform() -> str:
    """ "cpu", "gpu" or "tpu": where the mesh in use lies, which need not be here when compiling ahead of time."""
    name = _active[-1].devices.flat[0].platform if _active else jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


def per_shard(
    function: Callable[..., Any], in_axes: Sequence[Sequence[str | None]], out_axes: Sequence[str | None]
) -> Callable[..., Any]:
    """`function` on every device's own block of its arrays, for kernels, which the partitioner cannot split by itself.

    Args:
      function: takes and returns single arrays, and treats every index of the named axes alike.
      in_axes: logical axis names of each argument.
      out_axes: of the result.

    Returns:
      `function` itself where no mesh is in use, or one of a single device.
    """
    in_specs, out_specs = tuple(logical_to_spec(axes) for axes in in_axes), logical_to_spec(out_axes)
    if not _active or _active[-1].size == 1:
        return function
    return jax.shard_map(function, mesh=_active[-1], in_specs=in_specs, out_specs=out_specs, check_vma=False)


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


def param_shardings(boxed: Any, mesh: Mesh | AbstractMesh, rules: Rules = RULES) -> Any:
    """NamedShardings of a boxed parameter tree on `mesh`.

    Raises:
      ShardingError: as `param_specs`, or a dimension does not divide by the devices along its mesh axes.
    """
    specs = param_specs(boxed, rules)
    shapes = flatten_dict(meta.unbox(boxed))
    for path, spec in flatten_dict(specs).items():
        for size, entry in zip(shapes[path].shape, spec, strict=False):
            axes = (entry,) if isinstance(entry, str) else entry or ()
            devices = math.prod(mesh.shape[axis] for axis in axes)
            if size % devices:
                raise ShardingError(f"{'/'.join(path)}: size {size} does not divide over {devices} devices of {axes}")
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, PartitionSpec))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Global arrays from this process's rows of a batch: the leading axis goes over the data and fsdp axes.

    Raises:
      ShardingError: the global row count does not divide by the devices that share it.
    """
    spec = logical_to_spec(("batch",))
    devices = mesh.shape["data"] * mesh.shape["fsdp"]

    def place(x: np.ndarray) -> jax.Array:
        rows = x.shape[0] * jax.process_count()
        if rows % devices:
            raise ShardingError(f"{rows} rows of a batch do not divide over {devices} devices (mesh axes data × fsdp)")
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), x)

    return jax.tree.map(place, batch)
