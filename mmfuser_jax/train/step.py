"""The train step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from mmfuser_jax import sharding
from mmfuser_jax.compilation import TRAIN_ON_CPU, known_options
from mmfuser_jax.models import VLM
from mmfuser_jax.ops.cross_entropy import NO_TOKENS, TokenLoss
from mmfuser_jax.train.guard import Guard, judge, keep_unless
from mmfuser_jax.train.optim import FlatParams, OptimizerConfig, flatten, make_optimizer, split_trainable, unflatten
from mmfuser_jax.train.state import TrainState, compute_dtype
from mmfuser_jax.types import IGNORE_INDEX, Batch

Metrics = dict[str, jax.Array]


def make_train_step(
    model: VLM,
    config: OptimizerConfig,
    mesh: sharding.AnyMesh,
    state: TrainState,
    accumulate: int = 1,
    guard: Guard | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Jitted (state, batch) → (state, metrics), for states placed like `state`.

    The new state keeps the placement (left alone, the compiler would choose one) and reuses the old one's buffers.

    Metrics: `loss` (nats per supervised token of the global batch), `accuracy` (of supervised tokens), `tokens`
    (supervised), `grad_norm` (before clipping); with a guard, `good`: whether the step was not a bad one.

    With a 16-bit model, trained parameters stay float32; what is differentiated is a 16-bit copy of their matrices, so
    gradients are 16-bit until they are summed up or the optimizer takes them.

    Args:
      model: its compute dtype and remat policy count.
      config: optimizer and table of trained parameters.
      mesh: what `state` is placed on.
      state: abstract or real.
      accumulate: parts that the rows of a batch are taken in, one after the other, so that only one part's activations
        are held at a time. Every token of the batch weighs alike however the parts fall.
      guard: what counts as a bad step, for a state made with it; None looks for nothing.
    """
    placement = jax.tree.map(lambda x: x.sharding, state)
    placed = flatten(placement.params)

    def gradients_of(
        trained: FlatParams, frozen: FlatParams, batch: Batch, key: jax.Array
    ) -> tuple[TokenLoss, FlatParams]:
        count = jnp.maximum(jnp.sum(batch.targets != IGNORE_INDEX), 1)
        computing = _in_compute_dtype(trained, placed, model)

        def loss_of(computing: FlatParams, part: Batch, key: jax.Array) -> tuple[jax.Array, TokenLoss]:
            params = {"params": unflatten({**frozen, **computing})}
            loss: Any = model.apply(params, part, rngs={"dropout": key}, method="loss")
            return loss.total / count, loss

        differentiate = jax.grad(loss_of, has_aux=True)
        if accumulate == 1:
            gradients, loss = differentiate(computing, batch, key)
            return loss, gradients

        def add(sums: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            rows, index = part
            rows = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, _placed(x, mesh)), rows)
            gradients, loss = differentiate(computing, rows, jax.random.fold_in(key, index))
            return jax.tree.map(lambda x, y: x + y.astype(x.dtype), sums, (gradients, loss)), None

        zeros = jax.tree.map(jnp.zeros_like, trained)  # float32, placed like the masters
        start = (jax.lax.with_sharding_constraint(zeros, {path: placed[path] for path in zeros}), NO_TOKENS)
        (gradients, loss), _ = jax.lax.scan(add, start, (_parts(batch, accumulate), jnp.arange(accumulate)))
        return loss, gradients

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        trained, frozen = split_trainable(state.params, config.rules)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        with sharding.use_mesh(mesh):
            loss, gradients = gradients_of(trained, frozen, batch, key)
        gradients = jax.tree.map(lambda g, x: g.astype(x.dtype), gradients, trained)
        optimizer = make_optimizer(config, trained)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        new = optax.apply_updates(trained, updates)
        metrics = {
            "loss": loss.mean,
            "accuracy": loss.correct / jnp.maximum(loss.count, 1),
            "tokens": loss.count,
            "grad_norm": optax.global_norm(gradients),
        }
        average, recent = _moved(config.average, state.average, new), None
        if guard is not None:
            good, recent = judge(guard, state.recent, loss.mean, metrics["grad_norm"], loss.count)
            metrics["good"] = good
            if guard.skip:
                old = (trained, state.opt_state, state.average)
                new, opt_state, average = keep_unless(good, (new, opt_state, average), old)
        params = unflatten({**frozen, **new})
        return TrainState(state.step + 1, params, opt_state, state.rng, average, recent), metrics

    on_cpu = isinstance(mesh, Mesh) and mesh.devices.flat[0].platform == "cpu"
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(placement, sharding.replicated(mesh)),
        compiler_options=known_options(TRAIN_ON_CPU) if on_cpu else None,
    )


def _moved(decay: float, average: FlatParams | None, trained: FlatParams) -> FlatParams | None:
    """The moving average after a step that led to `trained`."""
    if average is None:
        return None
    return jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, average, trained)


def _placed(x: jax.Array, mesh: sharding.AnyMesh) -> NamedSharding:
    """Where a field of a batch lies. Of a loop's input the partitioner would make up its own mind."""
    return NamedSharding(mesh, sharding.batch_spec(x))


def _parts(batch: Batch, count: int) -> Batch:
    """A batch as `count` parts on a leading axis. Every device splits the rows it has: none change place."""

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def _in_compute_dtype(trained: FlatParams, placed: FlatParams, model: VLM) -> FlatParams:
    """Matrices in the dtype that the model computes in, still spread over the devices.

    Cast first, they are gathered, and their gradients reduced, at half the volume of their float32 masters.
    """
    return {
        path: jax.lax.with_sharding_constraint(x.astype(compute_dtype(path, x.dtype, model.dtype)), placed[path])
        for path, x in trained.items()
    }
