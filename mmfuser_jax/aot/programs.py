"""The programs of a run as shapes with shardings: nothing is read, allocated or computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from mmfuser_jax import sharding
from mmfuser_jax.models import VLM
from mmfuser_jax.models.flops import Flops, decode_flops
from mmfuser_jax.models.params import abstract_params
from mmfuser_jax.train.config import RunConfig, Stage
from mmfuser_jax.train.mfu import stage_flops
from mmfuser_jax.train.optim import flatten, unflatten
from mmfuser_jax.train.placements import abstract_batch
from mmfuser_jax.train.state import abstract_state, compute_dtype, stage_params
from mmfuser_jax.train.step import make_train_step
from mmfuser_jax.types import KVCache


@dataclasses.dataclass(frozen=True)
class Program:
    """Something to compile.

    Attributes:
      name: the stage, or "decode".
      rows, slots: B of the global batch, and T: the tokens of a row, or of the cache it looks at.
      tokens: that a step goes through.
      images: pictures or tiles that it encodes.
      flops: by part.
      lower: traces it.
    """

    name: str
    rows: int
    slots: int
    tokens: int
    images: int
    flops: dict[str, Flops]
    lower: Callable[[], jax.stages.Lowered]


def train_program(run: RunConfig, stage: Stage, mesh: Mesh) -> Program:
    """One step of a stage, as `train.loop` runs it.

    Raises:
      ShardingError: a parameter or the batch does not divide over the mesh.
    """
    model = VLM(run.model, jnp.dtype(run.dtype), run.remat)
    params = stage_params(abstract_params(model, mesh), stage.optimizer, model.dtype)
    state = abstract_state(params, stage.optimizer, mesh, run.guard)
    model = model.clone(config=run.model_of(stage))
    _check_divides(stage, mesh)
    branches = stage.conversations > 1
    batch = abstract_batch(model, stage.batch_size, stage.row.length, stage.row.tiles, mesh, branches=branches)
    step: Any = make_train_step(model, stage.optimizer, mesh, state, stage.accumulate, run.guard)
    rows, length, images = stage.batch_size, stage.row.length, stage.batch_size * stage.row.tiles
    flops = stage_flops(model, stage, params)
    return Program(stage.name, rows, length, rows * length, images, flops, lambda: step.lower(state, batch))


def _check_divides(stage: Stage, mesh: Mesh) -> None:
    """Whether a batch spreads over a mesh.

    Raises:
      ShardingError: its rows or their tokens do not divide.
    """
    for what, count, devices in (
        ("rows", stage.batch_size, sharding.batch_devices(mesh) * stage.accumulate),
        ("tokens of a row", stage.row.length, mesh.shape["sequence"]),
    ):
        if count % devices:
            parts = f" × {stage.accumulate} parts" if stage.accumulate > 1 and what == "rows" else ""
            raise sharding.ShardingError(
                f"stage {stage.name}: {count} {what} do not divide over mesh {dict(mesh.shape)}{parts}"
            )


def decode_program(run: RunConfig, stage: Stage, mesh: Mesh) -> Program:
    """One more token for `stage.batch_size` rows with as many cached tokens as the stage's rows have slots.

    Parameters are in the compute dtype, as the facade holds them.

    Raises:
      ShardingError: a parameter, the rows or the heads do not divide over the mesh.
    """
    model = VLM(run.model, jnp.dtype(run.dtype), run.remat)
    rows, slots = stage.batch_size, stage.row.length
    flat = flatten(abstract_params(model, mesh))
    params = {path: x.update(dtype=compute_dtype(path, x.dtype, model.dtype)) for path, x in flat.items()}

    def place(shape: tuple[int, ...], dtype: Any, *axes: str | None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, sharding.logical_to_spec(axes)))

    llm = run.model.llm
    kept = place(
        (llm.depth, rows, slots, llm.kv_heads, llm.head_width),
        model.dtype, None, "batch", "kv_length", "activation_kv_heads", None,
    )  # fmt: skip
    last = place((rows,), jnp.int32, "batch")
    cache = KVCache(kept, kept, last)

    def step(params: Any, tokens: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        with sharding.use_mesh(mesh):
            zeros = jnp.zeros(rows, jnp.int32)
            output: Any = model.apply({"params": params}, tokens[:, None], cache=cache, last=zeros, method="decode")
        return jnp.argmax(output.logits[:, 0], axis=-1), output.cache

    placed = jax.tree.map(lambda x: x.sharding, cache)
    jitted = jax.jit(step, donate_argnums=2, out_shardings=(last.sharding, placed))
    flops = decode_flops(run.model, {path: x.shape for path, x in flat.items()}, rows=rows, slots=slots)
    return Program("decode", rows, slots, rows, 0, flops, lambda: jitted.lower(unflatten(params), last, cache))
