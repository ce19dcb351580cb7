"""One picture, looked at: whether it can be used, what it looks like to a hash, and whether it shows anything."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from mmfuser_jax.data.images import open_image, opened
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct.config import Filters
from mmfuser_jax.prepare.pictures import read_picture

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
"""Names of files in the store, by format; others get their format's name."""

SMALL = 256
"""Pixels of the longer side of the copy that is looked at."""

CELLS, DIFFERENT = 48, 20
"""Pictures whose hashes are near are compared by grey values of so many parts each way; where one part differs as much, they
are not the same. Of pictures made half as wide and high, or saved as JPEG files of quality 30, none differs by more than 18.
Of tables with other numbers in every field, one part does by 21 at least, even in small print; of forms that differ in a few
small words only, often none does, and they count as the same."""

Cells = bytes
"""These grey values, row by row."""

READABLE = 64_000_000
"""Bytes beyond which a file is not even read, whatever the filters allow."""


@dataclasses.dataclass(frozen=True)
class Inspected:
    """A picture that can be opened.

    Attributes:
      sha: SHA-256 of its file.
      suffix: for its name in the store.
      width, height: as people see it, in pixels.
      bytes: of the file.
      hash: 64 bits, signed; few of them differ between pictures that look the same. But of two that are mostly white, too.
      cells: by which such two are told apart.
      fault: of `reasons.PICTURES`, where a filter refuses it; else "".
    """

    sha: str
    suffix: str
    width: int
    height: int
    bytes: int
    hash: int
    cells: Cells
    fault: str


def read(file: Path) -> bytes:
    """The content of a picture's file.

    Raises:
      RecordError: it is not there, not readable, or larger than READABLE.
    """
    if file.exists() and file.stat().st_size > READABLE:
        raise RecordError(f"{file}: more than {READABLE:,} bytes", "too_many_bytes")
    return read_picture(file)


def inspect(content: bytes, filters: Filters | None) -> Inspected:
    """Looks at the content of a picture's file.

    Args:
      content: all of the file.
      filters: limits; None takes whatever can be opened.

    Raises:
      RecordError: it cannot be opened.
    """
    with opened(content) as header:
        suffix = SUFFIXES.get(header.format or "", f".{(header.format or 'bin').lower()}")
    picture = open_image(content)
    width, height = picture.size
    small = _small(picture)
    fault = _fault(width, height, len(content), np.asarray(small, np.float32), filters) if filters else ""
    sha = hashlib.sha256(content).hexdigest()
    return Inspected(sha, suffix, width, height, len(content), difference_hash(small), _cells(small), fault)


def cells_of(file: Path) -> Cells:
    """`Inspected.cells` of a picture's file.

    Raises:
      RecordError: it cannot be opened.
    """
    return _cells(_small(open_image(file)))


def _small(picture: Image.Image) -> Image.Image:
    """What is looked at of a picture, in grey."""
    picture.thumbnail((SMALL, SMALL), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return picture.convert("L")


def _cells(small: Image.Image) -> Cells:
    """Weighs pixels by a window that reaches into the neighbouring parts, so that a slight shift changes little."""
    return small.resize((CELLS, CELLS), Image.Resampling.HAMMING).tobytes()


def _fault(width: int, height: int, size: int, grey: np.ndarray, limits: Filters) -> str:
    short, long = sorted((width, height))
    brightness = float(grey.mean())
    faults = {
        "too_many_bytes": size > limits.max_megabytes * 1e6,
        "too_small": short < limits.min_side,
        "too_long": long > limits.max_aspect * short,
        "too_dark": brightness < limits.min_brightness,
        "too_bright": brightness > limits.max_brightness,
        "no_contrast": float(grey.std()) < limits.min_contrast,
    }
    fault = next((name for name, present in faults.items() if present), "")
    return fault or ("blurry" if sharpness(grey) < limits.min_sharpness else "")


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian of grey values [height, width]; 0 for pictures too small to have one."""
    if min(grey.shape) < 3:
        return 0.0
    inner = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner).var())


def difference_hash(picture: Image.Image) -> int:
    """Of an 8 × 8 grid, whether grey grows to the right (dHash), as a signed number of 64 bits."""
    small = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int(np.packbits(small[:, 1:] > small[:, :-1]).view(">i8")[0])


def near_places(bits: int, hashes: np.ndarray, most: int) -> np.ndarray:
    """Places of the hashes in int64[n] that differ from one by so many bits at most."""
    differing = np.bitwise_count((hashes ^ np.int64(bits)).view(np.uint64))  # of signed numbers it ignores the sign
    return np.flatnonzero(differing <= most)


def same(cells: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether a picture looks the same as others, bool[...], by some of its `Inspected.cells`, uint8[c], and theirs, uint8[..., c]."""
    return np.asarray((np.maximum(others, cells) - np.minimum(others, cells)).max(axis=-1) < DIFFERENT)
