"""Conversion: bit for bit both ways, every layout, strict about what does not fit, safe with what is not trusted."""

import functools
import json
import logging
import pickle
import shutil
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import mmfuser_jax as mm
from mmfuser_jax import model_folder, presets
from mmfuser_jax.checkpoint import CheckpointError, ParamsWriter, StoredParams
from mmfuser_jax.convert import ConversionError, job, open_checkpoint, to_torch, write_model_folder, write_torch_folder
from mmfuser_jax.convert.to_ours import relayout
from mmfuser_jax.hub import HubError
from mmfuser_jax.model_folder import ModelCard, ModelFolderError
from mmfuser_jax.models import VLM
from mmfuser_jax.train.optim import flatten
from mmfuser_jax.train.state import initial_params
from tests.conftest import GOLDEN
from tests.helpers import random_params

MMFUSER, LLAVA = GOLDEN / "mmfuser_tiny", GOLDEN / "llava_tiny"
TOWER = "model.vision_tower.vision_tower.vision_model."


def tensors_of(folder):
    return {key: x for file in sorted(folder.glob("*.safetensors")) for key, x in load_file(file).items()}


def same_bits(a, b):
    assert a.keys() == b.keys()
    different = [k for k in a if (a[k].dtype, a[k].shape, a[k].tobytes()) != (b[k].dtype, b[k].shape, b[k].tobytes())]
    assert not different


def variant(source, target, change=None, **fields):
    """A copy of a checkpoint folder whose tensors went through `change`, and whose config.json has other fields."""
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    save_file(tensors if change is None else change(tensors), target / "model.safetensors")
    config = json.loads((source / "config.json").read_text()) | fields
    (target / "config.json").write_text(json.dumps(config))
    return target


def to_ours(source, target, **options):
    write_model_folder(open_checkpoint([source]), target, template="v1", **options)
    return target


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


