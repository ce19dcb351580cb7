"""Quantised kernels: as exact as their format, as small as promised, frozen, and the same wherever they come from."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

import mmfuser_jax as mm
from configs import finetune
from mmfuser_jax import model_folder, sharding
from mmfuser_jax.checkpoint import CheckpointError, StoredParams, restore_params
from mmfuser_jax.convert.to_ours import relayout
from mmfuser_jax.model_folder import ModelCard
from mmfuser_jax.models import VLM, LlamaConfig, LoraConfig
from mmfuser_jax.models.flops import train_flops
from mmfuser_jax.models.layers import dense
from mmfuser_jax.models.params import abstract_params
from mmfuser_jax.models.quantized import FORMATS, KERNEL, PACKED, block_size, dequantize, quantize, weights
from mmfuser_jax.train.optim import OptimizerConfig, Rule, RuleError, assign_rules, flatten, unflatten
from mmfuser_jax.train.state import init_state, initial_params
from mmfuser_jax.train.step import make_train_step
from tests.helpers import random_batch, random_params, relative, run
from tests.torch_folders import write_params

BYTES = {"int8": 1.1, "int4": 0.6, "nf4": 0.6}
"""Of a weight, its share of a scale included."""

LORA = LoraConfig(4, 8.0)
ADAPTERS = OptimizerConfig(
    rules=(Rule(r"llm/.*/lora_[ab]$", 1e-2), Rule("(fuser|projector)/", 1e-2), Rule(".*", None)), steps=20
)


def quantised(config, kind, scan=False, lora=LORA):
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, lora=lora, quantize=kind, scan_layers=scan))


def folder_of(path, params, config):
    model_folder.write_card(write_params(path, params), ModelCard(config, "v1", "pad"))
    return str(path)


def in_numbers(params, kind, config):
    """Nested parameters with the codes of every kernel turned back into numbers."""
    flat = flatten(params)
    llm, plain = config.llm, {path: x for path, x in flat.items() if not KERNEL.fullmatch(path)}
    shapes = {"query": (llm.width, llm.heads, llm.head_width), "out": (llm.heads, llm.head_width, llm.width)}
    shapes["key"] = shapes["value"] = (llm.width, llm.kv_heads, llm.head_width)
    for path in flat:
        if path.endswith("/scales"):
            stem = path.removesuffix("/scales")
            stored = {kind: flat[f"{stem}/{kind}"], "scales": flat[path]}
            kernel = (jax.vmap(dequantize, (0, None)) if "/layers/" in path else dequantize)(stored, kind)
            shape = shapes.get(stem.split("/")[-2])
            plain[stem] = kernel.reshape(*kernel.shape[:-2], *shape) if shape else kernel
    return unflatten(plain)


@pytest.mark.parametrize("kind", FORMATS)
def test_error_is_within_the_bounds_of_the_format(kind, rng):
    kernel = rng.standard_normal((4 * 64, 40)).astype(np.float32) * rng.uniform(0.1, 10, (1, 40)).astype(np.float32)
    stored = quantize(kernel, kind)
    back, scales = np.asarray(dequantize(stored, kind)), np.repeat(stored["scales"], 64, axis=0)
    # Half a step: of the widest gap between NormalFloat's sixteen values, which is the lowest one.
    bound = (1 - 0.6961928) / 2 if kind == "nf4" else 0.5
    assert np.all(np.abs(back - kernel) <= scales * bound * (1 + 1e-4))
    typical = {"int8": 0.007, "int4": 0.12, "nf4": 0.1}[kind]
    assert typical / 2 < relative(back, kernel) < typical
    shuffled = {**stored, "scales": rng.permutation(stored["scales"], axis=1)}
    assert relative(dequantize(shuffled, kind), kernel) > 5 * typical


NORMAL_FLOAT = np.array(
    [-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0, 0.0795803, 0.1609302, 0.2461123,
     0.33791524, 0.44070983, 0.562617, 0.72295684, 1], np.float32
)  # fmt: skip
"""Appendix E of arXiv 2305.14314."""


@pytest.mark.parametrize("kind", FORMATS)
def test_codes_are_the_nearest_by_other_means(kind, rng):
    """Every value of a format in either half of a byte, and blocks of zeros."""
    kernel = rng.uniform(-1, 1, (2 * 64, 64)).astype(np.float32)
    kernel[:64, 0] = 0
    stored = quantize(kernel, kind)
    scales = np.repeat(np.asarray(stored["scales"]), 64, axis=0)
    scaled, chosen = kernel / scales, np.asarray(dequantize(stored, kind)) / scales
    low = {"int8": -128, "int4": -8, "nf4": 0}[kind]
    values = NORMAL_FLOAT if kind == "nf4" else np.arange(low, -low, dtype=np.float32)
    distances = np.abs(scaled[..., None] - values)
    np.testing.assert_allclose(np.abs(scaled - chosen), distances.min(axis=-1), atol=1e-4)
    assert set(np.round(chosen, 3).ravel()) >= set(np.round(values[1:], 3))
    assert not np.any(dequantize(stored, kind)[:64, 0])


def test_blocks_are_as_large_as_divides():
    assert [block_size(n) for n in (4096, 11_008, 48, 130, 67)] == [64, 64, 48, 26, 1]


@pytest.mark.parametrize(("kind", "scan"), [("int8", False), ("int4", True), ("nf4", True)])
def test_computes_what_its_numbers_compute(kind, scan, tiny):
    config, batch = quantised(tiny, kind, scan), random_batch(tiny, 2, 24)
    params = random_codes(config, tiny)
    plain = quantised(tiny, "", scan)
    expected = run(VLM(plain), in_numbers(params, kind, config), batch).logits
    logits = run(VLM(config, remat="full"), params, batch).logits
    assert relative(logits, expected) < 1e-6
    half = [
        run(VLM(c, jnp.bfloat16), p, batch).logits
        for c, p in ((config, params), (plain, in_numbers(params, kind, config)))
    ]
    assert relative(*half) < 1e-6


def random_codes(config, tiny):
    """Random parameters whose kernels are quantised random numbers."""
    flat = flatten(random_params(VLM(config)))
    numbers = flatten(random_params(VLM(quantised(tiny, "", config.llm.scan_layers))))
    for path in flat:
        if path.endswith("/scales"):
            stem = path.removesuffix("/scales")
            kernel = numbers[stem].reshape(*numbers[stem].shape[: config.llm.scan_layers], -1, flat[path].shape[-1])
            make = lambda x: quantize(x, config.llm.quantize)  # noqa: E731
            made = jax.vmap(make)(kernel) if config.llm.scan_layers else make(kernel)
            flat |= {f"{stem}/{name}": x for name, x in made.items()}
    return unflatten(flat)


def test_the_backward_pass_keeps_codes_and_no_kernel():
    layer = dense(512, ("embed", "mlp"), name="gate", dtype=jnp.float32, use_bias=False, quantize="nf4")
    x = jnp.ones((1, 1024))
    params = meta.unbox(jax.jit(layer.init)(jax.random.key(0), x))
    _, backward = jax.vjp(lambda x: layer.apply(params, x), x)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(backward)) < 0.6 * 1024 * 512 + x.nbytes
    (gradient,) = backward(jnp.ones((1, 512)))
    np.testing.assert_allclose(
        gradient[0], dequantize(params["params"]["kernel"], "nf4").sum(axis=1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("kind", "scan"), [("int8", False), ("nf4", True)])
def test_adapters_train_over_a_base_that_stays(kind, scan, tiny, mesh, tmp_path):
    config = quantised(tiny, kind, scan)
    numbers = random_params(VLM(dataclasses.replace(tiny, llm=dataclasses.replace(tiny.llm, scan_layers=not scan))))
    source = folder_of(tmp_path / "float", numbers, tiny)
    params = initial_params(VLM(config), ADAPTERS, 0, mesh, source)
    state = init_state(params, ADAPTERS, 0, mesh)
    base = {path: np.asarray(x) for path, x in flatten(params).items() if KERNEL.fullmatch(path)}
    _bytes_are_few(flatten(params), base, kind, tiny)
    assert not any(
        KERNEL.fullmatch(path[-1].key)
        for path, _ in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
        if hasattr(path[-1], "key")
    )
    step = make_train_step(VLM(config, remat="full"), ADAPTERS, mesh, state)
    losses = []
    for _ in range(8):
        state, metrics = step(state, sharding.shard_batch(random_batch(tiny, 8, 24), mesh))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.95 * losses[0]
    trained = flatten(state.params)
    for path, x in base.items():
        np.testing.assert_array_equal(trained[path], x, err_msg=path)
        assert trained[path].dtype == x.dtype
    assert all(np.any(x != flatten(numbers).get(p, 0)) for p, x in trained.items() if p.endswith(("lora_a", "lora_b")))
    saved = tmp_path / "saved"
    folder_of(saved, state.params, config)
    restored, _ = restore_params(saved / "checkpoints", abstract_params(VLM(config), mesh))
    for path, x in flatten(restored).items():
        np.testing.assert_array_equal(x, trained[path], err_msg=path)
    vlm = mm.load(saved)
    ids = np.array([[1, 5, 9, 7]])
    assert len(vlm.generate_ids(ids, max_new_tokens=3)[0]) <= 3
    relayout(saved, tmp_path / "other", scan=not scan)
    assert relative(mm.load(tmp_path / "other").logits(ids), vlm.logits(ids)) < 1e-5


def _bytes_are_few(params, base, kind, tiny):
    """Nothing of the base is kept in numbers, and codes and scales take what they should."""
    blocks = {path for path in params if path.startswith("llm/decoder/") and "lora" not in path and "norm" not in path}
    assert blocks == base.keys()
    count = sum(
        x.size
        for path, x in flatten(random_params(VLM(tiny))).items()
        if path.startswith("llm/decoder/") and path.endswith("kernel")
    )
    assert sum(weights(path, x.shape) for path, x in base.items()) == count
    assert sum(x.nbytes for x in base.values()) <= BYTES[kind] * count
    others = [path for path, x in params.items() if path not in base and not jnp.issubdtype(x.dtype, jnp.floating)]
    assert not others


def test_a_float_base_is_quantised_as_by_hand_and_must_fit(tiny, mesh, tmp_path):
    numbers = random_params(VLM(tiny))
    source = folder_of(tmp_path / "float", numbers, tiny)
    config = quantised(tiny, "nf4", scan=True)
    params = flatten(initial_params(VLM(config), ADAPTERS, 0, mesh, source))
    for layer in (0, 1):
        kernel = flatten(numbers)[f"llm/decoder/layers_{layer}/out/kernel"]
        for name, x in quantize(kernel.reshape(-1, tiny.llm.width), "nf4").items():
            np.testing.assert_array_equal(params[f"llm/decoder/layers/out/kernel/{name}"][layer], x)
    again = folder_of(tmp_path / "nf4", unflatten(params), config)
    for path, x in flatten(initial_params(VLM(config), ADAPTERS, 0, mesh, again)).items():
        np.testing.assert_array_equal(x, params[path], err_msg=path)
    for other in ("int4", "int8", ""):
        with pytest.raises(CheckpointError, match=r"it also has .*kernel/nf4"):
            initial_params(VLM(quantised(tiny, other, scan=True)), ADAPTERS, 0, mesh, again)
    assert "llm/decoder/layers/out/kernel/nf4" in StoredParams(tmp_path / "nf4" / "checkpoints").shapes


def test_what_cannot_be_is_refused_in_a_line(tiny):
    for kind in PACKED:
        with pytest.raises(ValueError, match=f"{kind} packs pairs of inputs, 3 are odd"):
            quantize(np.ones((3, 2), np.float32), kind)
    paths = flatten(random_params(VLM(quantised(tiny, "int8"))))
    with pytest.raises(RuleError, match=r"rule 'llm/' trains llm/\S*kernel/int8: quantised kernels stay frozen"):
        assign_rules(paths, (Rule("llm/", 1e-4), Rule(".*", None)))
    with pytest.raises(ValueError, match="quantize 'fp8' is not one of int8, int4, nf4"):
        quantised(tiny, "fp8")
    with pytest.raises(ValueError, match="nf4 packs pairs of inputs: the llm's widths must be even"):
        LlamaConfig(vocab_size=8, width=4, depth=1, heads=1, kv_heads=1, mlp_width=7, quantize="nf4")
    with pytest.raises(ValueError, match="gate: a quantised layer has no bias"):
        dense(4, ("embed", "mlp"), name="gate", dtype=jnp.float32, quantize="nf4")


def test_flops_do_not_depend_on_the_format(tiny):
    def flops(config):
        shapes = {path: x.shape for path, x in flatten(random_params(VLM(config))).items()}
        trained = [path for path in shapes if "lora" in path]
        return train_flops(config, shapes, rows=2, length=64, tiles=2, trained=trained, remat="full")

    assert flops(quantised(tiny, "nf4")) == flops(quantised(tiny, "int8", scan=True)) == flops(quantised(tiny, ""))


@pytest.mark.parametrize(
    ("size", "count", "axes"),
    [
        ("7b", 6_476_005_376, {"fsdp": 8}),
        ("7b", 6_476_005_376, {"fsdp": 1, "tensor": 8}),
        ("13b", 12_687_769_600, {"fsdp": 8}),
    ],
)
def test_published_sizes_are_spread_like_their_kernels(size, count, axes):
    """At 7B: 3.6 GB of base instead of 13, and no device holds more codes than its share, nor scales, along fsdp."""
    config = finetune.get_config(f"{size},qlora")
    model = VLM(mm.models.VlmConfig.from_dict(config.model.to_dict()), jnp.bfloat16)
    mesh = sharding.make_mesh(**axes)
    base = {path: x for path, x in flatten(abstract_params(model, mesh)).items() if KERNEL.fullmatch(path)}
    assert sum(weights(path, x.shape) for path, x in base.items()) == count

    def held(part, shape):
        return sum(math.prod(shape(x)) * x.dtype.itemsize for path, x in base.items() if path.endswith(part))

    for part, devices in (("nf4", 8), ("scales", axes["fsdp"])):
        whole = held(part, lambda x: x.shape)
        assert whole == count / (2 if part == "nf4" else 16)
        assert held(part, lambda x: x.sharding.shard_shape(x.shape)) == whole / devices
