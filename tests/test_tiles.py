"""Tiled pictures, several pictures, the class token: what training packs is what the facade computes."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from mmfuser_jax import model_folder, presets
from mmfuser_jax.data import encode_conversation
from mmfuser_jax.data.images import open_image
from mmfuser_jax.data.records import Record, Turn
from mmfuser_jax.data.resize import fast_resize
from mmfuser_jax.data.rows import Assemble, Augmentation, Encode, Row, RowFormat
from mmfuser_jax.data.sources import InMemory
from mmfuser_jax.data.tokenizer import train_word_tokenizer
from mmfuser_jax.facade import VisionLanguageModel
from mmfuser_jax.model_folder import ModelCard
from mmfuser_jax.models import VLM
from mmfuser_jax.models.vlm import normalize_pixels
from tests.helpers import random_params

PINPOINTS = ((32, 64), (64, 32), (64, 64))
WORDS = ["USER: ASSISTANT: what is it? a cat and a dog"]


def model(aspect="anyres", fuser=True, **changes) -> VisionLanguageModel:
    base = presets.tiny() if fuser else dataclasses.replace(presets.tiny(), fuser=None)
    if aspect == "anyres":
        changes = {"grid_pinpoints": PINPOINTS, **changes}
    config = dataclasses.replace(base, **changes)
    return VisionLanguageModel(ModelCard(config, "short", aspect), VLM(config), random_params(VLM(config)), None)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_word_tokenizer(WORDS, tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A wide and an upright picture."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / "wide.png", folder / "upright.png"]
    for path, shape in zip(paths, [(30, 70, 3), (90, 40, 3)], strict=True):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return paths


CONVERSATION = (
    Turn("human", "<image>\nwhat is it?"),
    Turn("gpt", "a cat"),
    Turn("human", "<image>\nwhat is it?"),
    Turn("gpt", "a dog"),
)

CASES = {
    "flat": model(tile_merge="flat"),
    "spatial": model(tile_merge="spatial"),
    "newline": model(tile_merge="spatial_unpad"),
    "class token": model("pad", fuser=False, select_feature="cls_patch"),
    "plain": model("pad"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_training_row_gives_the_facades_logits(name, tokenizer, pictures):
    vlm = CASES[name]
    config, images = vlm.model.config, vlm.card.images
    record = Record("two", tuple(pictures), (CONVERSATION,)).validate()
    fmt = RowFormat("short", images, length=400, tiles=12)
    drawn = Encode(InMemory([record]), tokenizer, fmt, 1).random_map(0, np.random.default_rng(0))
    batch, _ = Assemble(fmt, Augmentation(), 1).map([Row((drawn,))])
    packed = np.asarray(jax.jit(vlm.model.apply)({"params": vlm.params}, batch).logits)[0]
    spoken = [{"from": turn.role, "value": turn.text} for turn in CONVERSATION]
    ids, labels = encode_conversation(spoken, tokenizer, "short")
    opened = [open_image(path) for path in pictures]
    shown = [images.picture(x, fast_resize).pixels for x in opened]  # as the loader resizes
    pixels = [np.asarray(normalize_pixels(x, config.image_mean, config.image_std)) for x in shown]
    logits = vlm.logits(ids[None], pixels, [x.size for x in opened])[0]
    used = int((batch.segment_ids > 0).sum())
    assert len(logits) == used == len(ids) - 2 + sum(len(images.picture(x).slots) for x in opened)
    np.testing.assert_allclose(packed[:used], logits, rtol=1e-4, atol=1e-4)
    supervised = batch.targets[batch.targets >= 0]
    np.testing.assert_array_equal(supervised, labels[labels >= 0])
    assert tokenizer.decode(supervised.tolist()) == "a cat a dog"  # answers before the last picture count too


def test_the_newline_and_the_order_of_tiles_matter(pictures):
    """Negative control of the comparison above: other merges of the same tiles are other numbers."""
    vlm = CASES["newline"]
    image = open_image(pictures[0])
    tiles = np.asarray(normalize_pixels(vlm.preprocess(image), (0.5,) * 3, (0.5,) * 3))
    ids = np.array([[1, -200, 5]])
    straight = vlm.logits(ids, [tiles], [image.size])
    assert np.abs(straight - vlm.logits(ids, [tiles[::-1]], [image.size])).max() > 1e-2
    no_newline = {**vlm.params, "image_newline": 0 * vlm.params["image_newline"]}
    other = VisionLanguageModel(vlm.card, vlm.model, no_newline, None)
    assert np.abs(straight - other.logits(ids, [tiles], [image.size])).max() > 1e-2


def test_tiles_must_fit_their_picture(pictures):
    vlm, image = CASES["newline"], open_image(pictures[0])
    tiles, ids = np.zeros((3, 32, 32, 3), np.float32), np.array([[1, -200, 5]])
    with pytest.raises(ValueError, match=r"image_sizes, .* is needed"):
        vlm.logits(ids, [tiles])
    with pytest.raises(ValueError, match="a picture of 70x30 has 3 tiles, not 2"):
        vlm.logits(ids, [tiles[:2]], [image.size])
    base_only = vlm.logits(ids, [tiles[:1]], [image.size])  # one tile is the base picture alone, ending in a newline
    assert base_only.shape[1] == 2 + 16 + 1


def test_generation_sees_tiles(tokenizer, pictures):
    """Answers about pictures of different tile counts do not depend on what else is in the batch."""
    base = CASES["newline"]
    vlm = VisionLanguageModel(base.card, base.model, base.params, tokenizer)
    opened = [open_image(path) for path in pictures]
    prompts, images = ["what is it?", "a dog?", "what is it?"], [opened[0], opened, None]
    together = vlm.generate(prompts, images, max_new_tokens=6)
    alone = [vlm.generate([p], [i], max_new_tokens=6)[0] for p, i in zip(prompts, images, strict=True)]
    assert together == alone
    assert together[0] != together[2]


def test_shapes_that_do_not_go_together():
    with pytest.raises(ValueError, match="cls_patch has no place on a grid"):
        dataclasses.replace(presets.tiny(), select_feature="cls_patch")
    with pytest.raises(ValueError, match="tile_merge 'diagonal'"):
        dataclasses.replace(presets.tiny(), tile_merge="diagonal")
    with pytest.raises(ValueError, match="pinpoints"):
        model_folder.image_format(presets.tiny(), "anyres")
