"""One file of a build: written beside its place, read back, and moved there whole."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmfuser_jax.data.images import open_image
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.data.resize import FILTER
from mmfuser_jax.data.sources import Source
from mmfuser_jax.data.tfds_records import WRITER_OPTIONS, count_records, parse, serialize
from mmfuser_jax.prepare.pictures import digest, read_picture
from mmfuser_jax.prepare.plan import Shard, pictures_digest

JPEG_QUALITY = 95
FEW_COLORS = 256


@dataclasses.dataclass(frozen=True)
class Job:
    """What writing a shard needs besides the source: where, under which name, and how large pictures may be."""

    folder: Path
    dataset: str
    max_side: int
    shard: Shard


def write_shard(source: Source, job: Job) -> tuple[str, dict[str, Any]]:
    """Writes a shard's file, and returns its name and its entry in the manifest.

    The same bytes every time. Whatever stops it leaves at most a file whose name begins with a dot and ends with .tmp.

    Raises:
      RuntimeError: rows or pictures are not what they were when the build was planned, or what was written does not read
        back.
    """
    name = job.shard.file(job.dataset)
    temporary = job.folder / f".{name}.{os.getpid()}.tmp"
    try:
        digests = _write_records(source, job, temporary)
        _read_back(temporary, name, digests)
        with temporary.open("rb+") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        size = temporary.stat().st_size
        os.replace(temporary, job.folder / name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return name, {
        "split": job.shard.split,
        "sha256": checksum,
        "bytes": size,
        "records": len(job.shard.rows),
        "first_row": job.shard.rows[0],
        "last_row": job.shard.rows[-1],
    }


def _write_records(source: Source, job: Job, path: Path) -> list[int]:
    """Writes a shard's records to `path`; returns a hash of each."""
    from array_record.python.array_record_module import ArrayRecordWriter

    written, pictures = [], []
    writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
    try:
        for row in job.shard.rows:
            record = source[row]
            contents = [read_picture(image) for image in record.images]
            pictures += [digest(content) for content in contents]
            example = serialize(record, [shrink(content, job.max_side) for content in contents])
            written.append(digest(example))
            writer.write(example)
    except RecordError as error:
        raise RuntimeError(f"the source has changed since the build was planned ({error}); {_ANEW}") from None
    finally:
        writer.close()
    if pictures_digest(np.array(pictures, "u8")) != job.shard.pictures:
        raise RuntimeError(
            f"pictures of rows {job.shard.rows[0]} to {job.shard.rows[-1]} have changed since the build was planned; {_ANEW}"
        )
    return written


_ANEW = "delete its folder and build anew"


def _read_back(path: Path, name: str, digests: list[int]) -> None:
    """Compares every record with what was written, and opens the pictures of the first and the last."""
    from array_record.python.array_record_module import ArrayRecordReader

    if (count := count_records(path)) != len(digests):
        raise RuntimeError(f"{name}: wrote {len(digests)} records, {count} are there; is the disk full?")
    reader = ArrayRecordReader(str(path))
    try:
        for place, expected in enumerate(digests):
            (example,) = reader.read([place])
            if digest(example) != expected:
                raise RuntimeError(f"{name}: record {place} reads back as something else; is the disk damaged?")
            if place in (0, len(digests) - 1):
                for image in parse(example, f"{name}:{place}").images:
                    open_image(image)
    finally:
        reader.close()


def shrink(content: bytes, max_side: int) -> bytes:
    """A picture's file with no side longer than `max_side` pixels (0: any). Files of smaller pictures stay as they are.

    A larger one is turned upright, made RGB and resized (bicubic), and stored as PNG where it was a PNG of at most 256
    colours (a drawing, whose lines JPEG would blur), else as JPEG of quality 95 with full colour resolution.
    """
    with Image.open(io.BytesIO(content)) as header:
        width, height = header.size
        png = header.format == "PNG"
    if not max_side or max(width, height) <= max_side:
        return content
    image = open_image(content)
    drawing = png and image.getcolors(FEW_COLORS) is not None
    scale = max_side / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), FILTER)
    file = io.BytesIO()
    if drawing:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()
