"""The train step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mmfuser_jax import sharding
from mmfuser_jax.models import VLM
from mmfuser_jax.ops.cross_entropy import TokenLoss
from mmfuser_jax.train.optim import FlatParams, OptimizerConfig, flatten, make_optimizer, split_trainable, unflatten
from mmfuser_jax.train.state import TrainState, compute_dtype
from mmfuser_jax.types import Batch

Metrics = dict[str, jax.Array]


def make_train_step(
    model: VLM, config: OptimizerConfig, mesh: Mesh, state: TrainState
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Jitted (state, batch) → (state, metrics), for states placed like `state`.

    The new state keeps the placement (left alone, the compiler would choose one) and reuses the old one's buffers.

    Metrics: `loss` (nats per supervised token of the global batch), `accuracy` (of supervised tokens), `tokens`
    (supervised), `grad_norm` (before clipping).

    With a 16-bit model, trained parameters stay float32; what is differentiated is a 16-bit copy of their matrices, so
    gradients are 16-bit until the optimizer takes them.
    """

    placement = jax.tree.map(lambda x: x.sharding, state)
    placed = flatten(placement.params)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        trained, frozen = split_trainable(state.params, config.rules)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

        def loss_of(computing: FlatParams) -> tuple[jax.Array, TokenLoss]:
            params = {"params": unflatten({**frozen, **computing})}
            loss: Any = model.apply(params, batch, rngs={"dropout": key}, method="loss")
            return loss.mean, loss

        with sharding.use_mesh(mesh):
            computing = _in_compute_dtype(trained, placed, model)
            (mean, loss), gradients = jax.value_and_grad(loss_of, has_aux=True)(computing)
        gradients = jax.tree.map(lambda g, x: g.astype(x.dtype), gradients, trained)
        optimizer = make_optimizer(config, trained)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        metrics = {
            "loss": mean,
            "accuracy": loss.correct / jnp.maximum(loss.count, 1),
            "tokens": loss.count,
            "grad_norm": optax.global_norm(gradients),
        }
        params = unflatten({**frozen, **trained})
        return dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(placement, sharding.replicated(mesh)))


def _in_compute_dtype(trained: FlatParams, placed: FlatParams, model: VLM) -> FlatParams:
    """Matrices in the dtype that the model computes in, still spread over the devices.

    Cast first, they are gathered, and their gradients reduced, at half the volume of their float32 masters.
    """
    return {
        path: jax.lax.with_sharding_constraint(x.astype(compute_dtype(path, x.dtype, model.dtype)), placed[path])
        for path, x in trained.items()
    }
