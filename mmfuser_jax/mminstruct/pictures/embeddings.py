"""Embeddings of many picture files, computed once: kept on the disk in parts, by file and encoder."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import logging
import os
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mmfuser_jax import files
from mmfuser_jax.data.images import open_image
from mmfuser_jax.data.pictures import ImageFormat
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.data.resize import fast_resize
from mmfuser_jax.mminstruct.pictures.encoder import BATCH, Encoder
from mmfuser_jax.prepare.progress import shown
from mmfuser_jax.processes import in_order

LOG = logging.getLogger(__name__)

PART, SECONDS = 4 * BATCH, 60.0
"""Pictures, or time, after which embeddings are written: what a kill costs."""


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Pictures that could be embedded.

    Attributes:
      files: of the pictures.
      embeddings: float16[n, D], of length 1; in memory, 2 GB for a million pictures of 1,024 numbers each.
    """

    files: list[Path]
    embeddings: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Decoded:
    """A batch of pictures: pixels of those that can be opened, and of every file the reason why not, or ""."""

    files: list[Path]
    reasons: list[str]
    pixels: np.ndarray


def embed(folder: Path, stamps: Mapping[Path, str], encoder: Encoder, workers: int = 1) -> Embedded:
    """Embeddings of picture files, of which only new and changed ones are computed.

    Args:
      folder: keeps them, and may be deleted at any time. One for each encoder.
      stamps: of every file, something that changes where its content may have changed.
      encoder: what embeds.
      workers: processes that decode.

    Returns:
      Those that can be opened, in the order of `stamps`; of the others a line in the log gives number and reasons.
    """
    listed, expected = list(stamps), list(stamps.values())
    rows = {os.fsencode(file): row for row, file in enumerate(listed)}
    embeddings = np.zeros((len(rows), encoder.width), np.float16)
    reasons: list[str | None] = [None] * len(rows)

    def take(part: _Part) -> None:
        for name, stamp, reason, embedding in zip(part.files, part.stamps, part.reasons, part.embeddings, strict=True):
            row = rows.get(bytes(name))
            if row is not None and expected[row] == stamp:
                embeddings[row], reasons[row] = embedding, str(reason)

    for part in _parts(folder, encoder.width):
        take(part)
    waiting = [file for file, reason in zip(listed, reasons, strict=True) if reason is None]
    LOG.info("pictures to embed: %s, known: %s", f"{len(waiting):,}", f"{len(rows) - len(waiting):,}")
    for part in _computed(waiting, stamps, encoder, workers):
        part.write(folder)
        take(part)
    _report(listed, reasons)
    usable = [row for row, reason in enumerate(reasons) if not reason]
    return Embedded([listed[row] for row in usable], embeddings if len(usable) == len(rows) else embeddings[usable])


@dataclasses.dataclass(frozen=True)
class _Part:
    """Some files, [n] each: names as bytes, stamps, reasons why they cannot be opened (or ""), embeddings [n, D]."""

    files: np.ndarray
    stamps: np.ndarray
    reasons: np.ndarray
    embeddings: np.ndarray

    def write(self, folder: Path) -> None:
        """All of it in one file, which two processes that embed the same pictures may both write."""
        buffer = io.BytesIO()
        np.savez(buffer, files=self.files, stamps=self.stamps, reasons=self.reasons, embeddings=self.embeddings)
        folder.mkdir(parents=True, exist_ok=True)
        content = buffer.getvalue()
        files.write_bytes(folder / f"{hashlib.sha256(content).hexdigest()[:16]}.npz", content)


def _parts(folder: Path, width: int) -> Iterator[_Part]:
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                part = _Part(**{name: arrays[name] for name in arrays.files})
            if part.embeddings.shape != (len(part.files), width):
                raise ValueError(f"embeddings {part.embeddings.shape} for {len(part.files)} files")
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            LOG.warning("%s: damaged (%s); its pictures are embedded again", path, error)
            path.unlink(missing_ok=True)
            continue
        yield part


def _computed(waiting: list[Path], stamps: Mapping[Path, str], encoder: Encoder, workers: int) -> Iterator[_Part]:
    batches = [waiting[start : start + BATCH] for start in range(0, len(waiting), BATCH)]
    decoded = in_order(_decode, encoder.images, batches, workers)
    embedded = (_part(batch, stamps, encoder) for batch in decoded)
    some, begun = list[_Part](), time.monotonic()
    for part in shown(embedded, "pictures embedded", len(waiting), lambda part: len(part.files)):
        some.append(part)
        if sum(len(part.files) for part in some) >= PART or time.monotonic() - begun > SECONDS:
            yield _joined(some)
            some, begun = [], time.monotonic()
    if some:
        yield _joined(some)


def _part(batch: _Decoded, stamps: Mapping[Path, str], encoder: Encoder) -> _Part:
    embeddings = np.zeros((len(batch.files), encoder.width), np.float16)
    if len(batch.pixels):
        embeddings[[not reason for reason in batch.reasons]] = encoder.embed(batch.pixels)
    names = np.array([os.fsencode(file) for file in batch.files])
    return _Part(names, np.array([stamps[file] for file in batch.files]), np.array(batch.reasons), embeddings)


def _joined(parts: list[_Part]) -> _Part:
    names = [field.name for field in dataclasses.fields(_Part)]
    return _Part(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _decode(images: ImageFormat, batch: list[Path]) -> _Decoded:
    """In a worker."""
    pixels, reasons = [], []
    for file in batch:
        try:
            pixels.append(images.picture(open_image(file), fast_resize).pixels[0])
            reasons.append("")
        except RecordError as error:
            reasons.append(error.reason)
    shape = (len(pixels), images.size, images.size, 3)
    return _Decoded(batch, reasons, np.array(pixels, np.uint8).reshape(shape))


def _report(listed: list[Path], reasons: list[str | None]) -> None:
    counts = collections.Counter(reason for reason in reasons if reason)
    if counts:
        first = next(file for file, reason in zip(listed, reasons, strict=True) if reason)
        said = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
        LOG.warning("pictures that cannot be compared: %s (the first: %s)", said, first)
