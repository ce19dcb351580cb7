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
      hash: 64 bits, signed; few of them differ between pictures that look the same.
      fault: of `reasons.PICTURES`, where a filter refuses it; else "".
    """

    sha: str
    suffix: str
    width: int
    height: int
    bytes: int
    hash: int
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
    picture.thumbnail((SMALL, SMALL), Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey = np.asarray(picture.convert("L"), np.float32)
    fault = _fault(width, height, len(content), grey, filters) if filters else ""
    sha = hashlib.sha256(content).hexdigest()
    return Inspected(sha, suffix, width, height, len(content), difference_hash(picture), fault)


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


def nearest(bits: int, others: np.ndarray) -> tuple[int, int]:
    """(place, differing bits) of the hash in int64[n] that is nearest to one; (-1, 65) where there is none."""
    if not len(others):
        return -1, 65
    differing = np.bitwise_count((others ^ np.int64(bits)).view(np.uint64))  # of signed numbers it ignores the sign
    place = int(differing.argmin())
    return place, int(differing[place])
