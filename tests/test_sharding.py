"""The axis table: errors Linen swallows, golden specs on meshes of any size, slices, and equality with one device."""

import dataclasses
import functools
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta
from flax.traverse_util import flatten_dict
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding, PartitionSpec

from configs import finetune
from mmfuser_jax import presets, sharding
from mmfuser_jax.aot.topology import find_topology
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import abstract_params, boxed_params, with_shardings
from mmfuser_jax.train.optim import OptimizerConfig, Rule, flatten
from mmfuser_jax.train.placements import Placements, abstract_mesh, device_bytes, replicated_share
from mmfuser_jax.train.state import abstract_state, init_state
from mmfuser_jax.train.step import make_train_step
from mmfuser_jax.types import IGNORE_INDEX
from tests.conftest import GOLDEN
from tests.helpers import random_batch, random_params

SPECS = {
    "llm/decoder/layers/query/kernel": PartitionSpec(None, "fsdp", "tensor", None),
    "llm/decoder/layers/down/kernel": PartitionSpec(None, "tensor", "fsdp"),
    "llm/embedding": PartitionSpec("tensor", "fsdp"),
    "llm/head": PartitionSpec("fsdp", "tensor"),
    "vision_encoder/encoder/layers/mlp_in/kernel": PartitionSpec(None, "fsdp", "tensor"),
    "fuser/cross_attention/value/kernel": PartitionSpec("fsdp", "tensor"),
    "fuser/gamma1": PartitionSpec(None),
}


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
    with pytest.raises(sharding.ShardingError, match=r"3 tokens a row .* 2 devices \(mesh axes sequence\)"):
        sharding.shard_batch({"x": np.zeros((4, 3))}, sharding.make_mesh(data=-1, sequence=2))


MESHES = {
    "1": {},
    "8": {"fsdp": 8},
    "64": {"fsdp": 16, "tensor": 4},
    "256": {"fsdp": 128, "tensor": 2},
    "256_in_4_slices": {"data": 4, "fsdp": 32, "sequence": 2},
}


@pytest.mark.parametrize("name", MESHES)
def test_golden_placements_of_stage_2(name):
    """After a change that is meant, UPDATE_GOLDEN=1 python -m pytest tests/test_sharding.py writes the files anew."""
    model = VLM(presets.PRESETS["mmfuser_7b"](), jnp.bfloat16, "full")
    optimizer = OptimizerConfig(rules=tuple(Rule(*row) for row in finetune.FULL), steps=10)
    placed = Placements(model, optimizer, abstract_mesh(**MESHES[name]), rows=256, length=2048)
    path = GOLDEN / "specs" / f"mmfuser_7b_{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(json.dumps(placed.describe(), indent=1, ensure_ascii=False) + "\n")
    assert placed.describe() == json.loads(path.read_text()), test_golden_placements_of_stage_2.__doc__

    state = [*placed.params.values(), *placed.optimizer.values()]
    everything = sum(x.size * x.dtype.itemsize for x in state)
    shards = math.prod(size for axis, size in placed.mesh.shape.items() if axis in ("fsdp", "tensor"))
    assert device_bytes(state) < everything / shards + 0.02 * everything
    for arrays in (state, placed.batch.values(), placed.activations.values(), placed.cache.values()):
        assert replicated_share(arrays) < 0.02
    features = f"bfloat16[256,{model.config.image_tokens},{model.config.llm.width}]"
    assert {"bfloat16[256,2048,4096]", features} <= set(placed.activations)
    assert len(placed.cache) == 2, "the whole cache, and a layer's part of it"


def test_what_is_not_spread_counts_as_replicated():
    """The negative control of the 2 %: a table that leaves the decoder's inner width whole is over it."""
    rules = {**sharding.RULES, "embed": None, "mlp": None}
    boxed = boxed_params(VLM(presets.PRESETS["mmfuser_7b"]()))
    placed = with_shardings(meta.unbox(boxed), sharding.param_shardings(boxed, abstract_mesh(fsdp=8), rules))
    assert replicated_share(flatten(placed).values()) > 0.5


@pytest.fixture(scope="module")
def slices():
    return find_topology("v5e:4x4", slices=2).devices


def test_a_slice_is_one_block_of_the_data_axis(slices):
    for data, fsdp, tensor in ((2, 16, 1), (4, 4, 2)):
        mesh = sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=slices)
        blocks = mesh.devices.reshape(2, -1)
        assert [{device.slice_index for device in block} for block in blocks] == [{0}, {1}]
    expected = mesh_utils.create_hybrid_device_mesh((2, 4, 2, 1), (2, 1, 1, 1), slices, allow_split_physical_axes=True)
    assert (mesh.devices == expected).all()
    careless = np.asarray(slices).reshape(16, 2, 1, 1).swapaxes(0, 1)
    assert any(len({device.slice_index for device in block.flat}) > 1 for block in careless)


