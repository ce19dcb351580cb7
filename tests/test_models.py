"""The modules against golden numbers of the reference, against each other, and against broken variants."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuser_jax.models import VLM, FuserConfig, LlamaConfig, ProjectorConfig, RopeScaling, VlmConfig
from mmfuser_jax.models.fuser import Fuser, pixel_centres, ring_offsets
from mmfuser_jax.models.llama import rotary_frequencies
from mmfuser_jax.ops import cross_entropy
from tests import golden_models
from tests.helpers import random_batch, random_params, relative, run


def golden():
    """(stages, fuser parameters) of the reference's tiny MMFuser model."""
    name = "mmfuser_tiny"
    return golden_models.stages(name), jax.tree.map(lambda x: x, golden_models.load(name).params["fuser"])


def fuse(params, levels, query):
    grid = (4, 4)
    model = Fuser(FuserConfig(key_layers=(1, 2, 3, 4), heads=16, points=4))
    call = functools.partial(model.apply, query_grid=grid, level_grids=(grid,) * 4)
    return jax.jit(call)({"params": params}, query, tuple(levels))


def test_fuser_equals_the_reference():
    stages, params = golden()
    *levels, query = jnp.asarray(stages["selected_features"])
    assert relative(fuse(params, levels, query), stages["fused"]) <= 1e-5


@pytest.mark.parametrize("broken", ["gamma2", "swap offsets", "level order", "query norm"])
def test_fuser_negative_controls(broken):
    stages, params = golden()
    *levels, query = jnp.asarray(stages["selected_features"])
    if broken == "gamma2":
        params["gamma2"] = jnp.zeros_like(params["gamma2"])
    elif broken == "swap offsets":
        layer = params["cross_attention"]["sampling_offsets"]
        layer["bias"] = layer["bias"].reshape(-1, 2)[:, ::-1].ravel()
    elif broken == "level order":
        levels = levels[::-1]
    else:
        params["query_norm"]["scale"] = jnp.ones_like(params["query_norm"]["scale"])
    assert relative(fuse(params, levels, query), stages["fused"]) > 1e-3


def test_fresh_fuser_is_the_identity_and_only_gamma1_learns():
    grid = (3, 5)
    rng = np.random.default_rng(0)
    query, *levels = (jnp.asarray(rng.standard_normal((2, 15, 32)), jnp.float32) for _ in range(3))
    model = Fuser(FuserConfig(key_layers=(1, 2), heads=4))
    call = jax.jit(functools.partial(model.apply, query_grid=grid, level_grids=(grid, grid)))
    params = jax.tree.map(
        lambda x: x.unbox(),
        model.init(jax.random.key(0), query, tuple(levels), query_grid=grid, level_grids=(grid, grid)),
        is_leaf=lambda x: hasattr(x, "unbox"),
    )
    np.testing.assert_array_equal(call(params, query, tuple(levels)), query)
    gradients = jax.grad(lambda p: (call(p, query, tuple(levels)) ** 2).sum())(params)["params"]
    learning = {jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(gradients) if np.any(g)}
    assert learning == {"['gamma1']"}


def test_fuser_takes_unequal_grids_and_names_misfits():
    model = Fuser(FuserConfig(key_layers=(1, 2), heads=2))
    query, a, b = jnp.ones((1, 6, 8)), jnp.ones((1, 20, 8)), jnp.ones((1, 3, 8))
    init = functools.partial(model.init, jax.random.key(0), query)
    out, _ = model.init_with_output(jax.random.key(0), query, (a, b), query_grid=(2, 3), level_grids=((4, 5), (3, 1)))
    assert out.shape == (1, 6, 8)
    for grids, levels, match in [
        (((5, 5), (3, 1)), (a, b), "level 0 has 20 patches, its grid 5x5 needs 25"),
        (((4, 5),), (a,), "2 key layers got 1 levels"),
        (((4, 5), (3, 1)), (a, b[..., :4]), "level 1 is 4 wide"),
    ]:
        with pytest.raises(ValueError, match=match):
            init(levels, query_grid=(2, 3), level_grids=grids)
    with pytest.raises(ValueError, match="at least one key layer"):
        FuserConfig(key_layers=())


