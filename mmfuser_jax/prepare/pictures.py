"""One look at a picture file: does it decode, how large is it, and what is odd about it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings

from PIL import ExifTags, Image, ImageOps

from mmfuser_jax.data.images import opened
from mmfuser_jax.data.records import ImageFile, RecordError

NOTES = ("turned", "cmyk", "16_bit", "palette", "grey", "alpha", "other_mode", "frames", "warning")
"""What may be odd about a usable picture: an orientation flag (EXIF) that turns it, a mode that becomes RGB with some
loss, further frames that nobody sees, and whatever the decoder warned of."""

_MODE_NOTES = {
    "RGB": None, "CMYK": "cmyk", "P": "palette", "PA": "palette", "1": "grey", "L": "grey", "LA": "alpha",
    "RGBA": "alpha", "I": "16_bit", "I;16": "16_bit", "I;16B": "16_bit",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Facts:
    """A usable picture.

    Attributes:
      width, height: in pixels, as stored.
      kind: file format and mode, as in "JPEG RGB".
      size: bytes of the file.
      digest: 64 bits of its content's hash.
      notes: some of NOTES.
    """

    width: int
    height: int
    kind: str
    size: int
    digest: int
    notes: tuple[str, ...]


def digest(content: bytes) -> int:
    """64 bits that tell contents apart: among a million, two agree by chance once in 40 million data sets."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def read_picture(file: ImageFile) -> bytes:
    """The content of a picture's file.

    Raises:
      RecordError: it cannot be read.
    """
    if isinstance(file, bytes):
        return file
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise RecordError(f"{file}: no such picture", "missing_image") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{file}: not a readable picture ({error})", "bad_image") from None


def examine(file: ImageFile) -> Facts:
    """Decodes a picture as `data.images.open_image` does, so that what passes here can be trained on.

    JPEGs are decoded at an eighth of their size: all of the file is read and little is computed.

    Raises:
      RecordError: it cannot be used.
    """
    content = read_picture(file)
    name = f"a picture of {len(content):,} bytes" if isinstance(file, bytes) else os.fspath(file)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with opened(content) as image:
                width, height, kind = *image.size, f"{image.format} {image.mode}"
                notes = {_MODE_NOTES.get(image.mode, "other_mode")}
                _decode(image)
                if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                    notes.add("turned")
                if getattr(image, "is_animated", False):
                    notes.add("frames")
        except RecordError as error:
            raise RecordError(f"{name}:{str(error).partition(':')[2]}", error.reason) from None
    if warned:
        notes.add("warning")
    ordered = tuple(note for note in NOTES if note in notes)
    return Facts(width, height, kind, len(content), digest(content), ordered)


def _decode(image: Image.Image) -> None:
    image.draft("RGB", (image.width // 8, image.height // 8))
    upright = ImageOps.exif_transpose(image)
    if not upright.mode.startswith("I;16"):
        upright.convert("RGB")