def test_only_the_data_axis_crosses_slices(slices):
    with pytest.raises(sharding.ShardingError, match="data=1 must be a multiple of the 2 slices"):
        sharding.make_mesh(fsdp=-1, devices=slices)


def test_neighbours_on_an_axis_are_neighbours_on_the_torus():
    devices = find_topology("v5p:4x4x4").devices
    mesh = sharding.make_mesh(fsdp=-1, tensor=2, devices=devices)
    for pair in mesh.devices.reshape(-1, 2):
        steps = np.abs(np.subtract(pair[0].coords, pair[1].coords)) % 3  # 3 apart on a ring of 4 is next to each other
        assert steps.sum() <= 1, pair


def test_processes_that_hold_the_same_rows_load_the_same_share():
    def shares(*owners):
        return sharding.row_shares(np.array(owners))

    assert shares([0], [0], [1], [1]) == {0: (0, 2), 1: (1, 2)}
    assert shares([0], [1], [0], [1]) == {0: (0, 2), 1: (1, 2)}
    assert shares([0, 0, 1, 1]) == {0: (0, 1), 1: (0, 1)}
    assert shares([0, 1], [0, 1], [2, 3], [2, 3]) == {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}
    with pytest.raises(sharding.ShardingError, match="share rows of the batch only in part"):
        shares([0, 0], [0, 1], [1, 1])


WIDE = presets.tiny()
WIDE = dataclasses.replace(  # eight heads everywhere, to spread over eight devices
    WIDE,
    vision=dataclasses.replace(WIDE.vision, heads=8, scan_layers=True),
    llm=dataclasses.replace(WIDE.llm, width=64, heads=8, kv_heads=8, head_width=8, scan_layers=True),
    fuser=dataclasses.replace(WIDE.fuser, heads=8),
)


def uneven_batch():
    """Rows with many supervised tokens, and rows with one: a mean of the devices' means is not the mean over tokens."""
    batch = random_batch(WIDE, rows=8, length=24)
    targets = batch.targets.copy()
    targets[1::2, :-2] = IGNORE_INDEX
    return batch.replace(targets=targets)


@functools.cache
def loss_and_gradients(**axes):
    """Of one real train step, the gradients as Adam's first moment keeps them where b1 = 0; {} is a single device."""
    devices = jax.devices() if axes else jax.devices()[:1]
    mesh = sharding.make_mesh(**axes, devices=devices)
    model = VLM(WIDE)
    optimizer = OptimizerConfig(rules=(Rule(".*", 1e-3),), steps=4, b1=0.0)
    placed = jax.tree.map(lambda x: x.sharding, abstract_params(model, mesh))
    state = init_state(jax.device_put(random_params(model), placed), optimizer, 0, mesh)
    state, metrics = make_train_step(model, optimizer, mesh, state)(state, sharding.shard_batch(uneven_batch(), mesh))
    moments = jax.tree_util.tree_leaves_with_path(state.opt_state)
    gradients = {path[-1].key: np.asarray(x) for path, x in moments if "mu" in jax.tree_util.keystr(path)}
    wanted = flatten(sharding.param_shardings(boxed_params(model), mesh))
    assert gradients.keys() == wanted.keys()
    for path, x in flatten(state.params).items():
        assert x.sharding.is_equivalent_to(wanted[path], x.ndim), path
    return float(metrics["loss"]), gradients


def worst(gradients, expected):
    """The largest error of a leaf, relative to its norm, and its path.

    Leaves whose gradient is zero but for rounding, such as the biases of keys, which a softmax does not see, are measured
    against a thousandth of the whole gradient.
    """
    floor = 1e-3 * math.sqrt(sum(float(np.square(x).sum()) for x in expected.values()))
    errors = {path: np.linalg.norm(x - expected[path]) / max(np.linalg.norm(expected[path]), floor)
              for path, x in gradients.items()}  # fmt: skip
    return max((float(error), path) for path, error in errors.items())


@pytest.mark.parametrize(
    "axes",
    [
        {"fsdp": 8},
        {"data": 2, "fsdp": 4},
        {"fsdp": 4, "tensor": 2},
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"tensor": 8},
        {"fsdp": 4, "sequence": 2},
    ],
    ids=str,
)
def test_any_mesh_has_the_loss_and_the_gradients_of_one_device(axes):
    loss, gradients = loss_and_gradients(**axes)
    expected_loss, expected = loss_and_gradients()
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    assert worst(gradients, expected) < (1e-5, "")


def test_a_loss_averaged_per_device_is_seen():
    """The negative control: the mean of every device's own mean, as a forgotten sum would have it."""
    model, batch = VLM(WIDE), uneven_batch()
    _, expected = loss_and_gradients()

    def per_device(params):
        rows = jax.tree.map(lambda x: x[:, None], batch)
        return jax.vmap(lambda row: model.apply({"params": params}, row, method="loss").mean)(rows).mean()

    gradients = flatten(jax.jit(jax.grad(per_device))(random_params(model)))
    assert worst(gradients, expected) > (1e-2, "")


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
