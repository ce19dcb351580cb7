"""Cached decoding of many prompts: pictures encoded once, prompts prefilled together, tokens drawn in one device loop."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mmfuser_jax import sharding
from mmfuser_jax.data.packing import expand_images
from mmfuser_jax.data.pictures import Picture
from mmfuser_jax.generate.placed import params_jit
from mmfuser_jax.generate.sampling import GREEDY, Sampling, sample
from mmfuser_jax.models import VLM

BUCKET = 32
"""Prompt lengths are padded to multiples of this, so that few shapes are compiled."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture in a prompt: which rows of the encoded features are its tiles, and the order of its image tokens.

    Attributes:
      tiles: rows of `features`.
      slots: int32[k], see `data.pictures.Picture`.
    """

    tiles: tuple[int, ...]
    slots: np.ndarray


class Engine:
    """A model with its parameters, ready to generate.

    Where the parameters are spread over devices, pictures and prompts are too, and their number is padded to suit.
    Several processes make the same calls, and get the same results.

    Attributes:
      model, params: the network.
      end_ids: tokens that end an answer; none for a model without a tokenizer.
      pad_id: fills finished and padded places.
    """

    def __init__(self, model: VLM, params: Any, *, end_ids: Sequence[int], pad_id: int) -> None:
        self.model = model
        self.params = params
        self._mesh = sharding.mesh_of(params)
        self.end_ids = tuple(end_ids)
        self.pad_id = pad_id

    def encode_images(self, pixels: np.ndarray, batch_size: int = 32) -> Float[jax.Array, "n P D"]:
        """Projected features of n pictures [n, height, width, 3] (uint8, or normalised floats), in fixed-size batches."""
        chunks = []
        for start in range(0, len(pixels), batch_size):
            chunk = pixels[start : start + batch_size]
            rows = sharding.padded_rows(min(_power_of_two(len(chunk)), batch_size), self._mesh)
            chunks.append(_encode(self.model, self.params, pad_rows(chunk, rows))[: len(chunk)])
        return jnp.concatenate(chunks)

    def encode_pictures(
        self, pictures: Sequence[Sequence[Picture]]
    ) -> tuple[Float[jax.Array, "n P D"] | None, list[list[Shown]]]:
        """Features of every picture of some prompts (None if there is none), and each prompt's pictures among them."""
        pixels = [picture.pixels for shown in pictures for picture in shown]
        ends = iter(np.cumsum([len(tiles) for tiles in pixels]).tolist())
        placed = [
            [Shown(tuple(range(end - len(p.pixels), end)), p.slots) for p, end in zip(shown, ends, strict=False)]
            for shown in pictures
        ]
        return (self.encode_images(np.concatenate(pixels)) if pixels else None), placed

    def whole(self, row: int) -> Shown:
        """A picture of one tile: row `row` of the features, read in order."""
        return Shown((row,), np.arange(self.model.config.image_tokens, dtype=np.int32))

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        features: Float[jax.Array, "n P D"] | None,
        pictures: Sequence[Sequence[Shown]],
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
          pictures: for each prompt, those it shows, in order.
          max_new_tokens: at most this many.
          sampling: how tokens are chosen.
          seed: of the draw; the same seed, prompts and batch size give the same tokens.
          batch_size: prompts decoded together. Prompts of like length go together; results keep their order.

        Raises:
          ValueError: a prompt's markers and pictures differ in number, or there are no features of such a picture.
        """
        known = 0 if features is None else len(features)
        tiles = [[tile for picture in shown for tile in picture.tiles] for shown in pictures]
        if any(tile >= known for row in tiles for tile in row):
            raise ValueError(f"prompts show more pictures than the {known} that were given")
        expanded = [self._expand(prompt, shown) for prompt, shown in zip(prompts, pictures, strict=True)]
        order = sorted(range(len(prompts)), key=lambda i: len(expanded[i][0]))
        results: list[list[int]] = [[] for _ in prompts]
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            key = jax.random.fold_in(jax.random.key(seed), start)
            tokens = self._generate_batch(
                [expanded[i] for i in chosen], features, [tiles[i] for i in chosen], max_new_tokens, sampling, key
            )
            for i, row in zip(chosen, tokens, strict=False):
                end = np.flatnonzero(np.isin(row, self.end_ids))
                results[i] = row[: end[0] if len(end) else len(row)].tolist()
        return results

    def _generate_batch(
        self,
        prompts: Sequence[tuple[np.ndarray, np.ndarray]],
        features: jax.Array | None,
        tiles: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling,
        key: jax.Array,
    ) -> np.ndarray:
        rows = sharding.padded_rows(_power_of_two(len(prompts)), self._mesh)
        length = -(-max(len(tokens) for tokens, _ in prompts) // BUCKET) * BUCKET
        tokens = np.full((rows, length), self.pad_id, np.int32)
        image_index = np.full((rows, length), -1, np.int32)
        lengths = np.ones(rows, np.int32)
        shown = np.zeros((rows, max(1, max(len(row) for row in tiles))), np.int32)
        for row, ((ids, index), row_tiles) in enumerate(zip(prompts, tiles, strict=True)):
            tokens[row, : len(ids)], image_index[row, : len(ids)], lengths[row] = ids, index, len(ids)
            shown[row, : len(row_tiles)] = row_tiles
        out = _generate(
            self.model, self.params, tokens, image_index, features, shown, lengths, len(prompts), key,
            max_new_tokens=max_new_tokens, sampling=sampling, end_ids=self.end_ids, pad_id=self.pad_id,
        )  # fmt: skip
        return np.asarray(out)

    def _expand(self, prompt: np.ndarray, shown: Sequence[Shown]) -> tuple[np.ndarray, np.ndarray]:
        features = self.model.config.image_tokens
        slots = [(picture.slots, len(picture.tiles) * features) for picture in shown]
        return expand_images(np.asarray(prompt), slots)[:2]


def _power_of_two(count: int) -> int:
    """The next power of two, so that few batch shapes are compiled."""
    return 1 << (count - 1).bit_length()


def pad_rows(x: np.ndarray, rows: int) -> np.ndarray:
    """Zeros after the rows of an array, up to so many."""
    return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


@params_jit
def _encode(model: VLM, params: Any, pixels: jax.Array) -> jax.Array:
    features: Any = model.apply({"params": params}, pixels, method="visual_features")
    return features.projected


@functools.partial(params_jit, static_argnames=("max_new_tokens", "sampling", "end_ids", "pad_id"))
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
    end_ids: tuple[int, ...],
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

    def ends(token: jax.Array) -> jax.Array:
        return jnp.isin(token, jnp.asarray(end_ids, jnp.int32))

    def unfinished(carry: tuple) -> jax.Array:
        step, _, _, _, done = carry
        return (step < max_new_tokens) & ~jnp.all(done)

    def draw(carry: tuple) -> tuple:
        step, cache, last, drawn, done = carry
        # Ties the weights to the step: else XLA converts all of them to the compute dtype once, ahead of the loop, and
        # holds them twice (on CPUs as float32, in which they multiply bfloat16).
        here, last = jax.lax.optimization_barrier((params, last))
        output: Any = model.apply(
            {"params": here}, last[:, None], cache=cache, last=jnp.zeros(rows, jnp.int32), method="decode"
        )
        token = sample(output.logits[:, 0], jax.random.fold_in(key, step), sampling)
        token = jnp.where(done, pad_id, token)
        return step + 1, output.cache, token, drawn.at[:, step].set(token), done | ends(token)

    done = ends(first) | (jnp.arange(rows) >= live)
    carry = (jnp.int32(1), cache, first, drawn, done)
    return jax.lax.while_loop(unfinished, draw, carry)[3]
