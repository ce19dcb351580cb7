"""The whole model against the reference's numbers: every stage, loss, gradients, greedy tokens; and broken variants."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuser_jax.data.packing import expand_images
from mmfuser_jax.facade import VisionLanguageModel
from mmfuser_jax.model_folder import ModelCard
from mmfuser_jax.models import VLM
from mmfuser_jax.models import clip_vit as clip_vit_module
from mmfuser_jax.models import llama as llama_module
from mmfuser_jax.ops import cross_entropy
from mmfuser_jax.train.optim import flatten
from mmfuser_jax.types import Batch
from tests import golden_params
from tests.helpers import relative


def model(**changes) -> VLM:
    return VLM(dataclasses.replace(golden_params.config(), **changes))


def pixels() -> np.ndarray:
    return golden_params.stages()["pixel_values"].transpose(0, 2, 3, 1)


def batch() -> Batch:
    """The golden batch of three rows, expanded as the reference merges it."""
    stages = golden_params.stages()
    rows, length = stages["merged_labels"].shape
    tokens, index = np.zeros((rows, length), np.int32), np.full((rows, length), -1, np.int32)
    for row in range(rows):
        ids = stages["input_ids"][row][stages["attention_mask"][row]]
        expanded, places, _ = expand_images(ids, golden_params.config().vision.patches)
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
        pixels=pixels()[:, None],
    )


@functools.cache
def apply(method: str | None = None):
    params = {"params": golden_params.params()}
    if method == "visual_features":
        return model().apply(params, pixels(), method=method)
    return model().apply(params, batch()).logits


def test_every_visual_stage():
    stages, features = golden_params.stages(), apply("visual_features")
    for ours, theirs in zip((*features.levels, features.query), stages["selected_features"], strict=True):
        assert relative(ours, theirs) <= 1e-5
    for ours, layer in zip((*features.levels, features.query), golden_params.config().states, strict=True):
        assert relative(ours, stages["vision_hidden_states"][layer][:, 1:]) <= 1e-5
    assert relative(features.fused, stages["fused"]) <= 1e-5
    assert relative(features.projected, stages["projected"]) <= 1e-5


def real(x: np.ndarray) -> np.ndarray:
    """Only the places that are not padding."""
    return np.asarray(x)[golden_params.stages()["merged_attention_mask"]]


def test_merged_embeddings_logits_and_loss():
    stages, inputs = golden_params.stages(), batch()
    params = {"params": golden_params.params()}
    features = model().apply(params, inputs.pixels, method="encode_images")
    merged = model().apply(params, inputs.tokens, inputs.image_index, features, method="merge")
    assert relative(real(merged), real(stages["merged_embeds"])) <= 1e-5
    assert relative(real(apply()), real(stages["logits"])) <= 1e-4
    loss = cross_entropy(apply(), inputs.targets).mean
    np.testing.assert_allclose(loss, stages["loss"], rtol=1e-6)


def test_every_gradient():
    inputs = batch()

    def loss(params):
        return cross_entropy(model().apply({"params": params}, inputs).logits, inputs.targets).mean

    gradients = flatten(jax.grad(loss)(golden_params.params()))
    stages = golden_params.stages()
    expected = golden_params.ours(
        {k.removeprefix("grad/"): v for k, v in stages.items() if k.startswith("grad/")}, True
    )
    assert len(expected) > 40
    for path, gradient in expected.items():
        assert relative(gradients[path], gradient) <= 1e-4, path


def test_greedy_tokens():
    stages = golden_params.stages()
    vlm = VisionLanguageModel(ModelCard(golden_params.config(), "v1", "pad"), model(), golden_params.params(), None)
    for row in range(3):
        prompt = stages[f"greedy_prompt_{row}"].astype(np.int32)
        new = vlm.generate_ids(prompt[None], pixels()[row : row + 1], max_new_tokens=16)[0]
        assert new == stages[f"greedy_tokens_{row}"][1:].tolist()  # the first is transformers' artificial start


@pytest.mark.parametrize("broken", ["layer", "activation", "rotary", "patches", "unshifted labels"])
def test_broken_variants_differ(broken, monkeypatch):
    inputs, changes = batch(), {}
    if broken == "layer":
        changes = {"select_layer": -1}
    elif broken == "activation":
        monkeypatch.setattr(clip_vit_module, "quick_gelu", jax.nn.gelu)
    elif broken == "rotary":
        monkeypatch.setattr(llama_module, "apply_rotary", interleaved_rotary)
    elif broken == "patches":
        inputs = inputs.replace(pixels=inputs.pixels.swapaxes(2, 3))
    else:
        labels = golden_params.stages()["merged_labels"]
        loss = cross_entropy(apply(), labels).mean
        assert abs(loss / golden_params.stages()["loss"] - 1) > 1e-3
        return
    params = golden_params.params()
    if broken == "layer":  # the golden tower has a sixth layer, which our tree leaves out: use the fifth's weights
        encoder = {**params["vision_encoder"]["encoder"]}
        encoder["layers_5"] = encoder["layers_4"]
        params = {**params, "vision_encoder": {**params["vision_encoder"], "encoder": encoder}}
    logits = model(**changes).apply({"params": params}, inputs).logits
    assert relative(real(logits), real(golden_params.stages()["logits"])) > 1e-3


def interleaved_rotary(x, angles):
    """The other rotary convention: neighbours rotate together."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)
