"""Packing changes nothing that is learnt: loss and gradients of packed rows are those of the examples one by one."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from mmfuser_jax import model_folder
from mmfuser_jax.data.packing import branch, pack_rows
from mmfuser_jax.data.pictures import Picture
from mmfuser_jax.models import VLM
from mmfuser_jax.ops.cross_entropy import cross_entropy
from tests.helpers import random_params


@pytest.fixture(scope="module")
def case(tiny):
    """A model with random parameters, and examples with no, one and two pictures, and with branches."""
    images = model_folder.image_format(tiny, "square")
    rng = np.random.default_rng(0)

    def picture():
        pixels = rng.integers(0, 256, (1, images.size, images.size, 3)).astype(np.uint8)
        return Picture(pixels, images.slots((images.size, images.size), 1))

    def conversation(pictures, words):
        ids = np.concatenate([[1], [-200] * pictures, rng.integers(3, tiny.llm.vocab_size, words)])
        return ids, np.where(np.arange(len(ids)) > pictures + words // 2, ids, -100)

    first, second = conversation(1, 7), conversation(1, 12)
    examples = [
        branch([conversation(1, 9)], [picture()], images),
        branch([conversation(0, 14)], [], images),
        branch([conversation(2, 6)], [picture(), picture()], images),
        branch([first, second, conversation(1, 5)], [picture()], images),
        branch([conversation(0, 5)], [], images),
    ]
    model = VLM(tiny)
    return model, random_params(model), images, examples


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_gradients(model, params, batch):
    def total(params):
        loss = cross_entropy(model.apply({"params": params}, batch).logits, batch.targets)
        return loss.mean * loss.count

    return jax.value_and_grad(total)(params)


def loss_and_gradients(model, params, batch):
    """Sum over supervised tokens, and its gradients as one flat list."""
    value, gradients = _loss_and_gradients(model, params, batch)
    return float(value), [np.asarray(x, np.float64) for x in jax.tree.leaves(gradients)]


def alone(case):
    """Every example in a row of its own."""
    model, params, images, examples = case
    length, tiles = max(x.length for x in examples), max(x.tiles for x in examples)
    batch = pack_rows([[x] for x in examples], length, tiles, images)
    return loss_and_gradients(model, params, batch)


def packed(case):
    model, params, images, examples = case
    length = sum(x.length for x in examples) + 3
    return model, params, pack_rows([examples], length, 6, images)


def worst(gradients, expected):
    """Largest difference of a parameter's gradient, relative to it, or to a thousandth of all for those that vanish."""
    floor = 1e-3 * np.linalg.norm(np.concatenate([x.ravel() for x in expected]))
    differences = [
        np.linalg.norm(a - b) / max(np.linalg.norm(b), floor) for a, b in zip(gradients, expected, strict=True)
    ]
    return max(differences)


def test_packed_rows_learn_what_their_examples_learn(case):
    """Parameters in float32, everything computed in float64 where the model does not ask for float32 itself."""
    model, params, images, examples = case
    with jax.enable_x64(True):
        exact = VLM(model.config, np.dtype("float64")), params, images, examples
        expected_loss, expected = alone(exact)
        loss, gradients = loss_and_gradients(*packed(exact))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert worst(gradients, expected) < 1e-6


@pytest.mark.parametrize("leak", ["segments", "positions", "pictures"])
def test_a_leak_would_be_seen(case, leak):
    """Negative control: one segment for all, positions that go on, or pictures of other examples."""
    model, params, batch = packed(case)
    expected_loss, expected = alone(case)
    broken = {
        "segments": lambda: {"segment_ids": np.minimum(batch.segment_ids, 1)},
        "positions": lambda: {"positions": np.arange(batch.positions.size, dtype=np.int32)[None]},
        "pictures": lambda: {"pixels": batch.pixels[:, ::-1]},
    }[leak]()
    loss, gradients = loss_and_gradients(model, params, dataclasses.replace(batch, **broken))
    if leak == "positions":
        # Rotary positions are relative: going on from segment to segment changes nothing but where branches restart.
        assert worst(gradients, expected) > 1e-3
    else:
        assert abs(loss - expected_loss) > 1e-4 * expected_loss
        assert worst(gradients, expected) > 1e-2
