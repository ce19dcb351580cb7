"""Encoded conversations → rows of static length: pictures expanded to image slots, branches and segments laid out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmfuser_jax.data.pictures import ImageFormat, Outline, Picture
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, TEXT_SLOT, Batch

Encoded = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Example:
    """One record, expanded and ready to pack. Arrays are int32[T] with the meaning of `Batch`.

    Attributes:
      pictures: in the order of their slots, decoded or not; `image_index` counts the features of all their tiles.
    """

    tokens: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    branch_ids: np.ndarray
    image_index: np.ndarray
    pictures: tuple[Picture | Outline, ...]

    @property
    def length(self) -> int:
        """T, slots of a row that the example takes."""
        return len(self.tokens)

    @property
    def tiles(self) -> int:
        """I, tiles of all its pictures."""
        return sum(picture.tiles for picture in self.pictures)


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
        raise RecordError(f"{is_image.sum()} image markers for {len(pictures)} pictures", "image_markers")
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


def branch(conversations: Sequence[Encoded], pictures: Sequence[Picture | Outline], images: ImageFormat) -> Example:
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
    tokens, image_index, source = expand_images(trunk, [(p.slots, p.tiles * images.tokens) for p in pictures])
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
        pictures=tuple(pictures),
    )


def truncate(example: Example, length: int) -> Example:
    """The example cut to `length` slots, a picture that would lose some of its slots cut away whole.

    What is left is what the reference makes of ids cut to `model_max_length`: nothing is predicted past the cut.

    Raises:
      RecordError: nothing that is supervised is left.
    """
    if example.length <= length:
        return example
    slots = np.flatnonzero(example.image_index != TEXT_SLOT)
    ends = np.cumsum([len(picture.slots) for picture in example.pictures])
    whole = [slots[end - 1] < length for end in ends]  # slots of one picture are neighbours
    if not all(whole):
        first_cut = whole.index(False)
        length = min(length, slots[ends[first_cut] - len(example.pictures[first_cut].slots)])
    targets = example.targets[:length].copy()
    targets[-1:] = IGNORE_INDEX
    if (targets == IGNORE_INDEX).all():
        raise RecordError(f"{example.length} tokens, and no answer among the first {length}", "too_long")
    return Example(
        tokens=example.tokens[:length],
        targets=targets,
        positions=example.positions[:length],
        branch_ids=example.branch_ids[:length],
        image_index=example.image_index[:length],
        pictures=example.pictures[: sum(whole)],
    )


def pack_rows(rows: Sequence[Sequence[Example]], length: int, tiles: int, images: ImageFormat) -> Batch:
    """A batch whose rows hold the given examples as segments 1, 2, …, padded to `length` and `tiles`.

    Args:
      rows: examples of each row, their pictures decoded; a row may be empty.
      length: T.
      tiles: I; a picture that is not cut into tiles is one.
      images: their format.

    Raises:
      RecordError: the examples of a row take more slots or tiles than it has.
    """
    decoded = [x for examples in rows for example in examples for x in example.pictures if isinstance(x, Picture)]
    dtype = decoded[0].pixels.dtype if decoded else np.dtype(np.uint8)

    def filled(value: int) -> np.ndarray:
        return np.full((len(rows), length), value, np.int32)

    batch = Batch(
        tokens=filled(0),
        targets=filled(IGNORE_INDEX),
        positions=filled(0),
        segment_ids=filled(0),
        branch_ids=filled(0),
        image_index=filled(TEXT_SLOT),
        pixels=np.zeros((len(rows), tiles, images.size, images.size, 3), dtype),
    )
    for row, examples in enumerate(rows):
        used, used_tiles = sum(x.length for x in examples), sum(x.tiles for x in examples)
        if used > length or used_tiles > tiles:
            raise RecordError(
                f"{used} tokens and {used_tiles} picture tiles do not fit a row of {length} tokens, {tiles} tiles",
                "too_long",
            )
        _lay_out(batch, row, examples, images.tokens)
    return batch


def _lay_out(batch: Batch, row: int, examples: Sequence[Example], image_tokens: int) -> None:
    """Writes the examples of a row into the batch."""
    start = tile = 0
    for segment, example in enumerate(examples, 1):
        place = row, slice(start, start + example.length)
        for name in ("tokens", "targets", "positions", "branch_ids"):
            getattr(batch, name)[place] = getattr(example, name)
        batch.segment_ids[place] = segment
        index = example.image_index
        batch.image_index[place] = np.where(index >= 0, index + tile * image_tokens, index)
        start += example.length
        for picture in example.pictures:
            if not isinstance(picture, Picture):
                raise ValueError("pictures must be decoded before their row is laid out")
            batch.pixels[row, tile : tile + picture.tiles] = picture.pixels
            tile += picture.tiles


def plan_rows(lengths: Sequence[int], tiles: Sequence[int], length: int, row_tiles: int) -> list[list[int]]:
    """Which examples share a row: best fit, the longest first.

    Args:
      lengths, tiles: slots and picture tiles of every example; none is above a row's.
      length, row_tiles: slots and tiles of a row.

    Returns:
      Indices of the examples of each row, in their own order; all examples, each once.

    >>> plan_rows([5, 3, 4, 2], [1, 0, 1, 0], 8, 1)
    [[0, 1], [2, 3]]
    """
    rows: list[list[int]] = []
    free, free_tiles = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    for index in np.argsort(-np.asarray(lengths), kind="stable"):
        left = free[: len(rows)] - lengths[index]
        fits = (left >= 0) & (free_tiles[: len(rows)] >= tiles[index])
        if fits.any():
            row = int(np.argmin(np.where(fits, left, length)))
        else:
            row = len(rows)
            rows.append([])
            free[row], free_tiles[row] = length, row_tiles
        rows[row].append(int(index))
        free[row] -= lengths[index]
        free_tiles[row] -= tiles[index]
    return [sorted(row) for row in rows]
