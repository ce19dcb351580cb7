"""Conversion both ways: bit for bit in every layout and dtype, with all that travels along."""

import functools
import json
import shutil

import ml_dtypes
import numpy as np
import pytest

import mmfuser_jax as mm
from mmfuser_jax import model_folder, presets
from mmfuser_jax.checkpoint import StoredParams
from mmfuser_jax.convert import ConversionError, open_checkpoint, to_torch, write_model_folder, write_torch_folder
from mmfuser_jax.convert.to_ours import relayout
from mmfuser_jax.model_folder import ModelCard
from mmfuser_jax.models import VLM
from mmfuser_jax.train.optim import flatten
from tests.conftest import GOLDEN
from tests.helpers import random_params
from tests.torch_folders import (
    LLAVA,
    MMFUSER,
    TOWER,
    same_bits,
    shards,
    tensors_of,
    to_ours,
    variant,
    write_params,
)


@pytest.mark.parametrize("source", [MMFUSER, LLAVA], ids=lambda path: path.name)
@pytest.mark.parametrize("scan", [False, True])
def test_round_trip_is_bit_identical(source, scan, tmp_path):
    ours = to_ours(source, tmp_path / "ours", scan=scan)
    stacked = any("/layers/" in path for path in StoredParams(ours / "checkpoints").shapes)
    assert stacked == scan
    write_torch_folder(ours, tmp_path / "back", "llava")
    same_bits(tensors_of(source), tensors_of(tmp_path / "back"))
    tower = {key.removeprefix(TOWER): x for key, x in tensors_of(source).items() if key.startswith(TOWER)}
    clip = tensors_of(tmp_path / "back" / "clip")
    same_bits(tower, {key.removeprefix("vision_model."): x for key, x in clip.items()})
    for name in ("config.json", "clip/config.json", "clip/preprocessor_config.json"):
        after = json.loads((tmp_path / "back" / name).read_text())
        after.pop("mmfuser_jax_template", None)
        assert after == json.loads((source / name).read_text())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bits_stay_as_they_are(dtype, tmp_path):
    half = variant(MMFUSER, tmp_path / "half", lambda t: {k: x.astype(dtype) for k, x in t.items()})
    ours = to_ours(half, tmp_path / "ours")
    assert {x.dtype for x in flatten(mm.load(ours).params).values()} == {np.dtype(dtype)}
    write_torch_folder(ours, tmp_path / "back", "llava")
    same_bits(tensors_of(half), tensors_of(tmp_path / "back"))
    write_torch_folder(ours, tmp_path / "wide", "llava", dtype="float32")
    assert {x.dtype for x in tensors_of(tmp_path / "wide").values()} == {np.dtype(np.float32)}
    relabelled = ModelCard(mm.load(ours).model.config, "v1", "square", im_start_end=True)
    model_folder.write_card(ours, relabelled)  # as a training run on squares with marked pictures would
    write_torch_folder(ours, tmp_path / "square", "llava")
    assert mm.load(tmp_path / "square").card == relabelled
    with pytest.raises(ConversionError, match="dtype 'int4' is not one of float32"):
        write_torch_folder(ours, tmp_path / "odd", "llava", dtype="int4")


def test_layouts_of_ours_convert_into_each_other(tmp_path):
    one = to_ours(MMFUSER, tmp_path / "one")
    relayout(one, tmp_path / "stacked", scan=True)
    relayout(tmp_path / "stacked", tmp_path / "again", scan=False)
    assert StoredParams(tmp_path / "again" / "checkpoints").shapes == StoredParams(one / "checkpoints").shapes
    ids = np.array([[1, 5, -200, 9, 7]])
    pixels = np.random.default_rng(0).standard_normal((1, 56, 56, 3)).astype(np.float32)
    expected = mm.load(one).logits(ids, pixels)
    for folder in ("stacked", "again"):
        np.testing.assert_allclose(mm.load(tmp_path / folder).logits(ids, pixels), expected, rtol=1e-4, atol=1e-5)
    write_torch_folder(tmp_path / "stacked", tmp_path / "back", "llava")
    same_bits(tensors_of(MMFUSER), tensors_of(tmp_path / "back"))


