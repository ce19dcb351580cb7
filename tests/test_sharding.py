"""The axis table: errors Linen swallows, specs on meshes of any size, and equality with one device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from mmfuser_jax import presets, sharding
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import abstract_params, boxed_params, init_params
from mmfuser_jax.train.optim import OptimizerConfig, Rule, flatten
from mmfuser_jax.train.state import abstract_state, init_state
from mmfuser_jax.train.step import make_train_step
from tests.helpers import random_batch

SPECS = {
    "llm/decoder/layers/query/kernel": PartitionSpec(None, "fsdp", "tensor", None),
    "llm/decoder/layers/down/kernel": PartitionSpec(None, "tensor", "fsdp"),
    "llm/embedding": PartitionSpec("tensor", "fsdp"),
    "llm/head": PartitionSpec("fsdp", "tensor"),
    "vision_encoder/encoder/layers/mlp_in/kernel": PartitionSpec(None, "fsdp", "tensor"),
    "fuser/cross_attention/value/kernel": PartitionSpec("fsdp", "tensor"),
    "fuser/gamma1": PartitionSpec(None),
}


def abstract_mesh(data: int, fsdp: int, tensor: int) -> AbstractMesh:
    return AbstractMesh((data, fsdp, tensor, 1), sharding.MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def test_unknown_names_and_reused_mesh_axes_are_errors():
    with pytest.raises(sharding.ShardingError, match="unknown logical axis 'embedd'"):
        sharding.logical_to_spec(("embedd", "mlp"))
    with pytest.raises(sharding.ShardingError, match=r"'heads' and 'mlp' .* both map to mesh axis 'tensor'"):
        sharding.logical_to_spec(("heads", "mlp"))
    with pytest.raises(sharding.ShardingError, match="unknown"):
        sharding.named(nn.initializers.ones_init(), "typo")
    with pytest.raises(sharding.ShardingError, match=r"2 names .* shape \(2, 3, 4\)"):
        sharding.constrain(jnp.zeros((2, 3, 4)), "batch", "length")


def test_a_parameter_without_names_is_an_error():
    with pytest.raises(sharding.ShardingError, match=r"\['w'\] has no logical axis names"):
        sharding.param_specs({"w": jnp.zeros(3)})


@pytest.mark.parametrize("name", ["mmfuser_7b", "mmfuser_13b"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 8, 1), (1, 16, 4), (2, 64, 2), (1, 256, 1)])
def test_full_size_specs(name, sizes):
    boxed = boxed_params(VLM(presets.PRESETS[name]()))
    specs = flatten(sharding.param_specs(boxed))
    for path, spec in SPECS.items():
        assert specs[path] == spec, path
    shardings = flatten(sharding.param_shardings(boxed, abstract_mesh(*sizes)))
    shapes = flatten(meta.unbox(boxed))
    total = sum(x.size for x in shapes.values())
    local = sum(np.prod(shardings[path].shard_shape(x.shape)) for path, x in shapes.items())
    devices = sizes[1] * sizes[2]
    assert local < total / devices + 0.02 * total  # what stays replicated is under 2 % of the parameters


def test_a_size_that_does_not_divide_is_named(tiny):
    boxed = boxed_params(VLM(tiny))
    with pytest.raises(sharding.ShardingError, match=r"size \d+ does not divide over 5 devices"):
        sharding.param_shardings(boxed, abstract_mesh(1, 5, 1))


def test_mesh_must_cover_the_devices():
    assert sharding.make_mesh(data=2, fsdp=-1).shape["fsdp"] == 4
    with pytest.raises(sharding.ShardingError, match="does not cover 8 devices"):
        sharding.make_mesh(data=3)
    with pytest.raises(sharding.ShardingError, match="3 rows of a batch do not divide over 8 devices"):
        sharding.shard_batch({"x": np.zeros((3, 2))}, sharding.make_mesh(data=-1))


def train_on(mesh):
    """Losses and state of three steps of a tiny model with a scanned decoder."""
    config = presets.tiny()
    config = dataclasses.replace(config, llm=dataclasses.replace(config.llm, scan_layers=True))
    model = VLM(config)
    optimizer = OptimizerConfig(rules=(Rule("vision_encoder/", None), Rule(".*", 1e-2)), steps=4, clip_norm=1.0)
    batch = random_batch(config, rows=8, length=24)
    state = init_state(init_params(model, 0, mesh), optimizer, 0, mesh)
    step = make_train_step(model, optimizer, mesh, state)
    losses = []
    for _ in range(3):
        state, metrics = step(state, sharding.shard_batch(batch, mesh))
        losses.append(float(metrics["loss"]))
    return losses, state, model


@functools.cache
def single_device_losses():
    mesh = jax.make_mesh((1, 1, 1, 1), sharding.MESH_AXES, devices=jax.devices()[:1], axis_types=(AxisType.Auto,) * 4)
    return train_on(mesh)[0]


@pytest.mark.parametrize(
    "axes", [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 4, "sequence": 2}], ids=str
)
def test_any_mesh_trains_like_one_device(axes):
    mesh = sharding.make_mesh(**axes)
    losses, state, model = train_on(mesh)
    np.testing.assert_allclose(losses, single_device_losses(), rtol=1e-5)
    wanted = flatten(sharding.param_shardings(boxed_params(model), mesh))
    for path, x in flatten(state.params).items():
        assert x.sharding.is_equivalent_to(wanted[path], x.ndim), path


def test_optimizer_moments_are_placed_like_their_parameters(tiny):
    mesh = sharding.make_mesh(fsdp=8)
    model = VLM(tiny)

    params = abstract_params(model, mesh)
    for name in ("adamw", "muon"):
        config = OptimizerConfig(rules=(Rule(".*", 1e-3),), steps=4, name=name)
        state = abstract_state(params, config, mesh).opt_state
        placements = {path: x.sharding for path, x in flatten(params).items()}
        moments = [
            (path[-1].key, x)
            for path, x in jax.tree_util.tree_leaves_with_path(state)
            if getattr(path[-1], "key", None) in placements
        ]
        assert {path for path, _ in moments} == set(placements)
        assert all(x.sharding == placements[path] for path, x in moments)
        rest = [
            x
            for path, x in jax.tree_util.tree_leaves_with_path(state)
            if getattr(path[-1], "key", None) not in placements
        ]
        assert all(x.sharding == NamedSharding(mesh, PartitionSpec()) for x in rest)


def test_names_reach_every_parameter(tiny):
    specs = flatten_dict(sharding.param_specs(boxed_params(VLM(tiny))))
    assert len(specs) == len(flatten_dict(meta.unbox(boxed_params(VLM(tiny)))))
