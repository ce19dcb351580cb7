"""The report on a conversion: the PyTorch side gives the reference's numbers, true copies pass, broken ones are named."""

import dataclasses
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from mmfuser_jax import model_folder, presets
from mmfuser_jax.convert import ConversionError, open_checkpoint, write_torch_folder
from mmfuser_jax.convert.probe import At, Probe, Stage
from mmfuser_jax.convert.torch_reference import TorchReference
from mmfuser_jax.convert.verify import TOLERANCES, check, compare
from mmfuser_jax.models import VLM, ProjectorConfig
from mmfuser_jax.models.llama import RopeScaling
from mmfuser_jax.train.optim import flatten
from mmfuser_jax.types import IMAGE_TOKEN_INDEX
from tests import golden_models
from tests.conftest import GOLDEN, ROOT
from tests.helpers import random_params, relative
from tests.test_resume import environment
from tests.torch_folders import write_params


def shape(llm=None, vision=None, **changes):
    """The tiny model with changes."""
    tiny = presets.tiny()
    parts = {
        "llm": dataclasses.replace(tiny.llm, **(llm or {})),
        "vision": dataclasses.replace(tiny.vision, **(vision or {})),
    }
    return dataclasses.replace(tiny, **parts, **changes)


def weights(config):
    """Random parameters by path, as NumPy arrays; norms near 1, so that attention looks at some places and not all."""
    params = {path: np.asarray(x) for path, x in flatten(random_params(VLM(config))).items()}
    return {path: 1 + x if path.endswith("scale") else x for path, x in params.items()}


def write_ours(folder, config, params, dtype=np.float32):
    """A model folder."""
    write_params(folder, {path: array.astype(dtype) for path, array in params.items()})
    model_folder.write_card(folder, model_folder.ModelCard(config, "v1", "anyres" if config.tiles_end_rows else "pad"))
    return folder


