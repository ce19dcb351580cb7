"""Conversion refuses what does not fit, what is damaged and what is not trusted, in one line, and leaves nothing behind."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

import mmfuser_jax as mm
from mmfuser_jax.checkpoint import CheckpointError
from mmfuser_jax.convert import ConversionError, job, open_checkpoint, write_model_folder, write_torch_folder
from tests.torch_folders import LLAVA, MMFUSER, Q, to_ours, variant, without


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


def with_(**extra):
    return lambda t: {**t, **{key.replace("__", "."): x for key, x in extra.items()}}


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


def test_the_vision_encoder_and_the_processor_must_agree(tmp_path):
    source = variant(LLAVA, tmp_path / "source")
    file = source / "clip" / "preprocessor_config.json"
    file.write_text(file.read_text().replace("56", "224"))
    with pytest.raises(ConversionError, match="makes pictures of 224 pixels, the encoder takes 56"):
        open_checkpoint([source])


def test_damage_on_disk_is_noticed(tmp_path):
    ours = to_ours(MMFUSER, tmp_path / "ours")
    data = max((ours / "checkpoints").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 64
    data.write_bytes(content)
    with pytest.raises((ConversionError, CheckpointError), match="damaged"):
        write_torch_folder(ours, tmp_path / "back", "llava")
    assert not (tmp_path / "back").exists()


def test_a_fuser_has_no_place_in_the_hf_layout(tmp_path):
    ours = to_ours(MMFUSER, tmp_path / "ours")
    with pytest.raises(ConversionError, match="no place for an MMFuser; use --to=llava"):
        write_torch_folder(ours, tmp_path / "hf", "hf")
