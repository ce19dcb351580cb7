"""Picture files → pixels of the encoder's size, as CLIP's and LLaVA's preprocessing makes them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.types import CLIP_MEAN, CLIP_STD

MAX_PIXELS = 64_000_000
ASPECTS = ("pad", "square")


def open_image(path: str | Path) -> Image.Image:
    """The picture as RGB.

    Raises:
      RecordError: the file is missing, no picture, damaged, or larger than MAX_PIXELS (checked before decoding).
    """
    try:
        # Pillow warns from its own, larger limit on; ours is checked here.
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise RecordError(f"{path}: {image.width}x{image.height} pixels are more than {MAX_PIXELS}")
            return image.convert("RGB")
    except FileNotFoundError:
        raise RecordError(f"{path}: no such picture") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise RecordError(f"{path}: not a readable picture ({error})") from None


def fit_image(
    image: Image.Image, aspect: str, image_size: int, mean: tuple[float, float, float] = CLIP_MEAN
) -> np.ndarray:
    """uint8[image_size, image_size, 3]: the picture brought to the encoder's size.

    Args:
      image: any mode; converted to RGB.
      aspect: "pad" pads the shorter side with the mean colour to a square first (LLaVA-1.5's stage 2); "square" takes
        the central square and loses the sides (stage 1).
      image_size: height and width of the result in pixels.
      mean: colour of the padding, of pixels in [0, 1].

    Raises:
      ValueError: unknown aspect.
    """
    check_aspect(aspect)
    image = image.convert("RGB")
    if aspect == "pad":
        image = _pad_to_square(image, tuple(int(channel * 255) for channel in mean))
    image = _resize_short_side(image, image_size)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))


def check_aspect(aspect: str) -> None:
    """Raises ValueError where there is no such rule; the message lists those there are."""
    if aspect not in ASPECTS:
        raise ValueError(f"aspect {aspect!r} is not one of {', '.join(ASPECTS)}")


def _pad_to_square(image: Image.Image, color: tuple[int, ...]) -> Image.Image:
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _resize_short_side(image: Image.Image, size: int) -> Image.Image:
    """Bicubic, aspect kept, the longer side rounded down: CLIP's resize."""
    short, long = sorted(image.size)
    if short == size:
        return image
    other = int(size * long / short)
    shape = (size, other) if image.width <= image.height else (other, size)
    return image.resize(shape, Image.Resampling.BICUBIC)


def preprocess_image(
    image: Image.Image,
    aspect: str = "pad",
    image_size: int = 336,
    mean: tuple[float, float, float] = CLIP_MEAN,
    std: tuple[float, float, float] = CLIP_STD,
) -> np.ndarray:
    """float32[image_size, image_size, 3], normalised: `fit_image`, then (pixels / 255 - mean) / std.

    Raises:
      ValueError: unknown aspect.
    """
    pixels = fit_image(image, aspect, image_size, mean).astype(np.float32) / 255
    return (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