def both(folder, config, to="llava", dtype=np.float32, torch_dtype=""):
    """A random model in our layout and in torch's."""
    ours = write_ours(folder / "ours", config, weights(config), dtype)
    write_torch_folder(ours, folder / "torch", to, dtype=torch_dtype)
    return ours, str(folder / "torch")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The tiny model with a fuser, on both sides."""
    return both(tmp_path_factory.mktemp("pair"), presets.tiny())


LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, original_max_positions=32)

SHAPES = {
    "fuser, grouped queries": shape(),
    "no fuser, llama3 rope, wide heads, three layers": shape(
        llm={"rope_scaling": LLAMA3, "head_width": 16}, fuser=None, projector=ProjectorConfig("mlp3x_gelu")
    ),
    "sliding window, class token, linear rope": shape(
        llm={"sliding_window": 5, "rope_scaling": RopeScaling("linear", 4.0)}, fuser=None, select_feature="cls_patch"
    ),
    "no projector, tied head, rows of tiles": shape(
        llm={"width": 32, "tied_head": True},
        fuser=None,
        projector=ProjectorConfig("identity"),
        tile_merge="spatial_unpad",
        grid_pinpoints=((64, 32), (32, 64)),
    ),
}


def assert_all_ok(rows, config):
    wanted = {at for at in At if at != At.FUSED or config.fuser is not None}
    assert [row.stage for row in rows] == [at for at in At if at in wanted]
    assert all(row.error <= TOLERANCES[row.stage] for row in rows)


@pytest.mark.parametrize("name", SHAPES)
def test_true_copies_pass(name, tmp_path):
    config = SHAPES[name]
    ours, torch = both(tmp_path, config)
    assert_all_ok(check(ours, [torch]), config)


def test_stacked_layers_in_bfloat16_pass(tmp_path):
    config = shape(llm={"scan_layers": True}, vision={"scan_layers": True})
    ours, torch = both(tmp_path, config, dtype=ml_dtypes.bfloat16)
    assert_all_ok(check(ours, [torch]), config)


def test_exports_in_fewer_bits_and_with_a_padded_vocabulary_pass(tmp_path):
    config = shape(llm={"vocab_size": 100}, fuser=None)
    ours, torch = both(tmp_path, config, to="hf", torch_dtype="bfloat16")
    assert open_checkpoint([torch]).config.llm.vocab_size == 128
    assert_all_ok(check(ours, [torch]), config)


def swapped_offsets(kernel):
    return kernel.reshape(len(kernel), -1, 2)[..., ::-1].reshape(kernel.shape)


def transposed_heads(kernel):
    width, heads, head_width = kernel.shape
    return kernel.reshape(width, head_width, heads).swapaxes(1, 2)


BROKEN = {
    "fuser/gamma2": (np.zeros_like, "fused, projected"),
    "fuser/cross_attention/sampling_offsets/kernel": (swapped_offsets, "fused, projected"),
    "llm/decoder/layers_1/query/kernel": (transposed_heads, "decoder layers from 1 on, logits, loss"),
    "vision_encoder/encoder/layers_2/norm2/bias": (np.negative, "vision hidden states from 3 on, selected"),
    "llm/embedding": (lambda table: np.roll(table, 1, axis=0), "merged embeddings, decoder layers from 0 on"),
    "llm/head": (lambda head: head[:, ::-1], "logits, loss, next tokens that differ"),
}


@pytest.mark.parametrize("path", BROKEN)
def test_a_broken_tensor_is_found(path, pair, tmp_path):
    _, torch = pair
    breaking, stages = BROKEN[path]
    params = weights(presets.tiny())
    ours = write_ours(tmp_path / "ours", presets.tiny(), {**params, path: breaking(params[path])})
    with pytest.raises(ConversionError, match=f"something else than {torch}: {stages}"):
        check(ours, [torch])


@pytest.mark.parametrize(
    ("config", "stages"),
    [
        (shape(image_mean=(0.5, 0.5, 0.5)), "vision hidden states from 1 on, selected"),
        (shape(llm={"rope_theta": 12_000.0}), "decoder layers from 0 on, logits"),
        (shape(llm={"sliding_window": 30}), "decoder layers from 0 on, logits"),
    ],
)
def test_a_wrong_config_is_found(config, stages, pair, tmp_path):
    ours = write_ours(tmp_path / "ours", config, weights(config))
    with pytest.raises(ConversionError, match=f": {stages}"):
        check(ours, [pair[1]])


def test_another_model_is_no_comparison(pair, tmp_path):
    config = shape(llm={"depth": 1})
    ours = write_ours(tmp_path / "ours", config, weights(config))
    with pytest.raises(ConversionError, match=r"not the same model: logits \[2, 40, 128\] here, decoder layers 1"):
        check(ours, [pair[1]])


def test_parts_alone_are_not_verified(pair):
    ours, torch = pair
    with pytest.raises(ConversionError, match="only whole models can be verified, not vision_encoder alone"):
        check(ours, [f"{torch}/clip"])


def test_without_torch_the_extra_is_named(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmfuser_jax.convert.torch_reference", None)
    with pytest.raises(ConversionError, match=r"pip install 'mmfuser-jax\[convert\]'"):
        check(pair[0], [pair[1]])


def test_errors_that_are_no_numbers_fail():
    logits = np.ones((1, 1, 4), np.float32)
    broken = np.full_like(logits, np.nan)
    rows = compare([(Stage(At.LOGITS, broken), Stage(At.LOGITS, logits))])
    assert not rows[0].ok
    assert rows[0].error == np.inf


def test_the_first_layer_past_the_tolerance_is_named():
    def layer(index, error):
        return Stage(At.LAYER, np.full(3, 1 + error), index), Stage(At.LAYER, np.ones(3), index)

    logits = Stage(At.LOGITS, np.ones((1, 1, 4)))
    within, past = [layer(0, 1e-6), layer(1, 1e-5), layer(2, 2e-6)], [layer(3, 1e-3), layer(4, 1e-2)]
    assert compare([*within, (logits, logits)])[0].title == "decoder layers, worst 1"
    assert compare([*within, *past, (logits, logits)])[0].title == "decoder layers from 3 on"


@pytest.fixture(scope="module")
def golden():
    """(stages of the PyTorch side by name, the reference's own numbers) on the golden inputs."""
    checkpoint = open_checkpoint([GOLDEN / "mmfuser_tiny"])
    numbers = golden_models.stages("mmfuser_tiny")
    length = numbers["input_ids"].shape[1]
    kept = [ids[mask] for ids, mask in zip(numbers["input_ids"], numbers["attention_mask"], strict=True)]
    labels = numbers["merged_labels"]
    probe = Probe(
        pixels=numbers["pixel_values"].transpose(0, 2, 3, 1),
        ids=np.stack([np.pad(ids, (0, length - len(ids))) for ids in kept]),
        targets=np.pad(labels[:, 1:], [(0, 0), (0, 1)], constant_values=-100),
        vocab=checkpoint.config.llm.vocab_size,
    )
    assert (probe.ids == IMAGE_TOKEN_INDEX).sum() == len(probe.ids)
    return list(TorchReference(checkpoint).stages(probe)), numbers


def test_the_torch_side_gives_the_references_vision_and_fuser(golden):
    stages, numbers = golden
    values = {(stage.at, stage.index): stage.value for stage in stages}
    hidden = [index for at, index in values if at == At.HIDDEN]
    assert tuple(hidden) == golden_models.load("mmfuser_tiny").model.config.states
    for index in hidden:
        assert relative(values[At.HIDDEN, index], numbers["vision_hidden_states"][index][:, 1:]) <= 1e-5
    assert relative(values[At.FUSED, None], numbers["fused"]) <= 1e-5
    assert relative(values[At.PROJECTED, None], numbers["projected"]) <= 1e-5


def test_the_torch_side_gives_the_references_embeddings_logits_and_loss(golden):
    stages, numbers = golden
    values = {stage.at: stage.value for stage in stages}
    real = numbers["merged_attention_mask"]
    assert relative(values[At.MERGED][real], numbers["merged_embeds"][real]) <= 1e-5
    assert relative(values[At.LOGITS][real], numbers["logits"][real]) <= 1e-5
    np.testing.assert_allclose(values[At.LOSS], numbers["loss"], rtol=1e-6)


def test_the_command_exits_1_with_one_line(pair, tmp_path):
    params = weights(presets.tiny())
    ours = write_ours(tmp_path / "ours", presets.tiny(), {**params, "llm/head": -params["llm/head"]})
    result = subprocess.run(
        [sys.executable, "launch/convert.py", f"--source={pair[1]}", f"--target={ours}", "--to=orbax", "--verify"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(": logits, loss, next tokens that differ")
    assert result.stdout.count(" ok ") == len(At) - 3
    assert result.stdout.count(" FAIL ") == 3
