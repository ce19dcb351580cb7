"""Encoded conversations → rows of static length: pictures expanded to image slots, branches and segments laid out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmfuser_jax.data.pictures import ImageFormat, Picture
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, TEXT_SLOT, Batch

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


Slots = tuple[np.ndarray, int]
"""Of one picture: the order of its image tokens (see `Picture.slots`), and how many features its tiles have."""


def expand_images(ids: np.ndarray, pictures: Sequence[Slots]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Replaces every IMAGE_TOKEN_INDEX by the slots of its picture.

    Args:
      ids: int[T].
      pictures: in the order of their markers; features of later ones come after those of earlier ones.

    Returns:
      tokens: int32[T'], 0 at image slots.
      image_index: int32[T'], as in `Batch`.
      source: int32[T'], which of the given ids each slot comes from.

    Raises:
      RecordError: markers and pictures differ in number.

    >>> expand_images(np.array([1, -200, 7, -200]), [(np.arange(2), 2), (np.array([0, -2]), 2)])
    tokens [1, 0, 0, 7, 0, 0], image_index [-1, 0, 1, -1, 2, -2], source [0, 1, 1, 2, 3, 3]
    """
    is_image = ids == IMAGE_TOKEN_INDEX
    if is_image.sum() != len(pictures):
        raise RecordError(f"{is_image.sum()} image markers for {len(pictures)} pictures")
    lengths = np.ones(len(ids), np.int64)
    lengths[is_image] = [len(slots) for slots, _ in pictures]
    source = np.repeat(np.arange(len(ids), dtype=np.int32), lengths)
    slot = is_image[source]
    starts = np.cumsum([0, *(features for _, features in pictures)])
    image_index = np.full(len(source), TEXT_SLOT, np.int32)
    if pictures:
        shown = [
            np.where(slots >= 0, slots + start, slots) for (slots, _), start in zip(pictures, starts, strict=False)
        ]
        image_index[slot] = np.concatenate(shown)
    return np.where(slot, 0, ids[source]).astype(np.int32), image_index, source


def _next_labels(labels: np.ndarray) -> np.ndarray:
    """Target of each position: the label after it, none after the last."""
    return np.append(labels[1:], IGNORE_INDEX).astype(np.int32)


def branch(conversations: Sequence[Encoded], pictures: Sequence[Picture], images: ImageFormat) -> Example:
    """Lays independent conversations about the same pictures out behind one copy of the pictures.

    The common beginning up to and including the last picture becomes the trunk; the rest of every conversation becomes
    a branch whose positions go on after the trunk. A single conversation is all trunk.

    Args:
      conversations: (input_ids, labels) of each, as `encode_conversation` returns them.
      pictures: in the order of their markers.
      images: their format.

    Raises:
      RecordError: several conversations differ before the end of their last picture, or supervise something there; or
        there is not a marker for every picture.
    """
    (first, first_labels), *others = conversations
    image_places = np.flatnonzero(first == IMAGE_TOKEN_INDEX)
    shared = int(image_places[-1]) + 1 if len(image_places) else 0
    trunk_length = shared if others else len(first)
    trunk = first[:trunk_length]
    tokens, image_index, source = expand_images(trunk, [(p.slots, len(p.pixels) * images.tokens) for p in pictures])
    labels = np.where(image_index == TEXT_SLOT, first_labels[:trunk_length][source], IGNORE_INDEX)
    parts = [(tokens, _next_labels(labels), image_index)]
    for ids, labels in conversations if others else ():
        if not np.array_equal(ids[:trunk_length], trunk) or (ids[trunk_length:] == IMAGE_TOKEN_INDEX).any():
            raise RecordError("conversations of one record must begin alike up to their last picture")
        if (labels[:trunk_length] != IGNORE_INDEX).any():
            raise RecordError("nothing before a conversation's last picture can be supervised when branches share it")
        rest = ids[trunk_length:]
        parts.append((rest, _next_labels(labels[trunk_length:]), np.full(len(rest), TEXT_SLOT, np.int32)))
    lengths = [len(part[0]) for part in parts]
    positions = [np.arange(lengths[0])] + [lengths[0] + np.arange(length) for length in lengths[1:]]
    return Example(
        tokens=np.concatenate([part[0] for part in parts]).astype(np.int32),
        targets=np.concatenate([part[1] for part in parts]).astype(np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        branch_ids=np.repeat(np.arange(len(parts)), lengths).astype(np.int32),
        image_index=np.concatenate([part[2] for part in parts]).astype(np.int32),
        pixels=np.concatenate([images.no_pixels, *(picture.pixels for picture in pictures)]),
    )


def pack_row(examples: Sequence[Example], length: int, tiles: int, image_tokens: int) -> Batch:
    """One row (arrays without the leading B) holding the examples as segments 1, 2, …, padded to `length` and `tiles`.

    Args:
      examples: with at least one among them.
      length: T.
      tiles: I; a picture that is not cut into tiles is one.
      image_tokens: P, features of a tile.

    Raises:
      RecordError: the examples take more slots or tiles than the row has.
    """
    used = sum(example.length for example in examples)
    used_tiles = sum(len(example.pixels) for example in examples)
    if used > length or used_tiles > tiles:
        raise RecordError(
            f"{used} tokens and {used_tiles} picture tiles do not fit a row of {length} tokens, {tiles} tiles"
        )

    def lay(arrays: Sequence[np.ndarray], fill: int) -> np.ndarray:
        row = np.full(length, fill, np.int32)
        row[:used] = np.concatenate(arrays)
        return row

    offsets = np.cumsum([0, *(len(example.pixels) for example in examples)]) * image_tokens
    shown = [
        np.where(example.image_index >= 0, example.image_index + offset, example.image_index)
        for example, offset in zip(examples, offsets, strict=False)
    ]
    pixels = np.concatenate([example.pixels for example in examples])
    return Batch(
        tokens=lay([example.tokens for example in examples], 0),
        targets=lay([example.targets for example in examples], IGNORE_INDEX),
        positions=lay([example.positions for example in examples], 0),
        segment_ids=lay([np.full(example.length, index + 1) for index, example in enumerate(examples)], 0),
        branch_ids=lay([example.branch_ids for example in examples], 0),
        image_index=lay(shown, TEXT_SLOT),
        pixels=np.concatenate([pixels, np.zeros((tiles - used_tiles, *pixels.shape[1:]), np.uint8)]),
    )