def shards(folder, target, count, ending="safetensors"):
    """The folder's tensors over numbered files with an index, dealt out in turn."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("model.safetensors"))
    tensors = tensors_of(folder)
    stem = "model" if ending == "safetensors" else "pytorch_model"
    names = [f"{stem}-{i + 1:05}-of-{count:05}.{ending}" for i in range(count)]
    weight_map = {key: names[i % count] for i, key in enumerate(tensors)}
    for name in names:
        shard = {key: x for key, x in tensors.items() if weight_map[key] == name}
        if ending == "safetensors":
            save_file(shard, target / name)
        else:
            torch.save({key: torch.from_numpy(x) for key, x in shard.items()}, target / name)
    (target / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return target


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


def test_pickles_need_permission_and_give_the_same(tmp_path):
    source = shards(LLAVA, tmp_path / "bin", 2, "bin")
    with pytest.raises(ConversionError, match=r"pytorch_model-00001-of-00002\.bin.*are pickles.*--allow_pickle"):
        open_checkpoint([source])
    write_model_folder(open_checkpoint([source], allow_pickle=True), tmp_path / "ours", template="v1")
    write_torch_folder(tmp_path / "ours", tmp_path / "back", "llava")
    same_bits(tensors_of(LLAVA), tensors_of(tmp_path / "back"))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("plain", [True, False], ids=["bare pickle", "torch zip"])
def test_a_malicious_pickle_does_not_run(plain, tmp_path):
    folder = variant(LLAVA, tmp_path / "evil")
    (folder / "model.safetensors").unlink()
    evil = {"model.norm.weight": Malicious(tmp_path / "owned")}
    if plain:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, folder / "pytorch_model.bin")
    with pytest.raises(ConversionError, match=r"pytorch_model\.bin: refused, not plain tensors"):
        open_checkpoint([folder], allow_pickle=True)
    assert not (tmp_path / "owned").exists()
    pickle.loads(pickle.dumps(evil))  # the pickle is a real one: loading it without care does run it
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({0: torch.zeros(2)}, "no plain tensors under names: 0"),
        ({"x": torch.zeros(2).to_sparse()}, "no plain tensors under names: x"),
        ({"x": 3}, "not a state dict of tensors"),
        ([torch.zeros(2)], "not a state dict of tensors"),
    ],
)
def test_a_pickle_of_something_else_is_named(state, message, tmp_path):
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConversionError, match=rf"pytorch_model\.bin: {message}"):
        open_checkpoint([tmp_path], allow_pickle=True)


HEADER = b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 7,
        struct.pack("<Q", 10**9) + HEADER,
        struct.pack("<Q", 4) + b"[{}]",
        struct.pack("<Q", len(HEADER)) + HEADER.replace(b"[0,16]", b"[8,24]") + b"\0" * 16,
    ],
)
def test_damaged_files_are_named(content, tmp_path):
    folder = variant(LLAVA, tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ConversionError, match=r"damaged/model\.safetensors: not a whole safetensors file") as error:
        open_checkpoint([folder])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"x": "../../secret.safetensors"}}, "must lie beside the index"),
        ({"weight_map": {"x": "/etc/passwd"}}, "must lie beside the index"),
        ({"weight_map": {"x": 3}}, "must lie beside the index"),
        ({"weight_map": {"x": "model-00007-of-00009.safetensors"}}, "shards missing: model-00007"),
        (["x"], "not an index of shards"),
    ],
)
def test_an_index_cannot_point_elsewhere(index, message, tmp_path):
    folder = variant(LLAVA, tmp_path / "index")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConversionError, match=message):
        open_checkpoint([folder])


def without(*keys):
    return lambda t: {key: x for key, x in t.items() if key not in keys}


def with_(**extra):
    return lambda t: {**t, **{key.replace("__", "."): x for key, x in extra.items()}}


Q = "model.layers.1.self_attn.q_proj.weight"
MISFITS = {
    "unknown": (with_(model__layers__9__odd=np.zeros(3, np.float32)), {}, r"unknown: model\.layers\.9\.odd"),
    "missing": (without(Q), {}, rf"missing: {Q}"),
    "wrong shape": (lambda t: {**t, Q: t[Q][:, :-1].copy()}, {}, rf"wrong shape: {Q} \[64, 63\] instead of \[64, 64\]"),
    "integers": (lambda t: {**t, Q: t[Q].astype(np.int8)}, {}, rf"not floating point: {Q} \(int8\)"),
    "depth": (None, {"num_hidden_layers": 3}, r"missing: model\.layers\.2\.input_layernorm\.weight.* and 1 more"),
    "layers of no fuser": (without(), {"mm_vision_select_layer": -2}, r"selects vision layers \[-2\].* has a fuser"),
    "projector": (None, {"mm_projector_type": "mlp3x_gelu"}, r"'mlp3x_gelu' has 3 layers, the checkpoint 2"),
    "activation": (None, {"hidden_act": "gelu"}, r"hidden_act='gelu' is not supported"),
    "rope": (None, {"rope_scaling": {"type": "yarn", "factor": 2.0}}, r"rope scaling 'yarn' is not supported"),
    "bias": (None, {"attention_bias": True}, r"attention_bias=True is not supported"),
    "absurd depth": (
        None,
        {"num_hidden_layers": 10**9},
        r"1000000000 language model layers, but the checkpoint has 152",
    ),
    "text for a number": (None, {"hidden_size": "64"}, r"odd/config\.json: not a usable config \(Type"),
    "no heads": (
        None,
        {"num_attention_heads": 0, "num_key_value_heads": 0},
        r"not a usable config \(ZeroDivisionError",
    ),
    "null": (None, {"rms_norm_eps": None}, r"not a usable config \(TypeError"),
    "half a rope": (None, {"rope_scaling": {"type": "linear"}}, r"not a usable config \(KeyError: 'factor'"),
    "pinpoints": (None, {"image_grid_pinpoints": [1]}, r"image_grid_pinpoints \[1\] is no list of"),
    "aspect": (
        None,
        {"image_aspect_ratio": "anyres_max_9"},
        r"image_aspect_ratio 'anyres_max_9' is not pad, square, anyres",
    ),
    "template": (None, {"mmfuser_jax_template": "v9"}, r"mmfuser_jax_template 'v9' is no conversation template"),
    "architecture": (None, {"model_type": "llava_mpt"}, r"model_type 'llava_mpt' is no LLaMA"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_listed_and_nothing_is_left(name, tmp_path):
    change, fields, message = MISFITS[name]
    folder = variant(MMFUSER, tmp_path / "odd", change, **fields)
    with pytest.raises(ConversionError, match=message):
        to_ours(folder, tmp_path / "out" / "ours")
    assert not (tmp_path / "out").exists()


def test_a_failure_half_way_leaves_nothing(tmp_path):
    folder = variant(MMFUSER, tmp_path / "source")
    checkpoint = open_checkpoint([folder])
    (folder / "model.safetensors").write_bytes(b"gone")  # damaged between opening and reading
    with pytest.raises(Exception, match="header"):
        write_model_folder(checkpoint, tmp_path / "out" / "ours", template="v1")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_target_that_exists_is_not_touched(tmp_path):
    ours = to_ours(LLAVA, tmp_path / "ours")
    before = sorted(path.name for path in ours.rglob("*"))
    with pytest.raises(ConversionError, match="exists already"):
        to_ours(MMFUSER, ours)
    assert sorted(path.name for path in ours.rglob("*")) == before


def test_two_sources_of_one_tensor_are_an_error(tmp_path):
    with pytest.raises(ConversionError, match=r"twice: lm_head\.weight"):
        open_checkpoint([LLAVA, variant(LLAVA, tmp_path / "again")])


def only(prefix, new=""):
    return lambda t: {new + key.removeprefix(prefix): x for key, x in t.items() if key.startswith(prefix)}


def clip_folder(target, whole=False):
    """The vision tower alone, or with the text tower of a whole CLIP beside it."""
    target.mkdir()
    tensors = only(TOWER, "vision_model.")(load_file(LLAVA / "model.safetensors"))
    config = json.loads((LLAVA / "clip" / "config.json").read_text())
    if whole:
        tensors["text_model.embeddings.token_embedding.weight"] = np.zeros((5, 3), np.float32)
        tensors["logit_scale"] = np.zeros((), np.float32)
        config = {"model_type": "clip", "vision_config": config}
    save_file(tensors, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(config))
    shutil.copy(LLAVA / "clip" / "preprocessor_config.json", target)
    return target


def llm_folder(target):
    """The language model alone, as Vicuna is published."""
    target.mkdir()
    tensors = load_file(LLAVA / "model.safetensors")
    keep = {k: x for k, x in tensors.items() if "vision_tower" not in k and "mm_projector" not in k}
    save_file(keep, target / "model.safetensors")
    config = json.loads((LLAVA / "config.json").read_text())
    plain = {key: value for key, value in config.items() if "mm_" not in key and "image" not in key}
    (target / "config.json").write_text(json.dumps({**plain, "model_type": "llama"}))
    shutil.copy(GOLDEN / "text" / "tokenizer.model", target)
    return target


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
    params = flatten(initial_params(VLM(config), 0, mesh, str(tmp_path / "start")))
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


def lora_folder(target, rank=4, alpha=6.0):
    """An adapter on two modules, with the projector that a LoRA run trains in full."""
    target.mkdir()
    rng = np.random.default_rng(0)
    tensors = load_file(MMFUSER / "model.safetensors")
    factors, merged = {}, {}
    for module in ("model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"):
        weight = tensors[f"{module}.weight"]
        down = rng.standard_normal((rank, weight.shape[1])).astype(np.float32)
        up = rng.standard_normal((weight.shape[0], rank)).astype(np.float32)
        factors[f"base_model.model.{module}.lora_A.weight"] = down
        factors[f"base_model.model.{module}.lora_B.weight"] = up
        merged[f"{module}.weight"] = weight + alpha / rank * up @ down
    save_file(factors, target / "adapter_model.safetensors")
    projector = {k: 2 * x for k, x in tensors.items() if "mm_projector" in k}
    trained = {f"base_model.model.{k}": torch.from_numpy(x) for k, x in projector.items()}
    torch.save(trained, target / "non_lora_trainables.bin")
    (target / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": alpha}))
    shutil.copy(MMFUSER / "config.json", target)
    return target, {**tensors, **merged, **projector}


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
    with pytest.raises(ConversionError, match="only plain LoRA merges; this one has use_dora"):
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


def test_damage_on_disk_is_noticed(tmp_path):
    ours = to_ours(MMFUSER, tmp_path / "ours")
    data = max((ours / "checkpoints").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 64
    data.write_bytes(content)
    with pytest.raises((ConversionError, CheckpointError), match="damaged"):
        write_torch_folder(ours, tmp_path / "back", "llava")
    assert not (tmp_path / "back").exists()


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


def write_params(folder, params):
    with ParamsWriter(folder / "checkpoints") as writer:
        for path, x in flatten(params).items():
            writer.add(path, np.asarray(x))
    return folder


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


def test_the_vision_encoder_and_the_processor_must_agree(tmp_path):
    source = variant(LLAVA, tmp_path / "source")
    file = source / "clip" / "preprocessor_config.json"
    file.write_text(file.read_text().replace("56", "224"))
    with pytest.raises(ConversionError, match="makes pictures of 224 pixels, the encoder takes 56"):
        open_checkpoint([source])


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


def test_a_guessed_template_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mmfuser_jax"), "propagate", True)
    mistral = variant(LLAVA, tmp_path / "mistral", model_type="llava_mistral", sliding_window=None)
    assert mm.load(mistral).card.template == "v1"
    assert "no conversation template is recorded: taking v1" in caplog.text
    caplog.clear()
    assert mm.load(mistral, template="mistral_instruct").card.template == "mistral_instruct"
    mm.load(LLAVA)
    assert "template" not in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "v0"}, "--template is for PyTorch sources"),
        ({"dtype": "bfloat16"}, "--dtype is for --to=llava"),
        ({"scan": True, "to": "llava"}, "--scan is for --to=orbax"),
        ({"verify": True}, "--verify compares PyTorch with ours"),
        ({"verify": True, "to": "llava", "torch": True}, "--verify compares PyTorch with ours"),
        ({"step": 3, "torch": True}, "--step is for model folders of ours"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, message, tmp_path):
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "model.json").write_text("{}")
    source = LLAVA if options.pop("torch", False) else ours
    with pytest.raises(ConversionError, match=message):
        job.convert([str(source)], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_pixels_in_another_order_are_refused():
    pixels = np.zeros((1, 3, 56, 56), np.float32)
    for method in (mm.load(LLAVA).logits, mm.load(LLAVA).generate_ids):
        with pytest.raises(ValueError, match=r"expected \[\.\.\., 56, 56, 3\], channels last"):
            method(np.array([[1, -200, 5]]), pixels)


def test_a_fuser_has_no_place_in_the_hf_layout(tmp_path):
    ours = to_ours(MMFUSER, tmp_path / "ours")
    with pytest.raises(ConversionError, match="no place for an MMFuser; use --to=llava"):
        write_torch_folder(ours, tmp_path / "hf", "hf")
