"""What a source may be: whole, in parts, adapted, with its vision tower elsewhere, pickled, on the hub."""

import json
import logging
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mmfuser_jax as mm
from mmfuser_jax import model_folder
from mmfuser_jax.convert import ConversionError, open_checkpoint, write_model_folder, write_torch_folder
from mmfuser_jax.hub import HubError
from mmfuser_jax.model_folder import ModelFolderError
from mmfuser_jax.models import VLM
from mmfuser_jax.train.optim import OptimizerConfig, Rule, flatten
from mmfuser_jax.train.state import initial_params
from tests.conftest import GOLDEN
from tests.torch_folders import (
    LLAVA,
    MMFUSER,
    TOWER,
    Q,
    clip_folder,
    llm_folder,
    lora_folder,
    same_bits,
    shards,
    tensors_of,
    variant,
    without,
)


def test_pickles_need_permission_and_give_the_same(tmp_path):
    source = shards(LLAVA, tmp_path / "bin", 2, "bin")
    with pytest.raises(ConversionError, match=r"pytorch_model-00001-of-00002\.bin.*are pickles.*--allow_pickle"):
        open_checkpoint([source])
    write_model_folder(open_checkpoint([source], allow_pickle=True), tmp_path / "ours", template="v1")
    write_torch_folder(tmp_path / "ours", tmp_path / "back", "llava")
    same_bits(tensors_of(LLAVA), tensors_of(tmp_path / "back"))


@pytest.mark.parametrize("whole", [False, True])
def test_parts_to_start_training_from(whole, tmp_path, mesh):
    parts = [llm_folder(tmp_path / "vicuna"), clip_folder(tmp_path / "clip", whole)]
    checkpoint = open_checkpoint(parts)
    assert set(checkpoint.parts) == {"vision_encoder", "llm"}
    write_model_folder(checkpoint, tmp_path / "start", template="v1")
    with pytest.raises(ModelFolderError, match=r"holds only .*llm.* training can start from it"):
        mm.load(tmp_path / "start")
    assert (tmp_path / "start" / "tokenizer" / "tokenizer.model").exists()
    config = model_folder.with_layout(mm.load(LLAVA).model.config, scan=True)  # stacked, though stored one by one
    everything = OptimizerConfig(rules=(Rule(".*", 1e-3),), steps=1)
    params = flatten(initial_params(VLM(config), everything, 0, mesh, str(tmp_path / "start")))
    tensors = load_file(LLAVA / "model.safetensors")
    query = params["llm/decoder/layers/query/kernel"][1]
    np.testing.assert_array_equal(query.reshape(64, 64), tensors[Q].T)
    np.testing.assert_array_equal(
        params["vision_encoder/encoder/layers/mlp_in/kernel"][3], tensors[TOWER + "encoder.layers.3.mlp.fc1.weight"].T
    )
    assert "projector/layers_0/kernel" in params


@pytest.mark.parametrize("name", ["mmfuser_tiny", "llava_tiny"])
def test_a_stage_one_projector_over_its_base(name, tmp_path):
    """Vicuna + CLIP + `mm_projector.bin`, as stage 1 leaves them, equal the whole checkpoint."""
    source = GOLDEN / name
    stage_one = tmp_path / "stage1"
    stage_one.mkdir()
    for file in ("config.json", "mm_projector.bin"):
        shutil.copy(source / file, stage_one)
    base = variant(source, tmp_path / "base", lambda t: {k: x for k, x in t.items() if "mm_projector" not in k})
    checkpoint = open_checkpoint([stage_one, base], allow_pickle=True)
    assert checkpoint.whole
    expected = open_checkpoint([source])
    for path in expected.params:
        np.testing.assert_array_equal(checkpoint.read(path), expected.read(path))
    alone = open_checkpoint([stage_one], allow_pickle=True)
    assert set(alone.parts) == {"projector"} | ({"fuser"} if name == "mmfuser_tiny" else set())
    with pytest.raises(ConversionError, match=r"holds only .*projector"):
        mm.load(stage_one, allow_pickle=True)


