"""Encoded conversations → rows of static length: pictures expanded to patch slots, branches and segments laid out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, Batch

Encoded = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Example:
    """One record, expanded and ready to pack. Arrays are int32[T] with the meaning of `Batch`; pixels uint8[I,h,w,3]."""

    tokens: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    branch_ids: np.ndarray
    image_index: np.ndarray
    pixels: np.ndarray

    @property
    def length(self) -> int:
        """T, slots of a row that the example takes."""
        return len(self.tokens)


def expand_images(ids: np.ndarray, patches: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Replaces every IMAGE_TOKEN_INDEX by `patches` slots.

    Returns:
      tokens: int32[T'], 0 at image slots.
      image_index: int32[T'], running patch number at image slots, -1 at text.
      source: int32[T'], which of the given ids each slot comes from.

    >>> expand_images(np.array([1, -200, 7]), 2)
    tokens [1, 0, 0, 7], image_index [-1, 0, 1, -1], source [0, 1, 1, 2]
    """
    is_image = ids == IMAGE_TOKEN_INDEX
    source = np.repeat(np.arange(len(ids), dtype=np.int32), np.where(is_image, patches, 1))
    slot = is_image[source]
    image_index = np.where(slot, np.cumsum(slot) - 1, -1).astype(np.int32)
    return np.where(slot, 0, ids[source]).astype(np.int32), image_index, source


def _next_labels(labels: np.ndarray) -> np.ndarray:
    """Target of each position: the label after it, none after the last."""
    return np.append(labels[1:], IGNORE_INDEX).astype(np.int32)


def branch(conversations: Sequence[Encoded], pixels: np.ndarray, patches: int) -> Example:
    """Lays independent conversations about the same pictures out behind one copy of the pictures.

    The common beginning up to and including the last picture becomes the trunk; the rest of every conversation becomes
    a branch whose positions go on after the trunk. A single conversation is simply one branch.

    Args:
      conversations: (input_ids, labels) of each, as `encode_conversation` returns them.
      pixels: uint8[I, height, width, 3].
      patches: P, slots of one picture.

    Raises:
      RecordError: the conversations differ before the end of their last picture, or supervise something there.
    """
    first = conversations[0][0]
    image_places = np.flatnonzero(first == IMAGE_TOKEN_INDEX)
    trunk_length = int(image_places[-1]) + 1 if len(image_places) else 0
    trunk = first[:trunk_length]
    tokens, image_index, _ = expand_images(trunk, patches)
    parts = [(tokens, np.full(len(tokens), IGNORE_INDEX, np.int32), image_index)]
    for ids, labels in conversations:
        if not np.array_equal(ids[:trunk_length], trunk) or (ids[trunk_length:] == IMAGE_TOKEN_INDEX).any():
            raise RecordError("conversations of one record must begin alike up to their last picture")
        if (labels[:trunk_length] != IGNORE_INDEX).any():
            raise RecordError("nothing before a conversation's last picture can be supervised when branches share it")
        rest = ids[trunk_length:]
        parts.append((rest, _next_labels(labels[trunk_length:]), np.full(len(rest), -1, np.int32)))
    if len(conversations) == 1 and len(conversations[0][0]) > trunk_length:
        # The last trunk slot predicts the first token of the only branch (a caption starts right after its picture).
        parts[0][1][-1:] = conversations[0][1][trunk_length]
    lengths = [len(part[0]) for part in parts]
    positions = [np.arange(lengths[0])] + [lengths[0] + np.arange(length) for length in lengths[1:]]
    return Example(
        tokens=np.concatenate([part[0] for part in parts]).astype(np.int32),
        targets=np.concatenate([part[1] for part in parts]).astype(np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        branch_ids=np.repeat(np.arange(len(parts)), lengths).astype(np.int32),
        image_index=np.concatenate([part[2] for part in parts]).astype(np.int32),
        pixels=pixels,
    )


def pack_row(examples: Sequence[Example], length: int, images: int, patches: int) -> Batch:
    """One row (arrays without the leading B) holding the examples as segments 1, 2, …, padded to `length` and `images`.

    Raises:
      RecordError: the examples take more slots or pictures than the row has.
    """
    used = sum(example.length for example in examples)
    pictures = sum(len(example.pixels) for example in examples)
    if used > length or pictures > images:
        raise RecordError(
            f"{used} tokens and {pictures} pictures do not fit a row of {length} tokens, {images} pictures"
        )

    def lay(arrays: Sequence[np.ndarray], fill: int) -> np.ndarray:
        row = np.full(length, fill, np.int32)
        row[:used] = np.concatenate(arrays)
        return row

    offsets = np.cumsum([0, *(len(example.pixels) for example in examples)]) * patches
    shown = [
        np.where(example.image_index >= 0, example.image_index + offset, -1)
        for example, offset in zip(examples, offsets, strict=False)
    ]
    pixels = np.concatenate([example.pixels for example in examples])
    return Batch(
        tokens=lay([example.tokens for example in examples], 0),
        targets=lay([example.targets for example in examples], IGNORE_INDEX),
        positions=lay([example.positions for example in examples], 0),
        segment_ids=lay([np.full(example.length, index + 1) for index, example in enumerate(examples)], 0),
        branch_ids=lay([example.branch_ids for example in examples], 0),
        image_index=lay(shown, -1),
        pixels=np.concatenate([pixels, np.zeros((images - pictures, *pixels.shape[1:]), np.uint8)]),
    )
