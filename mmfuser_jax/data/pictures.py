"""A picture as the model takes it: pixels of one or more tiles, and the order in which its image tokens are read."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from mmfuser_jax.data.anyres import image_slots, tile_grid
from mmfuser_jax.data.images import fit_image, fit_tiles, open_image, upright_size
from mmfuser_jax.data.records import ImageFile, RecordError
from mmfuser_jax.data.resize import Resize, exact_resize, fast_resize


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
      pixels: uint8[tiles, height, width, 3].
      slots: int32[k]; for each of its k image tokens, which of its tiles*P features it shows, or NEWLINE_SLOT.
    """

    pixels: np.ndarray
    slots: np.ndarray

    @property
    def tiles(self) -> int:
        """How many tiles it is cut into; 1 where it is not cut."""
        return len(self.pixels)


@dataclasses.dataclass(frozen=True)
class Outline:
    """A picture that is not decoded yet: its place in a row follows from its size alone.

    Rows can so be packed from many examples while pixels are held only for those that leave.

    Attributes:
      file: the picture.
      tiles, slots: as in `Picture`.
    """

    file: ImageFile
    tiles: int
    slots: np.ndarray


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """How pictures become pixels and image tokens.

    Attributes:
      aspect: "pad" or "square" (one tile, see `images.fit_image`) or "anyres" (tiles, see `images.fit_tiles`).
      size: height and width of a tile in pixels.
      mean: padding colour, of pixels in [0, 1].
      tokens: P, image tokens of a tile.
      grid_pinpoints: (width, height) sizes for "anyres".
      tile_merge: order of a tiled picture's tokens, see `anyres.image_slots`.
    """

    aspect: str
    size: int
    mean: tuple[float, float, float]
    tokens: int
    grid_pinpoints: tuple[tuple[int, int], ...] = ()
    tile_merge: str = "flat"

    def picture(self, image: Image.Image, resize: Resize = exact_resize) -> Picture:
        """The picture brought to size; any mode. `resize` as in `images.fit_image`.

        Raises:
          ValueError: it cannot be, see `images.fit_image`; a RecordError where that is the picture's fault.
        """
        if self.aspect == "anyres":
            pixels = fit_tiles(image, self.size, self.grid_pinpoints)
        else:
            pixels = fit_image(image, self.aspect, self.size, self.mean, resize)[None]
        return Picture(pixels, self.slots(image.size, len(pixels)))

    def outline(self, file: ImageFile) -> Outline:
        """The picture undecoded. Of pictures that are not cut into tiles nothing is read.

        Raises:
          RecordError: "anyres" needs its size, and the header cannot be read.
        """
        if self.aspect != "anyres":
            return Outline(file, 1, np.arange(self.tokens, dtype=np.int32))
        size = upright_size(file)
        columns, rows = tile_grid(size, self.grid_pinpoints, self.size)
        tiles = 1 + columns * rows
        return Outline(file, tiles, self.slots(size, tiles))

    def decode(self, outline: Outline) -> Picture:
        """The picture of an outline, resized by the fast way.

        Raises:
          RecordError: it cannot be read or brought to size, or does not fit its outline.
        """
        picture = self.picture(open_image(outline.file), fast_resize)
        if picture.tiles != outline.tiles or not np.array_equal(picture.slots, outline.slots):
            raise RecordError("the picture is of another size than its header said, or has changed", "bad_image")
        return picture

    def slots(self, size: tuple[int, int], tiles: int) -> np.ndarray:
        """Order of the image tokens, int32[k], of a picture of (width, height) cut into `tiles`.

        Raises:
          ValueError: a picture of this size is cut into another number of tiles.
        """
        if self.aspect != "anyres" or self.tile_merge == "flat":
            return np.arange(tiles * self.tokens, dtype=np.int32)
        columns, rows = tile_grid(size, self.grid_pinpoints, self.size)
        if tiles not in (1, 1 + columns * rows):
            raise ValueError(f"a picture of {size[0]}x{size[1]} has {1 + columns * rows} tiles, not {tiles}")
        return image_slots(
            size,
            grid_side=round(self.tokens**0.5),
            image_size=self.size,
            pinpoints=self.grid_pinpoints if tiles > 1 else None,
            merge=self.tile_merge,
        )
