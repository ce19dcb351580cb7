"""Cached decoding of many prompts: pictures encoded once, prompts prefilled together, tokens drawn in one device loop."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mmfuser_jax.data.packing import expand_images
from mmfuser_jax.generate.sampling import GREEDY, Sampling, sample
from mmfuser_jax.models import VLM

BUCKET = 32
"""Prompt lengths are padded to multiples of this, so that few shapes are compiled."""


class Engine:
    """A model with its parameters, ready to generate.

    Attributes:
      model, params: the network.
      eos_id: token that ends an answer.
      pad_id: fills finished and padded places.
    """

    def __init__(self, model: VLM, params: Any, *, eos_id: int, pad_id: int) -> None:
        self.model = model
        self.params = params
        self.eos_id = eos_id
        self.pad_id = pad_id

    def encode_images(self, pixels: np.ndarray, batch_size: int = 32) -> Float[jax.Array, "n P D"]:
        """Projected features of n pictures [n, height, width, 3] (uint8, or normalised floats), in fixed-size batches."""
        chunks = []
        for start in range(0, len(pixels), batch_size):
            chunk = pixels[start : start + batch_size]
            padded = _pad_rows(chunk, min(_power_of_two(len(chunk)), batch_size))
            chunks.append(_encode(self.model, self.params, padded)[: len(chunk)])
        return jnp.concatenate(chunks)

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        features: Float[jax.Array, "n P D"] | None,
        pictures: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        batch_size: int = 256,
    ) -> list[list[int]]:
        """New tokens of every prompt, without the end token.

        Args:
          prompts: int32[T] each, with IMAGE_TOKEN_INDEX where a picture goes.
          features: pictures from `encode_images`; None where no prompt shows one.
          pictures: for each prompt, the rows of `features` it shows, in order.
          max_new_tokens: at most this many.
          sampling: how tokens are chosen.
          seed: of the draw; the same seed, prompts and batch size give the same tokens.
          batch_size: prompts decoded together. Prompts of like length go together; results keep their order.

        Raises:
          ValueError: a prompt's markers and pictures differ in number, or there are no features of such a picture.
        """
        known = 0 if features is None else len(features)
        if any(index >= known for shown in pictures for index in shown):
            raise ValueError(f"prompts show more pictures than the {known} that were given")
        patches = self.model.config.vision.patches
        expanded = [_expand(prompt, shown, patches) for prompt, shown in zip(prompts, pictures, strict=True)]
        order = sorted(range(len(prompts)), key=lambda i: len(expanded[i][0]))
        results: list[list[int]] = [[] for _ in prompts]
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            key = jax.random.fold_in(jax.random.key(seed), start)
            tokens = self._generate_batch(
                [expanded[i] for i in chosen], features, [pictures[i] for i in chosen], max_new_tokens, sampling, key
            )
            for i, row in zip(chosen, tokens, strict=False):
                end = np.flatnonzero(row == self.eos_id)
                results[i] = row[: end[0] if len(end) else len(row)].tolist()
        return results

    def _generate_batch(
        self,
        prompts: Sequence[tuple[np.ndarray, np.ndarray]],
        features: jax.Array | None,
        pictures: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling,
        key: jax.Array,
    ) -> np.ndarray:
        rows = _power_of_two(len(prompts))
        length = -(-max(len(tokens) for tokens, _ in prompts) // BUCKET) * BUCKET
        tokens = np.full((rows, length), self.pad_id, np.int32)
        image_index = np.full((rows, length), -1, np.int32)
        lengths = np.ones(rows, np.int32)
        shown = np.zeros((rows, max(1, max(len(p) for p in pictures))), np.int32)
        for row, ((ids, index), rows_shown) in enumerate(zip(prompts, pictures, strict=True)):
            tokens[row, : len(ids)], image_index[row, : len(ids)], lengths[row] = ids, index, len(ids)
            shown[row, : len(rows_shown)] = rows_shown
        out = _generate(
            self.model, self.params, tokens, image_index, features, shown, lengths, len(prompts), key,
            max_new_tokens=max_new_tokens, sampling=sampling, eos_id=self.eos_id, pad_id=self.pad_id,
        )  # fmt: skip
        return np.asarray(out)


def _power_of_two(count: int) -> int:
    """The next power of two, so that few batch shapes are compiled."""
    return 1 << (count - 1).bit_length()


def _pad_rows(x: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


def _expand(prompt: np.ndarray, shown: Sequence[int], patches: int) -> tuple[np.ndarray, np.ndarray]:
    tokens, image_index, _ = expand_images(np.asarray(prompt), patches)
    if image_index.max(initial=-1) + 1 != len(shown) * patches:
        raise ValueError(
            f"a prompt has {(image_index.max(initial=-1) + 1) // patches} image markers, {len(shown)} pictures"
        )
    return tokens, image_index


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: VLM, params: Any, pixels: jax.Array) -> jax.Array:
    features: Any = model.apply({"params": params}, pixels, method="visual_features")
    return features.projected


@functools.partial(jax.jit, static_argnums=0, static_argnames=("max_new_tokens", "sampling", "eos_id", "pad_id"))
def _generate(
    model: VLM,
    params: Any,
    tokens: Int[jax.Array, "B T"],
    image_index: Int[jax.Array, "B T"],
    features: Float[jax.Array, "n P D"] | None,
    pictures: Int[jax.Array, "B I"],
    lengths: Int[jax.Array, " B"],
    live: int | jax.Array,
    key: jax.Array,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    eos_id: int,
    pad_id: int,
) -> Int[jax.Array, "B new"]:
    """Prefills the padded prompts, then draws tokens until the first `live` rows have ended or the limit is reached."""
    rows, length = tokens.shape
    image_features = None if features is None else features[pictures].reshape(rows, -1, features.shape[-1])
    cache = model.config.llm.empty_cache(rows, length + max_new_tokens, model.dtype)
    output: Any = model.apply(
        {"params": params}, tokens, cache=cache, last=lengths - 1,
        image_index=image_index, image_features=image_features, method="decode",
    )  # fmt: skip
    # Right-padded slots lie beyond every row's length: the next tokens overwrite them before anyone sees them.
    cache = output.cache.replace(lengths=lengths)
    first = sample(output.logits[:, 0], jax.random.fold_in(key, 0), sampling)
    drawn = jnp.full((rows, max_new_tokens), pad_id, jnp.int32).at[:, 0].set(first)

    def unfinished(carry: tuple) -> jax.Array:
        step, _, _, _, done = carry
        return (step < max_new_tokens) & ~jnp.all(done)

    def draw(carry: tuple) -> tuple:
        step, cache, last, drawn, done = carry
        output: Any = model.apply(
            {"params": params}, last[:, None], cache=cache, last=jnp.zeros(rows, jnp.int32), method="decode"
        )
        token = sample(output.logits[:, 0], jax.random.fold_in(key, step), sampling)
        token = jnp.where(done, pad_id, token)
        return step + 1, output.cache, token, drawn.at[:, step].set(token), done | (token == eos_id)

    done = (first == eos_id) | (jnp.arange(rows) >= live)
    carry = (jnp.int32(1), cache, first, drawn, done)
    return jax.lax.while_loop(unfinished, draw, carry)[3]
