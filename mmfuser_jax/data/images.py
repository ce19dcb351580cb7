"""Picture files → pixels of the encoder's size, as CLIP's and LLaVA's preprocessing makes them."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mmfuser_jax.data.anyres import GRID_PINPOINTS, Pinpoints, tile_grid
from mmfuser_jax.data.records import ImageFile, RecordError
from mmfuser_jax.data.resize import FILTER, Resize, exact_resize
from mmfuser_jax.types import CLIP_MEAN, CLIP_STD

MAX_PIXELS = 64_000_000
ASPECTS = ("pad", "square", "anyres")
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened. Pillow knows more, some of which start other programs."""
PLACE_IN_MEMORY = re.compile(r" <_io[^>]*>")
FILTER_SUPPORT = 2
"""Pixels on each side that the filter looks at where it does not shrink."""


def open_image(file: ImageFile | str) -> Image.Image:
    """The picture as RGB, upright, the first frame of an animated one.

    Of a picture with an orientation flag (EXIF) the reference shows the sensor's view; people, and the annotators of
    the data, see it turned. 16-bit grey keeps its upper 8 bits, where Pillow alone would turn all above 255 white.

    Args:
      file: a path, or the content of a file.

    Raises:
      RecordError: the file is missing, no picture, damaged, or larger than MAX_PIXELS (checked before decoding).
    """
    with opened(file) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        image.load()
        return _as_rgb(image)


def upright_size(file: ImageFile | str) -> tuple[int, int]:
    """(width, height) of the picture that `open_image` returns, from the header alone.

    Raises:
      RecordError: as `open_image`; damage behind the header goes unnoticed.
    """
    with opened(file) as image:
        # Of a TIFF, Pillow gives the upright size already.
        turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return image.size[::-1] if turned else image.size


