"""Our models against Hugging Face's with random weights: hidden states, logits, greedy tokens, folders both can read.

Every comparison has a control beside it: a small mistake that must show at least ten times the tolerance.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from mmfuser_jax import convert
from mmfuser_jax.facade import VisionLanguageModel
from mmfuser_jax.models import ClipVit, RopeScaling
from mmfuser_jax.models.vlm import normalize_pixels
from mmfuser_jax.types import IMAGE_TOKEN_INDEX
from tests import hf_models
from tests.helpers import relative

HIDDEN, LOGITS = 1e-5, 1e-4
"""Largest relative error of a hidden state, and of logits."""

NEW = 20
"""Tokens to generate."""

# Vision towers


def their_states(model, pixels: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        shown = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return [state.numpy() for state in model(shown, output_hidden_states=True).hidden_states]


def our_states(folder, pixels: np.ndarray) -> tuple[jax.Array, ...]:
    config, params = hf_models.open_tower(folder)
    tower = ClipVit(config, config.depth, keep_class=True)
    return jax.jit(functools.partial(tower.apply, states=range(config.depth + 1)))({"params": params}, pixels)


@pytest.mark.parametrize(
    "shape",
    [
        {},  # 3 x 3 patches of 14 pixels
        {"image_size": 80, "patch_size": 16},  # 5 x 5 of 16
        {"image_size": 56, "num_attention_heads": 2, "layer_norm_eps": 1e-3},
        {"image_size": 14, "hidden_size": 48, "num_hidden_layers": 1},  # a single patch
    ],
)
def test_clip(shape, tmp_path, rng):
    model = hf_models.clip(**shape)
    size = model.config.image_size
    pixels = rng.standard_normal((2, size, size, 3)).astype(np.float32)
    theirs, ours = their_states(model, pixels), our_states(hf_models.save(model, tmp_path), pixels)
    assert len(ours) == len(theirs) == model.config.num_hidden_layers + 1
    assert [relative(*pair) <= HIDDEN for pair in zip(ours, theirs, strict=True)] == [True] * len(ours)
    assert relative(ours[-2], theirs[-1]) > 10 * HIDDEN
    gelu = their_states(hf_models.clip(**shape, hidden_act="gelu"), pixels)
    assert relative(ours[-1], gelu[-1]) > 10 * HIDDEN


def test_full_size_clip(rng):
    """ViT-L/14 at 336 pixels, one picture, all 25 hidden states."""
    pixels = rng.standard_normal((1, 336, 336, 3)).astype(np.float32)
    model = hf_models.clip(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336
    )
    theirs = their_states(model, pixels)
    with tempfile.TemporaryDirectory() as folder:  # 1.2 GB, not to be kept as `tmp_path` would
        hf_models.save(model, Path(folder))
        del model
        ours = our_states(Path(folder), pixels)
    errors = [relative(*pair) for pair in zip(ours, theirs, strict=True)]
    assert len(errors) == 25
    assert max(errors) <= HIDDEN
    assert relative(theirs[-2], theirs[-1]) > 10 * HIDDEN


# Language models

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 50_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}

LANGUAGE_MODELS = {
    "all heads": (hf_models.llama, {"num_key_value_heads": 4, "rope_parameters": {"rope_theta": 500.0}}),
    "tied": (hf_models.llama, {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "wide heads": (hf_models.llama, {"head_dim": 20}),
    "linear": (hf_models.llama, {"rope_parameters": LINEAR}),
    "llama3": (hf_models.llama, {"rope_parameters": LLAMA3}),
    "window": (hf_models.mistral, {"sliding_window": 6}),
    "no window": (hf_models.mistral, {"sliding_window": None}),
}
"""Whose model, and how it is built; query heads share key/value heads in all but the first."""

MISTAKES = [
    ("all heads", {"rope_theta": 10_000.0}),
    ("tied", {"norm_epsilon": 1e-5}),
    ("wide heads", {"rope_theta": 9_000.0}),
    ("linear", {"rope_scaling": None}),
    ("llama3", {"rope_scaling": None}),
    ("llama3", {"rope_scaling": RopeScaling("linear", 8.0)}),
    ("window", {"sliding_window": 0}),
    ("window", {"sliding_window": 7}),
    ("no window", {"sliding_window": 28}),
]


@functools.cache
def language_model(case: str):
    """Theirs, ids, and its logits."""
    build, changes = LANGUAGE_MODELS[case]
    model = build(**changes)
    ids = np.random.default_rng(0).integers(1, hf_models.TEXT["vocab_size"], (2, 29))
    with torch.inference_mode():
        return model, ids, model(torch.from_numpy(ids)).logits.numpy()


@pytest.mark.parametrize("case", LANGUAGE_MODELS)
def test_language_model(case, tmp_path):
    model, ids, theirs = language_model(case)
    ours = hf_models.open_llm(hf_models.save(model, tmp_path))
    assert relative(ours.logits(ids), theirs) <= LOGITS
    rows = [hf_models.generated(model, torch.from_numpy(row[None]), NEW) for row in ids]
    assert ours.generate_ids(ids, max_new_tokens=NEW) == rows


@pytest.mark.parametrize(("case", "mistake"), MISTAKES)
def test_wrong_language_model(case, mistake, tmp_path):
    model, ids, theirs = language_model(case)
    ours = hf_models.open_llm(hf_models.save(model, tmp_path))
    wrong = hf_models.changed(ours, llm=dataclasses.replace(ours.card.config.llm, **mistake))
    with jax.disable_jit():  # so small a model runs sooner than it compiles
        assert relative(wrong.logits(ids), theirs) > 10 * LOGITS


@pytest.mark.parametrize("case", LANGUAGE_MODELS)
def test_config_of_older_transformers(case, tmp_path):
    """Versions before 5 keep the rotary base and its scaling apart."""
    hf_models.save(language_model(case)[0], tmp_path)
    expected = convert.open_checkpoint([tmp_path]).config.llm
    fields = json.loads((tmp_path / "config.json").read_text())
    rope = fields.pop("rope_parameters")
    fields["rope_theta"] = rope.pop("rope_theta")
    fields["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert convert.open_checkpoint([tmp_path]).config.llm == expected


# Vision-language models

PINPOINTS = [[56, 112], [168, 56], [112, 112]]
"""(height, width), no two of them alike when turned."""

IMAGE = IMAGE_TOKEN_INDEX
SIZES = [(110, 40), (40, 200), (70, 64), (300, 20), (9, 30)]
"""(width, height): each pinpoint, thinner than a patch, smaller than a tile."""


@dataclasses.dataclass
class Pair:
    """Their model and ours, and conversations of as many ids with one picture, two, or none."""

    model: object
    ours: VisionLanguageModel
    ids: np.ndarray
    shown: list[hf_models.Shown]

    @functools.cached_property
    def pictures(self) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
        """Pixels and sizes of all conversations, in reading order."""
        return [x for row in self.shown for x in row.pixels], [x for row in self.shown for x in row.sizes]

    @functools.cached_property
    def our_logits(self) -> np.ndarray:
        return self.ours.logits(self.ids, *self.pictures)

    @functools.cached_property
    def their_ids(self) -> list[torch.Tensor]:
        return [hf_models.spelled_out(self.model, *row) for row in zip(self.ids, self.shown, strict=True)]

    def their_logits(self, row: int, **options) -> np.ndarray:
        with torch.inference_mode():
            return self.model(self.their_ids[row], **self.shown[row].inputs, **options).logits[0].numpy()


BUILDS = {
    "default": functools.partial(hf_models.llava),
    "full": functools.partial(hf_models.llava, vision_feature_select_strategy="full", vision_feature_layer=1),
    "tiles": functools.partial(
        hf_models.llava_next,
        text={"model_type": "mistral", "sliding_window": 24},
        vision={"image_size": 56},
        image_grid_pinpoints=PINPOINTS,
    ),
}
"""The class token dropped and kept, a deep layer and an early one; LLaVA-1.6 on Mistral."""


@pytest.fixture(scope="module", params=BUILDS)
def pair(request, tmp_path_factory):
    rng = np.random.default_rng(1)
    model = BUILDS[request.param]()
    noise = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]
    text = rng.integers(1, hf_models.IMAGE_TOKEN, (len(SIZES) + 2, 12))
    text[:, 4] = IMAGE
    text[-2, 9], text[-1, 4] = IMAGE, 7  # one more picture; none
    pictures = [*([picture] for picture in noise), noise[2:4], []]
    folder = hf_models.save(model, tmp_path_factory.mktemp("model"))
    return Pair(model, hf_models.open_model(folder), text, [hf_models.shown(model, row) for row in pictures])


def test_logits(pair):
    for row, ours in enumerate(pair.our_logits):
        theirs = pair.their_logits(row)
        assert relative(ours[: len(theirs)], theirs) <= LOGITS, row


def test_greedy(pair):
    """All conversations together, of different lengths, and one by itself."""
    theirs = [
        hf_models.generated(pair.model, ids, NEW, **shown.inputs)
        for ids, shown in zip(pair.their_ids, pair.shown, strict=True)
    ]
    assert pair.ours.generate_ids(pair.ids, *pair.pictures, max_new_tokens=NEW) == theirs
    shown = pair.shown[1]
    assert pair.ours.generate_ids(pair.ids[1:2], shown.pixels, shown.sizes, max_new_tokens=NEW) == [theirs[1]]


def test_wrong_layer(pair):
    theirs = pair.their_logits(0, vision_feature_layer=-1)
    assert relative(pair.our_logits[0, : len(theirs)], theirs) > 10 * LOGITS


@pytest.mark.parametrize("mistake", ["newline", "order"])
def test_wrong_tiles(mistake, tmp_path, rng):
    """No vector at the ends of rows; tiles column by column."""
    model = BUILDS["tiles"]()
    picture = Image.fromarray(rng.integers(0, 256, (64, 70, 3), dtype=np.uint8))
    shown = hf_models.shown(model, [picture])
    ours = hf_models.open_model(hf_models.save(model, tmp_path))
    pixels = shown.pixels[0]
    assert len(pixels) == 5
    if mistake == "newline":
        ours.params = {**ours.params, "image_newline": jnp.zeros_like(ours.params["image_newline"])}
    else:
        pixels = pixels[[0, 1, 3, 2, 4]]
    ids = np.array([[3, IMAGE, 4, 5, 6]])
    pair = Pair(model, ours, ids, [shown])
    assert relative(ours.logits(ids, [pixels], shown.sizes)[0], pair.their_logits(0)) > 10 * LOGITS


NAMINGS = {
    "saved by 5": [],
    "saved by 4": [("vision_tower", "vision_tower.vision_model")],
    "in memory": [
        ("language_model.model", "model.language_model"), ("language_model.lm_head", "lm_head"),
        ("(vision_tower|multi_modal_projector|image_newline)", r"model.\1"),
    ],
    "in memory, 4": [
        ("language_model.model", "model.language_model"), ("language_model.lm_head", "lm_head"),
        ("vision_tower", "vision_tower.vision_model"),
        ("(vision_tower|multi_modal_projector|image_newline)", r"model.\1"),
    ],
}  # fmt: skip
"""Beginnings of keys that versions of transformers give the same model."""


@pytest.mark.parametrize("build", ["default", "tiles"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_namings(build, naming, tmp_path):
    folder = hf_models.save(BUILDS[build](), tmp_path / "hf")
    first = convert.open_checkpoint([folder])
    second = convert.open_checkpoint([hf_models.renamed(folder, tmp_path / "renamed", NAMINGS[naming])])
    assert second.config == first.config
    assert second.params.keys() == first.params.keys()
    assert all(np.array_equal(first.read(path), second.read(path)) for path in first.params)


# Folders for them to read


def write(source, target, to: str):
    """A torch folder → a model folder of ours → a torch folder."""
    between = target.with_name(f"{target.name}_ours")
    convert.write_model_folder(convert.open_checkpoint([source]), between, template="v1")
    convert.write_torch_folder(between, target, to)
    return target


def read_back(folder, like):
    """Loaded by transformers, which must find every tensor and no other."""
    model, report = type(like).from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(report.values()), report
    return model


ROUND_TRIPS = {
    **BUILDS,
    "tied": functools.partial(hf_models.llava, text={"tie_word_embeddings": True}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("build", ROUND_TRIPS)
def test_round_trip(build, dtype, tmp_path):
    """Theirs → ours → theirs: the same config.json, keys, dtypes and bits."""
    model = ROUND_TRIPS[build]()
    saved = hf_models.save(model, tmp_path / "hf", dtype)
    source = hf_models.renamed(saved, tmp_path / "renamed", NAMINGS["saved by 4"])
    back = write(source, tmp_path / "back", "hf")
    assert hf_models.tensors(back) == hf_models.tensors(source)
    fields = json.loads((back / "config.json").read_text())
    assert fields.pop("mmfuser_jax_template") == "v1"
    assert fields == json.loads((source / "config.json").read_text())
    state, expected = read_back(back, model).state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(x, expected[key]) and x.dtype == dtype for key, x in state.items())


ASPECTS = {"default": "square", "full": "pad", "tied": "pad", "tiles": "anyres"}


@pytest.mark.parametrize(
    ("build", "words"), [*((build, hf_models.TEXT["vocab_size"]) for build in ASPECTS), ("default", 60)]
)
def test_export(build, words, tmp_path, rng):
    """A folder in LLaVA's own layout, whose tokenizer has no <image>, for `AutoProcessor` and their model to read.

    The tokenizer may have fewer tokens than the embedding has rows.
    """
    model = ROUND_TRIPS[build]()
    native = write(hf_models.save(model, tmp_path / "hf"), tmp_path / "native", "llava")
    hf_models.write_tokenizer(native, words)
    fields = json.loads((native / "config.json").read_text())
    (native / "config.json").write_text(json.dumps({**fields, "image_aspect_ratio": ASPECTS[build]}))
    exported = write(native, tmp_path / "exported", "hf")

    processor = transformers.AutoProcessor.from_pretrained(exported)
    picture = Image.fromarray(rng.integers(0, 256, (70, 100, 3), dtype=np.uint8))
    inputs = processor(text="<s> w5 <image> w7 w9 w11", images=picture, return_tensors="pt")
    theirs = read_back(exported, model)
    assert (inputs["input_ids"] == theirs.config.image_token_index).sum() > 4
    with torch.inference_mode():
        expected = theirs(**inputs).logits[0].numpy()

    ours = hf_models.open_model(native)
    pixels = np.asarray(
        normalize_pixels(ours.preprocess(picture), ours.card.config.image_mean, ours.card.config.image_std)
    )
    their_pixels = inputs["pixel_values"].movedim(-3, -1).reshape(pixels.shape)
    np.testing.assert_allclose(pixels, their_pixels, atol=1e-5)
    logits = ours.logits(np.array([[1, 5, IMAGE, 7, 9, 11]]), [pixels], [picture.size])[0]
    assert relative(logits, expected[:, : logits.shape[1]]) <= LOGITS
    assert hf_models.open_model(exported).card.aspect == ASPECTS[build]


def test_only_merged_tiles_with_row_ends_export(tmp_path):
    """Theirs knows one way to merge tiles."""
    native = write(hf_models.save(BUILDS["tiles"](), tmp_path / "hf"), tmp_path / "native", "llava")
    tensors = {key: x for key, x in hf_models.load_file(native / "model.safetensors").items() if "newline" not in key}
    hf_models.save_file(tensors, native / "model.safetensors")
    fields = json.loads((native / "config.json").read_text())
    (native / "config.json").write_text(json.dumps({**fields, "mm_patch_merge_type": "spatial"}))
    with pytest.raises(convert.ConversionError, match="tiles merged 'spatial'"):
        write(native, tmp_path / "exported", "hf")


def test_processor_round_trip(tmp_path, rng):
    """Version 5 keeps the image processor inside processor_config.json, and `<image>` in tokenizer.json only."""
    source = hf_models.save(BUILDS["default"](), tmp_path / "hf")
    hf_models.write_tokenizer(source, hf_models.IMAGE_TOKEN, "<image>")
    sizes = {"size": {"shortest_edge": 42}, "crop_size": {"height": 42, "width": 42}}
    made = transformers.LlavaProcessor(
        transformers.LlavaImageProcessor(**sizes, image_mean=[0.5, 0.4, 0.3], do_pad=True),
        transformers.AutoTokenizer.from_pretrained(source),
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )
    made.save_pretrained(source)
    ours = hf_models.open_model(source)
    assert (ours.card.aspect, ours.card.config.image_mean) == ("pad", (0.5, 0.4, 0.3))

    back = transformers.AutoProcessor.from_pretrained(write(source, tmp_path / "back", "hf"))
    picture = Image.fromarray(rng.integers(0, 256, (70, 100, 3), dtype=np.uint8))
    expected, inputs = (p(text="w5 <image> w7", images=picture, return_tensors="pt") for p in (made, back))
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[key], expected[key]) for key in expected)
