"""Records → examples → rows of a batch: the two steps that do the work of the pipeline, and what they could not use."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from mmfuser_jax.data.conversation import encode_pieces, get_template, render
from mmfuser_jax.data.packing import Example, branch, pack_rows, truncate
from mmfuser_jax.data.pictures import ImageFormat, Outline, Picture
from mmfuser_jax.data.records import Record, RecordError
from mmfuser_jax.data.sources import Source
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


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A record that could not be used: its id, a reason code (see `RecordError`) and the whole message."""

    id: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An example that was drawn from a source, its pictures not decoded yet.

    Attributes:
      id: of the record.
      example: ready to pack.
      truncated: whether it was cut to the length of a row.
      seed: of the augmentation.
    """

    id: str
    example: Example
    truncated: bool
    seed: int


@dataclasses.dataclass(frozen=True)
class Row:
    """Examples that share a row, and the records that were refused on the way to it."""

    drawn: tuple[Drawn, ...]
    rejected: tuple[Rejected, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """What went into a batch: records looked at, those cut to fit, those that could not be used, and ids of the others."""

    seen: int
    truncated: int
    rejected: tuple[Rejected, ...]
    used: tuple[str, ...]


class Encode(grain.transforms.RandomMap):
    """Index into a source → the record as an example: conversations picked, tokens, image slots. Reads no pixels."""

    def __init__(self, source: Source, tokenizer: Tokenizer, row_format: RowFormat, conversations: int) -> None:
        """`conversations` of each record are drawn at every visit (all of them where it has no more)."""
        self._source = source
        self._tokenizer = tokenizer
        self._format = row_format
        self._conversations = conversations

    def random_map(self, element: int, rng: np.random.Generator) -> Drawn | Rejected:
        """A broken record is not an error here: it is counted where all are, in `tally.Tally`."""
        name = f"row {element}"
        try:
            record = self._source[int(element)]
            name = record.id
            example = self._example(record, rng)
            kept = truncate(example, self._format.length)
            if kept.tiles > self._format.tiles:
                raise RecordError(f"{kept.tiles} picture tiles; a row has {self._format.tiles}", "too_long")
        except RecordError as error:
            return Rejected(name, error.reason, str(error))
        return Drawn(name, kept, kept is not example, int(rng.integers(1 << 62)))

    def _example(self, record: Record, rng: np.random.Generator) -> Example:
        count = min(self._conversations, len(record.conversations))
        chosen = rng.choice(len(record.conversations), count, replace=False)
        template = get_template(self._format.template, self._format.im_start_end)
        encoded = [encode_pieces(render(record.conversations[i], template), self._tokenizer) for i in chosen]
        return branch(encoded, [self._format.images.outline(file) for file in record.images], self._format.images)


class Assemble(grain.transforms.Map):
    """Rows → (batch, report): pictures decoded by a pool of threads, which Pillow lets run beside each other."""

    def __init__(self, row_format: RowFormat, augmentation: Augmentation, threads: int, bucket: int = 0) -> None:
        """With a `bucket`, rows are only as long as the longest of the batch, rounded up to a multiple of it."""
        self._format = row_format
        self._augmentation = augmentation
        self._threads = threads
        self._bucket = bucket
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None

    def map(self, element: Sequence[Row]) -> tuple[Batch, Report]:
        """A record whose picture cannot be decoded leaves its place in the row empty."""
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(self._threads)
        drawn = [x for row in element for x in row.drawn]
        decoded = iter(list(self._pool.map(self._decode, drawn)))
        rejected = [x for row in element for x in row.rejected]
        rows = []
        for row in element:
            outcomes = [next(decoded) for _ in row.drawn]
            rejected += [x for x in outcomes if isinstance(x, Rejected)]
            rows.append([x for x in outcomes if isinstance(x, Example)])
        fmt = self._format
        batch = pack_rows(rows, self._length(rows), fmt.tiles, fmt.images)
        seen = len(drawn) + sum(len(row.rejected) for row in element)
        refused = {x.id for x in rejected}
        used = tuple(x.id for x in drawn if x.id not in refused)
        return batch, Report(seen, sum(x.truncated for x in drawn), tuple(rejected), used)

    def _length(self, rows: Sequence[Sequence[Example]]) -> int:
        if not self._bucket:
            return self._format.length
        longest = max(sum(example.length for example in row) for row in rows)
        return min(self._format.length, max(1, -(-longest // self._bucket)) * self._bucket)

    def _decode(self, drawn: Drawn) -> Example | Rejected:
        rng = np.random.default_rng(drawn.seed)
        try:
            pictures = tuple(self._picture(x, rng) for x in drawn.example.pictures if isinstance(x, Outline))
        except RecordError as error:
            return Rejected(drawn.id, error.reason, f"record {drawn.id}: {error}")
        return dataclasses.replace(drawn.example, pictures=pictures)

    def _picture(self, outline: Outline, rng: np.random.Generator) -> Picture:
        picture = self._format.images.decode(outline)
        if self._augmentation == Augmentation():
            return picture
        tiles = [self._augmentation(tile, rng) for tile in picture.pixels]
        return dataclasses.replace(picture, pixels=np.stack(tiles))

    def __getstate__(self) -> dict[str, Any]:
        """A worker process makes its own threads."""
        return self.__dict__ | {"_pool": None}
