"""Records → shuffled, batched, resumable stream of `Batch`es, through Grain."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import grain
import jax
import numpy as np

from mmfuser_jax.data.conversation import encode_pieces, get_template, render
from mmfuser_jax.data.images import open_image
from mmfuser_jax.data.packing import Example, branch, pack_row
from mmfuser_jax.data.pictures import ImageFormat, Picture
from mmfuser_jax.data.records import Record, RecordError
from mmfuser_jax.data.tokenizer import Tokenizer
from mmfuser_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """Static shape of a row, and how records become one.

    Attributes:
      template: key of `templates.TEMPLATES`.
      images: how pictures become pixels and image tokens.
      im_start_end: see `templates.Template`.
      length: T, slots of a row; not used where nothing is packed.
      tiles: I, tiles of a row (one a picture that is not cut); likewise.
    """

    template: str
    images: ImageFormat
    im_start_end: bool = False
    length: int = 0
    tiles: int = 1


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes that keep what a picture shows; zero or False switches one off.

    Attributes:
      shift: pictures move by up to this many pixels along each axis; the border repeats its edge.
      flip: left and right are swapped half of the time.
    """

    shift: int = 0
    flip: bool = False

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8[height, width, 3] → the same shape."""
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if self.shift:
            padded = np.pad(pixels, [(self.shift, self.shift)] * 2 + [(0, 0)], mode="edge")
            top, left = rng.integers(0, 2 * self.shift + 1, 2)
            pixels = padded[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        return pixels


class ToRow(grain.transforms.RandomMap):
    """Record → one unbatched row: reads pictures, picks conversations, encodes, packs."""

    def __init__(
        self, tokenizer: Tokenizer, row_format: RowFormat, conversations: int, augmentation: Augmentation
    ) -> None:
        """`conversations` of each record are drawn at every visit (all of them where it has no more)."""
        self._tokenizer = tokenizer
        self._format = row_format
        self._conversations = conversations
        self._augmentation = augmentation

    def random_map(self, element: Record, rng: np.random.Generator) -> Batch:
        """Raises RecordError, naming the record, where a picture is unreadable or the row overflows."""
        fmt = self._format
        try:
            pictures = [self._augmented(fmt.images.picture(open_image(path)), rng) for path in element.images]
            return pack_row([self._example(element, pictures, rng)], fmt.length, fmt.tiles, fmt.images.tokens)
        except RecordError as error:
            raise RecordError(f"record {element.id}: {error}") from None

    def _augmented(self, picture: Picture, rng: np.random.Generator) -> Picture:
        tiles = [self._augmentation(tile, rng) for tile in picture.pixels]
        return dataclasses.replace(picture, pixels=np.stack(tiles))

    def _example(self, record: Record, pictures: Sequence[Picture], rng: np.random.Generator) -> Example:
        count = min(self._conversations, len(record.conversations))
        chosen = rng.choice(len(record.conversations), count, replace=False)
        template = get_template(self._format.template, self._format.im_start_end)
        encoded = [encode_pieces(render(record.conversations[i], template), self._tokenizer) for i in chosen]
        return branch(encoded, pictures, self._format.images)


def stack_rows(rows: Sequence[Batch]) -> Batch:
    """Rows → a batch with the leading axis B."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def make_loader(
    records: Sequence[Record],
    transform: ToRow,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Endless stream of batches; every epoch is a fresh permutation, split between processes without overlap.

    Args:
      records: at least one a process.
      transform: record → row.
      batch_size: rows per process and step.
      seed: of order, choices and augmentation; the stream is a pure function of it and of the position.
      process_index, process_count: this process, and how many share the records.

    Returns:
      A dataset whose iterator has `get_state` and `set_state`, and saves through `checkpoint.py`.

    Raises:
      ValueError: fewer records than processes.
    """
    if len(records) < process_count:
        raise ValueError(f"{len(records)} records cannot be split over {process_count} processes")
    return (
        grain.MapDataset.source(records)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(transform)[process_index::process_count]  # drawn by global index: no two processes draw alike
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4 * batch_size))
        .batch(batch_size, drop_remainder=True, batch_fn=stack_rows)
    )
