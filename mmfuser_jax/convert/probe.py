"""What both sides of a verification compute on, and the stages that they report one after the other."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np

from mmfuser_jax.models import VlmConfig
from mmfuser_jax.types import IMAGE_TOKEN_INDEX, Array

TEXT_TOKENS = 24
"""Text tokens of a row, besides its picture."""


class At(enum.StrEnum):
    """Stages by the name that the report gives them, in the order of computation."""

    HIDDEN = "vision hidden states"
    SELECTED = "selected"
    FUSED = "fused"
    PROJECTED = "projected"
    MERGED = "merged embeddings"
    LAYER = "decoder layers"
    LOGITS = "logits"
    LOSS = "loss"
    TOKENS = "next tokens that differ"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One array on the way from pixels to loss.

    Attributes:
      at: which.
      value: float32.
      index: which hidden state or layer, None where there is only one.
    """

    at: At
    value: Array
    index: int | None = None


@dataclasses.dataclass(frozen=True)
class Probe:
    """Rows of one picture each, in the middle of text.

    Attributes:
      pixels: uint8[B, height, width, 3], or floats that are normalised already.
      ids: int[B, t], with one IMAGE_TOKEN_INDEX in every row.
      targets: int[B, T], a label for every token after the pictures are put in; IGNORE_INDEX counts nothing.
      vocab: logits after the first so many are left out: the `llava-hf` layout pads the vocabulary.
    """

    pixels: np.ndarray
    ids: np.ndarray
    targets: np.ndarray
    vocab: int


def random_probe(config: VlmConfig, vocab: int, seed: int = 0) -> Probe:
    """Two rows of noise: pictures, text, and labels, all uniform; the pictures stand at different places."""
    rng = np.random.default_rng(seed)
    size = config.vision.image_size
    ids = rng.integers(0, vocab, (2, TEXT_TOKENS + 1))
    ids[0, 1] = ids[1, TEXT_TOKENS // 2] = IMAGE_TOKEN_INDEX
    length = TEXT_TOKENS + config.image_tokens + (config.vision.grid[0] if config.tiles_end_rows else 0)
    return Probe(
        pixels=rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8),
        ids=ids,
        targets=rng.integers(0, vocab, (2, length)),
        vocab=vocab,
    )
