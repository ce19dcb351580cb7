"""Whole models against the reference's numbers: every stage, loss, gradients, greedy tokens; and broken variants."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmfuser_jax as mm
from mmfuser_jax import sharding
from mmfuser_jax.data.packing import expand_images
from mmfuser_jax.models import VLM
from mmfuser_jax.models import clip_vit as clip_vit_module
from mmfuser_jax.models import fuser as fuser_module
from mmfuser_jax.models import llama as llama_module
from mmfuser_jax.ops import cross_entropy
from mmfuser_jax.train.optim import flatten, unflatten
from mmfuser_jax.types import Batch
from tests import golden_models
from tests.helpers import relative, run

both = pytest.mark.parametrize("name", golden_models.NAMES)


def model(name, **changes) -> VLM:
    return VLM(dataclasses.replace(golden_models.load(name).model.config, **changes))


def pixels(name) -> np.ndarray:
    return golden_models.stages(name)["pixel_values"].transpose(0, 2, 3, 1)


def batch(name) -> Batch:
    """The golden batch of three rows, expanded as the reference merges it."""
    stages = golden_models.stages(name)
    rows, length = stages["merged_labels"].shape
    patches = model(name).config.vision.patches
    tokens, index = np.zeros((rows, length), np.int32), np.full((rows, length), -1, np.int32)
    for row in range(rows):
        ids = stages["input_ids"][row][stages["attention_mask"][row]]
        expanded, places, _ = expand_images(ids, [(np.arange(patches), patches)])
        tokens[row, : len(expanded)], index[row, : len(expanded)] = expanded, places
    targets = np.full((rows, length), -100, np.int32)
    targets[:, :-1] = stages["merged_labels"][:, 1:]
    return Batch(
        tokens=tokens,
        targets=targets,
        positions=np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)).copy(),
        segment_ids=stages["merged_attention_mask"].astype(np.int32),
        branch_ids=np.zeros((rows, length), np.int32),
        image_index=index,
        pixels=pixels(name)[:, None],
    )


@functools.cache
def apply(name, method: str | None = None):
    params = golden_models.load(name).params
    if method == "visual_features":
        return run(model(name), params, pixels(name), method=method)
    return run(model(name), params, batch(name)).logits


def real(name, x: np.ndarray) -> np.ndarray:
    """Only the places that are not padding."""
    return np.asarray(x)[golden_models.stages(name)["merged_attention_mask"]]


@both
def test_every_visual_stage(name):
    stages, features = golden_models.stages(name), apply(name, "visual_features")
    selected = stages["selected_features"] if features.levels else stages["selected_features"][None]
    for ours, theirs in zip((*features.levels, features.query), selected, strict=True):
        assert relative(ours, theirs) <= 1e-5
    for ours, layer in zip((*features.levels, features.query), model(name).config.states, strict=True):
        assert relative(ours, stages["vision_hidden_states"][layer][:, 1:]) <= 1e-5
    assert relative(features.fused, stages["fused"]) <= 1e-5
    assert relative(features.projected, stages["projected"]) <= 1e-5


@both
def test_merged_embeddings_logits_and_loss(name):
    stages, inputs = golden_models.stages(name), batch(name)
    params = golden_models.load(name).params
    features = run(model(name), params, inputs.pixels, method="encode_images")
    merged = run(model(name), params, inputs.tokens, inputs.image_index, features, method="merge")
    assert relative(real(name, merged), real(name, stages["merged_embeds"])) <= 1e-5
    assert relative(real(name, apply(name)), real(name, stages["logits"])) <= 1e-4
    loss = cross_entropy(apply(name), inputs.targets).mean
    np.testing.assert_allclose(loss, stages["loss"], rtol=1e-6)


@both
def test_the_facade_gives_the_same_logits(name):
    stages = golden_models.stages(name)
    logits = golden_models.load(name).logits(stages["input_ids"], pixels(name))
    for row in range(3):
        length = stages["merged_attention_mask"][row].sum()
        assert relative(logits[row, :length], stages["logits"][row, :length]) <= 1e-4


@both
def test_a_mesh_changes_nothing(name):
    stages, mesh = golden_models.stages(name), sharding.make_mesh(data=2, fsdp=2, tensor=2)
    logits = mm.load(golden_models.GOLDEN / name, mesh=mesh).logits(stages["input_ids"], pixels(name))
    np.testing.assert_allclose(logits, golden_models.load(name).logits(stages["input_ids"], pixels(name)), atol=1e-4)


@both
def test_every_gradient(name):
    inputs = batch(name)

    def loss(params):
        return cross_entropy(model(name).apply({"params": params}, inputs).logits, inputs.targets).mean

    gradients = flatten(jax.jit(jax.grad(loss))(golden_models.load(name).params))
    expected = golden_models.ours(name, golden_models.stages(name), "grad/")
    assert expected.keys() == {path for path in gradients if not path.startswith("vision_encoder")}
    for path, gradient in expected.items():
        assert relative(gradients[path], gradient) <= 1e-4, path


@both
def test_greedy_tokens_alone_and_together(name):
    stages, vlm = golden_models.stages(name), golden_models.load(name)
    prompts = [stages[f"greedy_prompt_{row}"].astype(np.int32) for row in range(3)]
    expected = [stages[f"greedy_tokens_{row}"][1:].tolist() for row in range(3)]  # the first is transformers' own start
    for row, prompt in enumerate(prompts):
        assert vlm.generate_ids(prompt[None], pixels(name)[row : row + 1], max_new_tokens=16)[0] == expected[row]
    features = vlm.engine.encode_images(pixels(name))
    shown = [[vlm.engine.whole(row)] for row in range(3)]
    assert vlm.engine.generate(prompts, features, shown, max_new_tokens=16) == expected


def last_layer(params, _):
    """Reads the last hidden state; our tree leaves that layer out, so it gets the weights of the one before."""
    encoder = {**params["vision_encoder"]["encoder"]}
    encoder["layers_5"] = encoder["layers_4"]
    return {**params, "vision_encoder": {**params["vision_encoder"], "encoder": encoder}}, {"select_layer": -1}


def other_activation(params, monkeypatch):
    monkeypatch.setattr(clip_vit_module, "quick_gelu", jax.nn.gelu)
    return params, {}


def other_rotary(params, monkeypatch):
    monkeypatch.setattr(llama_module, "apply_rotary", interleaved_rotary)
    return params, {}


def interleaved_rotary(x, turns):
    """The other rotary convention: neighbours rotate together."""
    cos, sin = (turn[:, :, None] for turn in turns)
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


def swapped_offsets(params, _):
    """x and y of the sampling offsets."""
    flat = flatten(params)
    for path in [path for path in flat if "sampling_offsets" in path]:
        flat[path] = flat[path].reshape(*flat[path].shape[:-1], -1, 2)[..., ::-1].reshape(flat[path].shape)
    return unflatten(flat), {}


def no_second_gamma(params, _):
    return {**params, "fuser": {**params["fuser"], "gamma2": jnp.zeros_like(params["fuser"]["gamma2"])}}, {}


def softmax_per_level(params, monkeypatch):
    """Attention weights that sum to one on every level, not over all levels together."""
    softmax = jax.nn.softmax

    def apart(x):
        levels = x.reshape(*x.shape[:-1], -1, 4)
        return (softmax(levels) / levels.shape[-2]).reshape(x.shape)

    monkeypatch.setattr(fuser_module.jax.nn, "softmax", apart)
    return params, {}


ANYWHERE = (last_layer, other_activation, other_rotary)
IN_A_FUSER = (swapped_offsets, no_second_gamma, softmax_per_level)
BROKEN = [(name, f) for name in golden_models.NAMES for f in ANYWHERE] + [("mmfuser_tiny", f) for f in IN_A_FUSER]


@pytest.mark.parametrize(("name", "break_it"), BROKEN, ids=[f"{name}-{f.__name__}" for name, f in BROKEN])
def test_broken_variants_differ(name, break_it, monkeypatch):
    """Each mistake must show in the logits far beyond the tolerance: the comparisons above can fail."""
    broken, changes = break_it(golden_models.load(name).params, monkeypatch)
    compute = jax.jit(lambda params: model(name, **changes).apply({"params": params}, batch(name)).logits)
    logits = compute(broken)  # traced with what is broken, never before
    assert relative(real(name, logits), real(name, golden_models.stages(name)["logits"])) > 1e-3


@both
def test_labels_are_shifted(name):
    labels = golden_models.stages(name)["merged_labels"]
    assert abs(cross_entropy(apply(name), labels).mean / golden_models.stages(name)["loss"] - 1) > 1e-3
