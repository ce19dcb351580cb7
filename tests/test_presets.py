"""Every preset at full size, without memory: parameter counts of the published models."""

import jax
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict

from mmfuser_jax import presets
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import boxed_params

FUSER = 5_190_592
COUNTS = {
    "tiny": {"vision_encoder": 49_504, "fuser": 12_400, "projector": 3_936, "llm": 54_000},
    "tiny_llava": {"vision_encoder": 49_504, "projector": 3_936, "llm": 54_000},
    # vision_encoder: CLIP ViT-L/14-336 without its last layer and final norm, which nobody reads.
    "llava_7b": {"vision_encoder": 290_909_184, "projector": 20_979_712, "llm": 6_738_415_616},
    "llava_13b": {"vision_encoder": 290_909_184, "projector": 31_467_520, "llm": 13_015_864_320},
    "mmfuser_7b": {"vision_encoder": 290_909_184, "fuser": FUSER, "projector": 20_979_712, "llm": 6_738_415_616},
    "mmfuser_13b": {"vision_encoder": 290_909_184, "fuser": FUSER, "projector": 31_467_520, "llm": 13_015_864_320},
}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_parameter_counts(name):
    model = VLM(presets.PRESETS[name]())
    counts: dict[str, int] = {}
    for path, leaf in flatten_dict(meta.unbox(boxed_params(model))).items():
        assert leaf.dtype == np.float32
        counts[path[0]] = counts.get(path[0], 0) + leaf.size
    assert counts == COUNTS[name]


def test_published_fuser_with_its_projector():
    assert FUSER + COUNTS["mmfuser_7b"]["projector"] == 26_170_304


def test_published_clip_counts_come_back_with_the_last_layer():
    """openai/clip-vit-large-patch14-336's vision tower has 303,507,456 parameters, its last layer 12,596,224."""
    layer, final_norm = 12_596_224, 2 * 1024
    assert COUNTS["llava_7b"]["vision_encoder"] + layer + final_norm == 303_507_456


def test_select_layers_are_the_published_ones():
    assert presets.PRESETS["mmfuser_7b"]().states == (3, 8, 13, 18, 23)
    assert presets.PRESETS["llava_7b"]().states == (23,)


def test_full_size_forward_shapes():
    config = presets.PRESETS["mmfuser_7b"]()
    model = VLM(config)
    from tests.helpers import random_batch

    batch = random_batch(config, rows=1, length=640)
    params = meta.unbox(boxed_params(model))
    out = jax.eval_shape(lambda p, b: model.apply({"params": p}, b), params, batch)
    assert out.logits.shape == (1, 640, 32_000)