def test_a_lora_adapter_merges_into_its_base(tmp_path):
    adapter, expected = lora_folder(tmp_path / "lora")
    write_model_folder(open_checkpoint([adapter, MMFUSER], allow_pickle=True), tmp_path / "ours", template="v1")
    write_torch_folder(tmp_path / "ours", tmp_path / "back", "llava")
    merged = tensors_of(tmp_path / "back")
    assert merged.keys() == expected.keys()
    for key, x in expected.items():
        np.testing.assert_allclose(merged[key], x, rtol=1e-6, atol=1e-6, err_msg=key)
    with pytest.raises(ConversionError, match="needs its base model: add --source=BASE"):
        open_checkpoint([adapter], allow_pickle=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 1, "use_dora": True}))
    with pytest.raises(ConversionError, match="only plain LoRA is supported; this one has use_dora"):
        open_checkpoint([adapter, MMFUSER], allow_pickle=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4}))
    with pytest.raises(ConversionError, match="lora_alpha None is not a number"):
        open_checkpoint([adapter, MMFUSER], allow_pickle=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 1}))
    factors = load_file(adapter / "adapter_model.safetensors")
    save_file({key: x.ravel() for key, x in factors.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(ConversionError, match=r"LoRA B \(.*\) times A \(.*\) does not fit"):
        open_checkpoint([adapter, MMFUSER], allow_pickle=True)


GAMMAS = ("model.mm_projector.0.gamma1", "model.mm_projector.0.gamma2")


def zero_gammas(tensors):
    return {key: np.zeros_like(x) if key in GAMMAS else x for key, x in tensors.items()}


@pytest.mark.parametrize("change", [without(*GAMMAS), zero_gammas], ids=["missing", "zero"])
def test_lost_gammas_are_said(change, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mmfuser_jax"), "propagate", True)
    folder = variant(MMFUSER, tmp_path / "lost", change)
    vlm = mm.load(folder)
    assert "gamma1" in caplog.text
    assert "adds nothing" in caplog.text
    assert not np.any(vlm.params["fuser"]["gamma1"])
    caplog.clear()
    mm.load(MMFUSER)
    assert "gamma" not in caplog.text


def test_a_vision_tower_elsewhere_is_found_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def no_tower(t):
        return {k: x for k, x in t.items() if "vision_tower" not in k}

    inside = variant(LLAVA, tmp_path / "inside", no_tower)
    shutil.copytree(clip_folder(tmp_path / "clip"), inside / "clip", dirs_exist_ok=True)
    assert open_checkpoint([inside]).whole
    lacking = variant(LLAVA, tmp_path / "lacking", no_tower, mm_vision_tower="openai/clip-vit-large-patch14-336")
    shutil.rmtree(lacking / "clip")
    with pytest.raises(ConversionError, match=r"names 'openai/clip-vit-large-patch14-336'\); add --source"):
        open_checkpoint([lacking])
    assert open_checkpoint([lacking, tmp_path / "clip"]).whole


def test_a_hub_id_offline_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"liuhaotian/llava-v1\.5-7b: .*offline.*config\.json, \*\.safetensors") as error:
        mm.load("liuhaotian/llava-v1.5-7b")
    assert "\n" not in str(error.value)
    with pytest.raises(HubError, match="no such folder, and not a hub id"):
        mm.load("no/such/folder")


def test_a_tower_given_besides_only_describes_the_one_inside(tmp_path):
    source = variant(LLAVA, tmp_path / "source", mm_vision_tower="/gone/clip-of-the-trainer")
    shutil.rmtree(source / "clip")
    with pytest.raises(ConversionError, match="no config\\.json describes the vision tower; add --source"):
        open_checkpoint([source])
    checkpoint = open_checkpoint([source, clip_folder(tmp_path / "clip")])
    assert checkpoint.whole
    assert checkpoint.config == open_checkpoint([LLAVA]).config


def test_safetensors_go_before_an_index_of_pickles(tmp_path):
    source = variant(LLAVA, tmp_path / "source")
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": "pytorch_model-1.bin"}}))
    assert open_checkpoint([source]).whole


def test_a_guessed_template_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mmfuser_jax"), "propagate", True)
    mistral = variant(LLAVA, tmp_path / "mistral", model_type="llava_mistral", sliding_window=None)
    assert mm.load(mistral).card.template == "v1"
    assert "no conversation template is recorded: taking v1" in caplog.text
    caplog.clear()
    assert mm.load(mistral, template="mistral_instruct").card.template == "mistral_instruct"
    mm.load(LLAVA)
    assert "template" not in caplog.text