def test_ring_initialisation():
    offsets = ring_offsets(8, 2, 3).reshape(8, 2, 3, 2)
    np.testing.assert_allclose(np.abs(offsets).max(-1), np.broadcast_to([1, 2, 3], (8, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(offsets[0, 0, 0], [1, 0], atol=1e-6)
    np.testing.assert_allclose(offsets[1, 1, 1], [2, 2], atol=1e-6)
    np.testing.assert_allclose(pixel_centres((2, 4))[:2], [[0.125, 0.25], [0.375, 0.25]])


def test_cached_decoding_equals_the_full_forward(tiny):
    model = VLM(tiny)
    params = random_params(model)
    batch = random_batch(tiny, rows=2, length=24)
    full = run(model, params, batch).logits
    features = run(model, params, batch.pixels, method="encode_images")
    cache = tiny.llm.empty_cache(2, 30)
    prefill = 20
    out = run(
        model, params, batch.tokens[:, :prefill], cache=cache, last=jnp.full(2, prefill - 1),
        image_index=batch.image_index[:, :prefill], image_features=features, method="decode",
    )  # fmt: skip
    assert relative(out.logits[:, 0], full[:, prefill - 1]) < 1e-5
    for place in range(prefill, 24):
        out = run(
            model, params, batch.tokens[:, place : place + 1], cache=out.cache, last=jnp.zeros(2, int), method="decode"
        )
        assert relative(out.logits[:, 0], full[:, place]) < 1e-5


def test_branches_equal_separate_rows(tiny):
    """Two branches behind one trunk compute what two rows with the trunk each compute, and nothing leaks."""
    model = VLM(tiny)
    params = random_params(model)
    whole = random_batch(tiny, rows=1, length=30)
    trunk, first = 18, 24  # branch 1 is slots 18..23, branch 2 is slots 24..29
    branch_ids = np.zeros((1, 30), np.int32)
    branch_ids[:, trunk:first], branch_ids[:, first:] = 1, 2
    positions = whole.positions.copy()
    positions[:, first:] -= first - trunk
    packed = run(model, params, whole.replace(branch_ids=branch_ids, positions=positions)).logits
    for start, stop in ((trunk, first), (first, 30)):
        keep = [*range(trunk), *range(start, stop)]
        row = jax.tree.map(lambda x, keep=keep: x[:, keep] if x.ndim == 2 else x, whole)
        row = row.replace(positions=np.arange(len(keep), dtype=np.int32)[None])
        alone = run(model, params, row).logits
        assert relative(packed[:, start:stop], alone[:, trunk:]) < 1e-5
    unbranched = run(model, params, whole.replace(positions=positions)).logits
    assert relative(packed[:, first:], unbranched[:, first:]) > 1e-2


def scanned(config: VlmConfig) -> VlmConfig:
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, scan_layers=True),
        llm=dataclasses.replace(config.llm, scan_layers=True),
    )


def stack_layers(params):
    """layers_0, layers_1, … → layers, stacked on a leading axis."""
    params = dict(params)
    for part, stack in (("vision_encoder", "encoder"), ("llm", "decoder")):
        layers = params[part][stack]
        ordered = [layers[f"layers_{i}"] for i in range(len(layers))]
        params[part] = {**params[part], stack: {"layers": jax.tree.map(lambda *x: jnp.stack(x), *ordered)}}
    return params


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_scan_and_remat_change_nothing(tiny, remat):
    batch = random_batch(tiny, rows=2, length=24)
    plain = VLM(tiny)
    params = random_params(plain)

    def loss(model, p):
        return cross_entropy(model.apply({"params": p}, batch).logits, batch.targets).mean

    def differentiate(model, p):
        return jax.jit(jax.value_and_grad(functools.partial(loss, model)))(p)

    expected, gradients = differentiate(plain, params)
    value, stacked = differentiate(VLM(scanned(tiny), remat=remat), stack_layers(params))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    flat, tree = jax.tree.flatten(stack_layers(gradients))
    assert jax.tree.structure(stacked) == tree
    # Against the whole gradient's norm: some parameters (the bias of keys) have a gradient of exactly zero but for noise.
    total = np.sqrt(sum(float((x**2).sum()) for x in flat))
    errors = [np.linalg.norm(a - b) / total for a, b in zip(jax.tree.leaves(stacked), flat, strict=True)]
    assert max(errors) < 1e-5


def test_tied_head_and_identity_projector(tiny):
    llm = dataclasses.replace(tiny.llm, tied_head=True, width=32, heads=4, head_width=0)
    config = dataclasses.replace(tiny, llm=llm, projector=ProjectorConfig("identity"))
    model = VLM(config)
    params = random_params(model)
    assert "head" not in params["llm"]
    assert "projector" not in params
    logits = run(model, params, random_batch(config, 1, 20)).logits
    assert logits.shape == (1, 20, 128)
    assert logits.dtype == jnp.float32
    with pytest.raises(ValueError, match="identity projector from width 32 to 48"):
        VLM(dataclasses.replace(tiny, projector=ProjectorConfig("identity"))).init(
            jax.random.key(0), random_batch(tiny, 1, 20)
        )


def test_bfloat16_computes_close_and_returns_float32_logits(tiny):
    params = random_params(VLM(tiny), scale=0.1)
    batch = random_batch(tiny, 1, 24)
    full = run(VLM(tiny), params, batch).logits
    low = run(VLM(tiny, jnp.bfloat16), params, batch).logits
    assert low.dtype == jnp.float32
    assert 1e-5 < relative(low, full) < 0.05


def test_rope_scaling():
    base = LlamaConfig(vocab_size=8, width=64, depth=1, heads=1, kv_heads=1, mlp_width=8, rope_theta=500_000.0)
    plain = rotary_frequencies(base)
    linear = rotary_frequencies(dataclasses.replace(base, rope_scaling=RopeScaling("linear", 4.0)))
    np.testing.assert_allclose(linear, plain / 4)
    llama3 = rotary_frequencies(dataclasses.replace(base, rope_scaling=RopeScaling("llama3", 8.0)))
    np.testing.assert_allclose(llama3, [published_llama3(f, 8.0, 1.0, 4.0, 8192) for f in plain], rtol=1e-12)
    assert len(np.unique(np.round(llama3 / plain, 6))) > 2  # stretched, kept and blended frequencies all occur
    with pytest.raises(ValueError, match="not linear or llama3"):
        RopeScaling("yarn", 2.0)


def published_llama3(frequency, factor, low, high, context):
    """The rule as published with Llama 3.1, by wavelength."""
    wavelength = 2 * np.pi / frequency
    if wavelength > context / low:
        return frequency / factor
    if wavelength < context / high:
        return frequency
    smooth = (context / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"select_layer": -9}, "hidden state -9 of a vision encoder with 6 layers"),
        ({"fuser": FuserConfig(key_layers=(1, 7))}, "hidden state 7"),
        ({"fuser": FuserConfig(key_layers=(1,), heads=5)}, "does not divide by 5 fuser heads"),
    ],
)
def test_impossible_shapes_are_refused(tiny, change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(tiny, **change)


def test_config_survives_json_and_names_unknown_fields(tiny):
    fields = json.loads(json.dumps(dataclasses.asdict(tiny)))
    assert VlmConfig.from_dict(fields) == tiny
    fields["llm"]["widht"] = 3
    with pytest.raises(ValueError, match=r"model\.llm has no field widht"):
        VlmConfig.from_dict(fields)
