"""Training state, and how it comes to be: fresh, from another model's weights, or abstract to restore into."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.core import meta
from jax.sharding import Mesh

from mmfuser_jax import layout, model_folder, sharding
from mmfuser_jax.checkpoint import StoredParams
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import abstract_params, dummy_batch, with_shardings
from mmfuser_jax.models.quantized import KERNEL, quantize
from mmfuser_jax.train.guard import Guard, Recent
from mmfuser_jax.train.optim import (
    MATRIX,
    FlatParams,
    OptimizerConfig,
    flatten,
    make_optimizer,
    optimizer_shardings,
    split_trainable,
    unflatten,
)
from mmfuser_jax.types import Leaf

LOG = logging.getLogger(__name__)


@struct.dataclass
class TrainState:
    """Everything a step changes.

    Attributes:
      step: int32[], steps done in this stage.
      params: nested parameters, trained and frozen.
      opt_state: of the trained parameters only.
      rng: uint32[2], key data; layers that draw get its fold_in with `step`, so that a resumed run draws the same.
      average: exponential moving average of the trained parameters by path, float32; None where the stage keeps none.
      recent: what bad steps are told by; None where the step does not look for them.
    """

    step: Leaf
    params: Any
    opt_state: optax.OptState
    rng: Leaf
    average: Any = None
    recent: Any = None


def compute_dtype(path: str, stored: Any, dtype: Any) -> Any:
    """Dtype in which a model of `dtype` uses a parameter: matrices in its own, norms, biases and gammas as stored."""
    return dtype if MATRIX.match(path) else stored


def stage_params(params: Any, config: OptimizerConfig, dtype: Any) -> Any:
    """Abstract parameters as a stage holds them: trained ones in float32, frozen matrices in the compute dtype.

    A frozen vision tower or language model then takes half the memory, and computes exactly what it would from float32.
    """
    _, frozen = split_trainable(params, config.rules)
    return unflatten(
        {
            path: x.update(dtype=compute_dtype(path, x.dtype, dtype)) if path in frozen else x
            for path, x in flatten(params).items()
        }
    )


def initial_params(model: VLM, config: OptimizerConfig, seed: int, mesh: Mesh, init_from: str = "") -> Any:
    """Parameters for a stage (see `stage_params`): fresh, or another model folder's with only the missing ones fresh.

    Kernels that the model keeps in codes are quantised on the way, one at a time, where the folder has them in numbers.

    Raises:
      CheckpointError: `init_from` is no model, has parameters that this model lacks, or some of another shape.
    """
    wanted = flatten(stage_params(abstract_params(model, mesh), config, model.dtype))
    loaded: FlatParams = {}
    if init_from:
        stored = StoredParams(Path(init_from) / model_folder.CHECKPOINTS)
        present = {path: x for path, x in wanted.items() if layout.sources(path, x.shape, stored.shapes)}
        kernels = _kernels(model, mesh, stored, wanted)
        stored.check_fit(present | kernels)
        loaded = stored.restore(present)
        for path, x in kernels.items():
            loaded |= _quantized(path, stored.restore({path: x})[path], wanted)
        fresh = ", ".join(path for path in wanted if path not in loaded)
        LOG.info("started from %s, step %d; fresh: %s", init_from, stored.step, fresh or "nothing")
    missing = {path: x for path, x in wanted.items() if path not in loaded}

    def init_missing(key: jax.Array) -> FlatParams:
        params = flatten(meta.unbox(model.init(key, dummy_batch(model))["params"]))
        return {path: params[path].astype(x.dtype) for path, x in missing.items()}

    placements = {path: x.sharding for path, x in missing.items()}
    return unflatten({**loaded, **jax.jit(init_missing, out_shardings=placements)(jax.random.key(seed))})


def _kernels(model: VLM, mesh: Mesh, stored: StoredParams, wanted: FlatParams) -> FlatParams:
    """Abstract kernels that are stored in numbers, as they are, and wanted in codes."""
    llm = dataclasses.replace(model.config.llm, quantize="")
    plain = flatten(abstract_params(model.clone(config=dataclasses.replace(model.config, llm=llm)), mesh))
    found = {path: layout.sources(path, x.shape, stored.shapes) for path, x in plain.items() if path not in wanted}
    return {path: plain[path].update(dtype=stored.shapes[x[0][0]].dtype) for path, x in found.items() if x}


def _quantized(path: str, kernel: jax.Array, wanted: FlatParams) -> FlatParams:
    """Codes and scales of a kernel, placed as wanted."""
    parts = {match[2]: x for name, x in wanted.items() if (match := KERNEL.fullmatch(name)) and match[1] == path}
    placements = tuple((name, x.sharding) for name, x in parts.items())
    made = _quantizer(layout.is_stacked(path), parts["scales"].shape[-1], placements)(kernel)
    return {f"{path}/{name}": x for name, x in made.items()}


@functools.cache
def _quantizer(stacked: bool, outputs: int, placements: tuple[tuple[str, Any], ...]) -> Callable[..., FlatParams]:
    """Compiled once for all kernels of a shape; works layer by layer where layers are stacked."""
    (kind,) = (name for name, _ in placements if name != "scales")

    def one(kernel: jax.Array) -> FlatParams:
        return quantize(kernel.reshape(-1, outputs), kind)

    return jax.jit(functools.partial(jax.lax.map, one) if stacked else one, out_shardings=dict(placements))


def next_stage_params(params: Any, config: OptimizerConfig, model: VLM, mesh: Mesh) -> Any:
    """An earlier stage's parameters in the dtypes of the next one."""
    wanted = flatten(stage_params(abstract_params(model, mesh), config, model.dtype))
    return unflatten({path: x.astype(wanted[path].dtype) for path, x in flatten(params).items()})