@contextlib.contextmanager
def opened(file: ImageFile | str) -> Iterator[Image.Image]:
    """The picture with only its header read; whatever goes wrong with it inside the block is a RecordError.

    Raises:
      RecordError: see `open_image`.
    """
    name = f"a picture of {len(file):,} bytes" if isinstance(file, bytes) else str(file)
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_known_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height}")
            yield image
    except FileNotFoundError:
        raise RecordError(f"{name}: no such picture", "missing_image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RecordError(f"{name}: more than {MAX_PIXELS:,} pixels ({error})", "image_size") from None
    except Exception as error:  # decoders meet broken files with any error there is
        detail = PLACE_IN_MEMORY.sub("", str(error)) or type(error).__name__
        raise RecordError(f"{name}: not a readable picture ({detail})", "bad_image") from None


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """FORMATS without those that this build of Pillow lacks, at which it would fail."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def fit_image(
    image: Image.Image,
    aspect: str,
    image_size: int,
    mean: tuple[float, float, float] = CLIP_MEAN,
    resize: Resize = exact_resize,
) -> np.ndarray:
    """uint8[image_size, image_size, 3]: the picture brought to the encoder's size.

    Args:
      image: any mode; converted to RGB.
      aspect: "pad" pads the shorter side with the mean colour to a square first (LLaVA-1.5's stage 2); "square" takes
        the central square and loses the sides (stage 1).
      image_size: height and width of the result in pixels.
      mean: colour of the padding, of pixels in [0, 1].
      resize: how "pad" resizes, see `resize.py`.

    Raises:
      ValueError: unknown aspect, or one that makes tiles.
      RecordError: "square" has no square to take: one row of pixels (LLaVA's processor fails there too), or a picture so
        elongated that it would grow beyond MAX_PIXELS.
    """
    check_aspect(aspect)
    if aspect == "anyres":
        raise ValueError("aspect 'anyres' makes several tiles, fit_image one; see fit_tiles")
    image = _as_rgb(image)
    if aspect == "pad":
        return np.asarray(_fit_padded(image, image_size, tuple(int(channel * 255) for channel in mean), resize))
    if image.height == 1 or image_size**2 * max(image.size) > MAX_PIXELS * min(image.size):
        raise RecordError(
            f"{image.width}x{image.height} pixels are too elongated for aspect 'square'; 'pad' takes them", "image_size"
        )
    image = _resize_short_side(image, image_size)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))


def fit_tiles(image: Image.Image, image_size: int, grid_pinpoints: Pinpoints = GRID_PINPOINTS) -> np.ndarray:
    """uint8[tiles, image_size, image_size, 3]: a picture at high resolution, as tiles of the encoder's size.

    First the base, the whole picture stretched to one square. Then, row by row, the tiles of the picture resized into
    the `anyres.best_resolution`, aspect kept, centred on black. LLaVA-1.6's `process_anyres_image`.

    Args:
      image: any mode; converted to RGB.
      image_size: side of a tile in pixels.
      grid_pinpoints: resolutions to choose from, (width, height) each, whole tiles.

    Raises:
      ValueError: no pinpoints, or some that are not whole tiles.
    """
    image = _as_rgb(image)
    columns, rows = tile_grid(image.size, grid_pinpoints, image_size)
    base = np.asarray(image.resize((image_size, image_size), FILTER))
    pixels = np.asarray(_pad_into(image, (columns * image_size, rows * image_size)))
    tiles = pixels.reshape(rows, image_size, columns, image_size, 3).swapaxes(1, 2)
    return np.concatenate([base[None], tiles.reshape(-1, image_size, image_size, 3)])


def check_aspect(aspect: str) -> None:
    """Raises ValueError where there is no such rule; the message lists those there are."""
    if aspect not in ASPECTS:
        raise ValueError(f"aspect {aspect!r} is not one of {', '.join(ASPECTS)}")


def _as_rgb(image: Image.Image) -> Image.Image:
    """The picture itself where it is RGB already: Pillow would copy it, which costs a good part of decoding."""
    return image if image.mode == "RGB" else image.convert("RGB")


def _fit_padded(image: Image.Image, size: int, color: tuple[int, ...], resize: Resize) -> Image.Image:
    """The picture on a square of `color`, resized to `size`, bit for bit as if the whole square were resized.

    Only the lines that show something of the picture are: those from `begin` to `end`, rounded outwards so that both
    fall on exact binary fractions of a pixel in the square. Lines of nothing but padding keep its colour.
    """
    side, short = max(image.size), min(image.size)
    before = (side - short) // 2
    reach = FILTER_SUPPORT * max(side / size, 1.0)
    step = size // (size & -size)  # the odd part: multiples of it, times side / size, are sixteenths and the like
    begin = max(0, math.floor((before - reach) * size / side) // step * step)
    end = min(size, -(-math.ceil((before + short + reach) * size / side) // step) * step)
    first = max(0, math.floor(begin * side / size - reach) - 1)
    last = min(side, math.ceil(end * side / size + reach) + 1)
    low, high = begin * side / size - first, end * side / size - first
    if image.width < image.height:
        canvas = Image.new("RGB", (last - first, side), color)
        canvas.paste(image, (before - first, 0))
        shown, place = resize(canvas, (end - begin, size), (low, 0.0, high, float(side))), (begin, 0)
    else:
        canvas = Image.new("RGB", (side, last - first), color)
        canvas.paste(image, (0, before - first))
        shown, place = resize(canvas, (size, end - begin), (0.0, low, float(side), high)), (0, begin)
    square = Image.new("RGB", (size, size), color)
    square.paste(shown, place)
    return square


def _resize_short_side(image: Image.Image, size: int) -> Image.Image:
    """Bicubic, aspect kept, the longer side rounded down: CLIP's resize."""
    short, long = sorted(image.size)
    if short == size:
        return image
    other = int(size * long / short)
    shape = (size, other) if image.width <= image.height else (other, size)
    return image.resize(shape, FILTER)


def _pad_into(image: Image.Image, resolution: tuple[int, int]) -> Image.Image:
    """As large as fits, sides rounded up, on black."""
    width, height = resolution
    scale = min(width / image.width, height / image.height)
    shape = min(math.ceil(image.width * scale), width), min(math.ceil(image.height * scale), height)
    canvas = Image.new("RGB", resolution)
    canvas.paste(image.resize(shape, FILTER), ((width - shape[0]) // 2, (height - shape[1]) // 2))
    return canvas


def preprocess_image(
    image: Image.Image,
    aspect: str = "pad",
    image_size: int = 336,
    mean: tuple[float, float, float] = CLIP_MEAN,
    std: tuple[float, float, float] = CLIP_STD,
    grid_pinpoints: Pinpoints = GRID_PINPOINTS,
) -> np.ndarray:
    """float32[image_size, image_size, 3], normalised: `fit_image`, then (pixels / 255 - mean) / std.

    With aspect "anyres" float32[tiles, image_size, image_size, 3], from `fit_tiles` with these pinpoints.

    Raises:
      ValueError: unknown aspect, or see `fit_image` and `fit_tiles`.
    """
    if aspect == "anyres":
        levels = fit_tiles(image, image_size, grid_pinpoints)
    else:
        levels = fit_image(image, aspect, image_size, mean)
    return (levels.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
