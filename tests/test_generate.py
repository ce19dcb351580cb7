"""The engine: batches equal single requests, ends, sampling, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from mmfuser_jax.compilation import USE_ON_CPU
from mmfuser_jax.generate import GREEDY, Engine, Sampling, Shown
from mmfuser_jax.generate import engine as engine_module
from mmfuser_jax.generate.sampling import sample
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import boxed_params
from tests.helpers import random_batch, random_params, run


def whole(row):
    return Shown((row,), np.arange(16))


@pytest.fixture(scope="module")
def engine(tiny):
    return Engine(VLM(tiny), random_params(VLM(tiny), scale=0.3), end_ids=(2,), pad_id=0)


@pytest.fixture(scope="module")
def requests():
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, 128, length).astype(np.int32) for length in (4, 9, 30, 6, 17)]
    for prompt in prompts[:4]:
        prompt[1] = -200
    prompts[2][5] = -200
    pictures = [[whole(0)], [whole(2)], [whole(1), whole(0)], [whole(2)], []]
    return prompts, rng.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8), pictures


def test_batches_equal_single_requests_and_the_full_forward(engine, requests):
    prompts, pixels, pictures = requests
    features = engine.encode_images(pixels)
    together = engine.generate(prompts, features, pictures, max_new_tokens=6)
    alone = [engine.generate([p], features, [s], max_new_tokens=6)[0] for p, s in zip(prompts, pictures, strict=True)]
    assert together == alone
    assert any(together)
    pairs = engine.generate(prompts, features, pictures, max_new_tokens=6, batch_size=2)
    assert pairs == together


def test_greedy_tokens_are_the_arg_max_of_a_full_forward(engine, requests, tiny):
    prompts, pixels, pictures = requests
    features = engine.encode_images(pixels)
    new = engine.generate(prompts[:1], features, pictures[:1], max_new_tokens=5)[0]
    batch = random_batch(tiny, 1, 4 + 15 + len(new))
    text = np.concatenate([prompts[0][:1], np.zeros(16, np.int32), prompts[0][2:], new]).astype(np.int32)
    batch = batch.replace(tokens=text[None], pixels=pixels[None, :1])
    logits = run(engine.model, engine.params, batch).logits[0]
    assert np.argmax(logits[len(text) - len(new) - 1 : -1], -1).tolist() == new


def test_nothing_follows_the_end_token(engine, requests):
    prompts, pixels, pictures = requests
    features = engine.encode_images(pixels)
    longest = engine.generate(prompts, features, pictures, max_new_tokens=12)
    stop = next(tokens for tokens in longest if len(tokens) > 3)[2]
    stopping = Engine(engine.model, engine.params, end_ids=(stop,), pad_id=0)
    for tokens, before in zip(stopping.generate(prompts, features, pictures, max_new_tokens=12), longest, strict=True):
        assert stop not in tokens
        assert before[: len(tokens)] == tokens


def test_features_do_not_depend_on_the_batch(engine, requests):
    pixels = requests[1]
    whole = engine.encode_images(pixels)
    np.testing.assert_allclose(engine.encode_images(pixels, batch_size=2), whole, rtol=1e-4, atol=1e-5)
    assert engine.encode_images(pixels[:1]).shape == (1, 16, 48)


def test_pictures_must_match_markers(engine, requests):
    prompts, pixels, _ = requests
    with pytest.raises(ValueError, match="1 image markers for 0 pictures"):
        engine.generate(prompts[:1], engine.encode_images(pixels), [[]], max_new_tokens=2)


def test_sampling_is_seeded_and_draws_from_the_nucleus(engine, requests):
    prompts, pixels, pictures = requests
    features = engine.encode_images(pixels)

    def draw(seed):
        return engine.generate(
            prompts, features, pictures, max_new_tokens=6, sampling=Sampling(temperature=3.0), seed=seed
        )

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = {int(sample(logits, key, Sampling(1.0, top_p=0.75))[0]) for key in keys}
    assert drawn == {0, 1}
    assert int(sample(logits, keys[0], Sampling())[0]) == 0
    for bad in ({"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            Sampling(**bad)


def test_sixteen_bit_weights_are_held_once(tiny):
    """Prefill and decoding need less memory than a second copy of the weights, in whatever dtype XLA multiplies."""
    llm = dataclasses.replace(tiny.llm, width=256, heads=8, kv_heads=8, head_width=32, depth=6, mlp_width=1024)
    model = VLM(dataclasses.replace(tiny, llm=llm), jnp.bfloat16)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), meta.unbox(boxed_params(model)))
    ids, row = jax.ShapeDtypeStruct((1, 32), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    static = {"max_new_tokens": 8, "sampling": GREEDY, "end_ids": (2,), "pad_id": 0}

    def temporary_bytes(options):
        run = jax.jit(engine_module._generate.__wrapped__, static_argnums=0, static_argnames=static)
        lowered = run.lower(
            model, params, ids, ids, None, jax.ShapeDtypeStruct((1, 1), jnp.int32), row, 1, jax.random.key(0), **static
        )
        return lowered.compile(compiler_options=options).memory_analysis().temp_size_in_bytes

    weights = sum(x.size * 2 for x in jax.tree.leaves(params["llm"]["decoder"]))
    assert temporary_bytes(USE_ON_CPU) < weights / 2
    assert temporary_bytes(None) > weights  # what the option is for
