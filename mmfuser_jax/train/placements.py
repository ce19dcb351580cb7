"""Where everything of a run lies on a mesh of any size, as the code traces it; what the tests' golden files hold.

Nothing is allocated and no device is needed: an abstract mesh has names and sizes only.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from mmfuser_jax import sharding
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import abstract_params, with_shardings
from mmfuser_jax.train.optim import OptimizerConfig, flatten
from mmfuser_jax.train.state import abstract_state, stage_params
from mmfuser_jax.train.step import make_train_step
from mmfuser_jax.types import Batch

Placed = dict[str, jax.ShapeDtypeStruct]
"""Arrays by path or shape, with their shardings."""


def abstract_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, sequence: int = 1) -> AbstractMesh:
    """A mesh of devices that need not exist."""
    return AbstractMesh((data, fsdp, tensor, sequence), sharding.MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def abstract_batch(
    model: VLM, rows: int, length: int, images: int, mesh: sharding.AnyMesh, *, branches: bool = False
) -> Batch:
    """A packed batch as `sharding.shard_batch` places it."""
    size = model.config.vision.image_size
    row = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    branch_ids = row if branches else None
    batch = Batch(row, row, row, row, branch_ids, row, jax.ShapeDtypeStruct((rows, images, size, size, 3), jnp.uint8))
    return with_shardings(batch, jax.tree.map(lambda x: NamedSharding(mesh, sharding.batch_spec(x)), batch))


class Placements:
    """Every array of a stage of training, and of decoding with its parameters, on a mesh.

    Attributes:
      params, optimizer, batch: by path.
      activations: what the train step pins, one of every shape and placement: hidden states, features of the pictures,
        logits, and the 16-bit copies of trained matrices.
      cache: likewise what decoding pins of keys and values.
    """

    def __init__(
        self, model: VLM, config: OptimizerConfig, mesh: AbstractMesh, *, rows: int, length: int, images: int = 1
    ) -> None:
        """Traces a step of training, and one of decoding, on `rows` rows of `length` tokens with `images` pictures each."""
        params = stage_params(abstract_params(model, mesh), config, model.dtype)
        state = abstract_state(params, config, mesh)
        batch = abstract_batch(model, rows, length, images, mesh)
        self.mesh = mesh
        self.params: Placed = flatten(params)
        self.optimizer = _by_path(state.opt_state)
        self.batch = _by_path(batch)
        step: Any = make_train_step(model, config, mesh, state)
        self.activations = _pinned(step.trace(state, batch).jaxpr)

        def decode(params: Any) -> Any:
            with sharding.use_mesh(mesh):
                cache = model.config.llm.empty_cache(rows, length, model.dtype)
                tokens = jnp.zeros((rows, 1), jnp.int32)
                return model.apply({"params": params}, tokens, cache=cache, last=tokens[:, 0], method="decode")

        llm = model.config.llm
        kept = (rows, length, llm.kv_heads, llm.head_width)
        pinned = _pinned(jax.jit(decode).trace(params).jaxpr)
        self.cache = {name: x for name, x in pinned.items() if x.shape in (kept, (llm.depth, *kept))}

    def describe(self) -> dict[str, Any]:
        """PartitionSpecs by name; optimizer state that lies like the parameters it belongs to is one entry."""
        groups: dict[str, Placed] = collections.defaultdict(dict)
        for name, x in self.optimizer.items():
            owner = next((path for path in self.params if name.endswith(f"/{path}")), "")
            groups[name.removesuffix(owner).rstrip("/")][owner] = x
        optimizer = {
            name: "like its parameters" if self._follows(group) else _specs(group) for name, group in groups.items()
        }
        rest = {name: _specs(getattr(self, name)) for name in ("params", "batch", "activations", "cache")}
        return {"mesh": dict(self.mesh.shape), "optimizer": optimizer, **rest}

    def _follows(self, group: Placed) -> bool:
        return all(path and x.sharding == self.params[path].sharding for path, x in group.items())


def replicated_share(arrays: Iterable[jax.ShapeDtypeStruct]) -> float:
    """Share of the bytes of some arrays that are whole on every device, however many there are."""
    arrays = list(arrays)
    whole = [x for x in arrays if not any(x.sharding.spec)]
    return sum(map(_bytes, whole)) / sum(map(_bytes, arrays))


def device_bytes(arrays: Iterable[jax.ShapeDtypeStruct]) -> int:
    """Bytes of some arrays on each device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays)


def _bytes(x: jax.ShapeDtypeStruct) -> int:
    return x.size * x.dtype.itemsize


def _by_path(tree: Any) -> Placed:
    return {
        "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path): x
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _specs(arrays: Placed) -> dict[str, str]:
    return {name: _text(x.sharding.spec) for name, x in sorted(arrays.items())}


def _text(spec: PartitionSpec) -> str:
    """ "data×fsdp, -, tensor": the mesh axes of every axis of an array."""
    entries = ((entry,) if isinstance(entry, str) else entry or ("-",) for entry in spec)
    return ", ".join("×".join(entry) for entry in entries)


def _pinned(jaxpr: Any) -> Placed:
    """What a program pins with `sharding.constrain`, one of every shape and placement."""
    found = {}
    for equation in _equations(jaxpr.jaxpr):
        if equation.primitive.name == "sharding_constraint":
            x: Any = equation.outvars[0].aval
            place = equation.params["sharding"]
            name = f"{x.dtype}[{','.join(map(str, x.shape))}]"
            found[f"{name} {_text(place.spec)}"] = (name, jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place))
    names = collections.Counter(name for name, _ in found.values())
    return {(name if names[name] == 1 else key): x for key, (name, x) in found.items()}


def _equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Of a program and of everything inside: loops, branches, recomputed blocks."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, core.ClosedJaxpr)):
            if isinstance(inner, core.ClosedJaxpr):
                yield from _equations(inner.jaxpr)
            elif isinstance(inner, core.Jaxpr):
                yield from _equations(inner)
