"""The loss from hidden states against the loss from whole logits: values, gradients, meshes, memory."""

import contextlib
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuser_jax import sharding
from mmfuser_jax.ops import cross_entropy as from_logits
from mmfuser_jax.ops.cross_entropy import head_cross_entropy
from tests.helpers import relative

WHOLE = 1 << 40  # bytes of a slice of logits; 3000 gives a few, 700 some that do not divide the vocabulary
MESHES = [None, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"tensor": 8}, {"fsdp": 4, "sequence": 2}]


def problem(vocabulary=200, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((8, 16, 32)), dtype)
    head = jnp.asarray(rng.standard_normal((32, vocabulary)), dtype)
    targets = np.where(rng.random((8, 16)) < 0.4, -100, rng.integers(0, vocabulary, (8, 16)))
    return hidden, head, jnp.asarray(targets, jnp.int32)


def loss_and_gradients(loss, hidden, head, targets, mesh=None):
    def mean(hidden, head):
        out = loss(hidden, head, targets)
        return out.mean, out

    with sharding.use_mesh(sharding.make_mesh(**mesh)) if mesh else contextlib.nullcontext():
        return jax.jit(jax.value_and_grad(mean, (0, 1), has_aux=True))(hidden, head)


def whole(hidden, head, targets):
    return from_logits(jnp.einsum("btd,dv->btv", hidden, head, preferred_element_type=jnp.float32), targets)


def in_slices(size):
    return lambda hidden, head, targets: head_cross_entropy(hidden, head, targets, size)


@pytest.mark.parametrize(("mesh", "size"), [(None, WHOLE), (None, 3000), *((mesh, 700) for mesh in MESHES)], ids=str)
def test_equals_whole_logits(mesh, size):
    case = problem()
    (expected, sums), gradients = loss_and_gradients(whole, *case)
    (actual, found), ours = loss_and_gradients(in_slices(size), *case, mesh)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert (found.count, found.correct) == (sums.count, sums.correct)
    assert max(map(relative, ours, gradients)) < 1e-6


def test_16_bit_states_lose_no_more_than_with_whole_logits():
    case = problem(dtype=jnp.bfloat16)
    exact = [x.astype(jnp.float32) for x in case[:2]] + [case[2]]
    _, truth = loss_and_gradients(whole, *exact)
    _, plain = loss_and_gradients(whole, *case)
    _, ours = loss_and_gradients(in_slices(3000), *case)
    for mine, theirs, true in zip(ours, plain, truth, strict=True):
        assert mine.dtype == jnp.bfloat16
        assert (
            relative(mine, true) < 2 * relative(theirs, true) < 2**-8
        )  # one more rounding: logits' gradients are 16-bit


def test_the_first_of_equal_logits_counts_as_the_answer():
    hidden, head = jnp.ones((1, 2, 4)), jnp.zeros((4, 64))
    targets = jnp.asarray([[0, 40]])
    for loss in (whole, in_slices(64)):
        assert loss(hidden, head, targets).correct == 1


def test_no_labels_give_zero_and_no_nan():
    hidden, head, targets = problem()
    (mean, _), gradients = loss_and_gradients(in_slices(700), hidden, head, jnp.full_like(targets, -100))
    assert mean == 0
    assert not any(np.any(x) for x in gradients)


@pytest.mark.parametrize("broken", ["_labels", "_pick"])
def test_negative_control(monkeypatch, broken):
    module = importlib.import_module("mmfuser_jax.ops.cross_entropy")  # its name in the package is the function's
    case, right = problem(), getattr(module, broken)
    monkeypatch.setattr(module, broken, lambda x, y: right(x, y) + 1)
    (expected, _), gradients = loss_and_gradients(whole, *case)
    (actual, _), ours = loss_and_gradients(in_slices(700), *case)
    assert max(relative(actual, expected), *map(relative, ours, gradients)) > 1e-2


def test_logits_never_exist_as_a_whole():
    tokens, width, vocabulary = 512, 32, 32_000
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, tokens, width), (width, vocabulary))]
    targets = jax.ShapeDtypeStruct((1, tokens), jnp.int32)

    def peak(loss):
        step = jax.jit(jax.grad(lambda h, w, t: loss(h, w, t).mean, (0, 1)))
        return step.lower(*shapes, targets).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * tokens * vocabulary
    assert peak(whole) > logits
    assert peak(in_slices(logits // 32)) < logits / 4


def test_one_cpu_looks_at_supervised_tokens_only(monkeypatch):
    monkeypatch.setattr(importlib.import_module("mmfuser_jax.ops.cross_entropy"), "CPU_TOKENS", 7)
    rng = np.random.default_rng(3)
    hidden, head = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 19, 8), (8, 50)))
    targets = np.where(rng.random((2, 19)) < 0.4, rng.integers(0, 50, (2, 19)), -100)

    def mean(loss):
        return jax.value_and_grad(lambda h, w: loss(h, w).mean, (0, 1))(hidden, head)

    ours = mean(lambda h, w: head_cross_entropy(h, w, targets))
    plain = mean(lambda h, w: from_logits(h @ w, targets))
    assert max(relative(a, b) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True)) < 1e-6