def test_shards_are_read_and_written(tmp_path, monkeypatch):
    source = shards(MMFUSER, tmp_path / "shards", 3)
    ours = to_ours(source, tmp_path / "ours")
    monkeypatch.setattr(to_torch, "write_shards", functools.partial(to_torch.write_shards, limit=200_000))
    write_torch_folder(ours, tmp_path / "back", "llava")
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    written = sorted(path.name for path in (tmp_path / "back").glob("*.safetensors"))
    assert len(written) > 3
    assert set(index["weight_map"].values()) == set(written)
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors_of(source).values())
    same_bits(tensors_of(source), tensors_of(tmp_path / "back"))


@pytest.mark.parametrize("preset", ["tiny", "tiny_llava"])
def test_a_model_trained_here_goes_out_and_comes_back(preset, tmp_path):
    """It never was in torch: the last vision layers are made up, and a fuser of another shape is described."""
    config = presets.PRESETS[preset]()
    params = random_params(VLM(config))
    model_folder.write_card(write_params(tmp_path / "ours", params), ModelCard(config, "plain", "square"))
    write_torch_folder(tmp_path / "ours", tmp_path / "out", "llava")
    vlm = mm.load(tmp_path / "out")
    assert vlm.model.config == config
    assert (vlm.card.template, vlm.card.aspect) == ("plain", "square")
    for path, x in flatten(params).items():
        np.testing.assert_array_equal(flatten(vlm.params)[path], x)
    assert f"{TOWER}encoder.layers.5.mlp.fc2.weight" in tensors_of(tmp_path / "out")
    clip = torch_clip(tmp_path / "out" / "clip")
    assert not clip["missing_keys"]
    assert not clip["unexpected_keys"]


def torch_clip(folder):
    from transformers import CLIPVisionModel

    return CLIPVisionModel.from_pretrained(folder, output_loading_info=True)[1]


def test_tokenizer_and_processor_travel(tmp_path):
    source = variant(LLAVA, tmp_path / "source", vocab_size=1024)
    shutil.copy(GOLDEN / "text" / "tokenizer.model", source)
    (source / "tokenizer_config.json").write_text(json.dumps({"legacy": False}))
    processor = json.loads((source / "clip" / "preprocessor_config.json").read_text())
    processor["image_mean"] = [0.1, 0.2, 0.3]
    (source / "clip" / "preprocessor_config.json").write_text(json.dumps(processor))
    write_model_folder(open_checkpoint([source]), tmp_path / "ours", template="llava_llama_2")
    vlm = mm.load(tmp_path / "ours")
    assert vlm.card.template == "llava_llama_2"
    assert vlm.model.config.image_mean == (0.1, 0.2, 0.3)
    assert vlm.card.aspect == "pad"
    assert vlm.tokenizer is not None
    assert vlm.tokenizer.legacy is False
    write_torch_folder(tmp_path / "ours", tmp_path / "back", "llava")
    for name in ("tokenizer.model", "tokenizer_config.json", "clip/preprocessor_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()
    assert mm.load(tmp_path / "back").card == vlm.card


def test_what_texts_say_travels_between_layouts(tmp_path):
    ours = to_ours(variant(LLAVA, tmp_path / "source", max_position_embeddings=4096), tmp_path / "ours")
    (ours / "torch" / "chat_template.jinja").write_text("{{ messages }}")
    write_torch_folder(ours, tmp_path / "hf", "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["text_config"]["max_position_embeddings"] == 4096
    assert (tmp_path / "hf" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_only_floats_change_their_dtype(tmp_path):
    name = f"{TOWER}embeddings.position_ids"
    ids = np.arange(300)[None]
    ours = to_ours(variant(LLAVA, tmp_path / "source", lambda t: {**t, name: ids}), tmp_path / "ours")
    write_torch_folder(ours, tmp_path / "half", "llava", dtype="bfloat16")
    np.testing.assert_array_equal(tensors_of(tmp_path / "half")[name], ids)