def abstract_state(
    params: Any, config: OptimizerConfig, mesh: sharding.AnyMesh, guard: Guard | None = None
) -> TrainState:
    """The state of a stage as jax.ShapeDtypeStruct with shardings, from (abstract) parameters: what to restore into."""
    trained, _ = split_trainable(params, config.rules)
    optimizer = make_optimizer(config, trained)
    everywhere = sharding.replicated(mesh)
    placed = {path: x.sharding for path, x in flatten(params).items() if path in trained}
    opt_state = jax.eval_shape(optimizer.init, trained)
    opt_state = with_shardings(opt_state, optimizer_shardings(opt_state, placed, everywhere))
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=everywhere)
    average = jax.tree.map(_abstract, trained) if config.average else None
    recent = None
    if guard is not None:
        shapes = jax.eval_shape(lambda: Recent.load(None))
        recent = jax.tree.map(lambda x: x.update(sharding=everywhere), shapes)
    return TrainState(scalar, params, opt_state, key, average, recent)


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def init_state(params: Any, config: OptimizerConfig, seed: int, mesh: Mesh, guard: Guard | None = None) -> TrainState:
    """State at step 0 of a stage: the given parameters, and fresh optimizer moments placed like them."""
    shapes = abstract_state(params, config, mesh, guard)
    trained, _ = split_trainable(params, config.rules)
    optimizer = make_optimizer(config, trained)
    placements = jax.tree.map(lambda x: x.sharding, shapes.opt_state)
    opt_state = jax.jit(optimizer.init, out_shardings=placements)(trained)
    rng = jax.device_put(jax.random.key_data(jax.random.key(seed)), shapes.rng.sharding)
    step = jax.device_put(jnp.int32(0), shapes.step.sharding)
    average = jax.tree.map(jnp.copy, trained) if config.average else None  # the step gives its buffers away, each once
    recent = jax.device_put(Recent.load(None), shapes.rng.sharding) if guard else None
    return TrainState(step, params, opt_state, rng, average, recent)
