"""Tiles of a high-resolution picture (LLaVA-1.6, "anyres"): how many, and the order in which their patches are read.

A picture becomes a *base* tile, the whole of it squeezed into one square, and a grid of further tiles cut from the
picture enlarged to one of a few resolutions, the *pinpoints*, with black borders where the aspect differs. The vision
encoder sees every tile alone. Merging their features again is a choice of which patch comes where, so it is worked out
here, on the host, as an index: the model only gathers.

    columns, rows: tiles of the grid        grid_side: patches along a tile        P = grid_side**2 patches of a tile
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmfuser_jax.types import NEWLINE_SLOT

Pinpoints = Sequence[Sequence[int]]
"""Resolutions as (width, height) in pixels. Hugging Face's LLaVA-NeXT writes them the other way round."""

GRID_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""LLaVA-1.6's own, for an encoder of 336 pixels."""

MERGES = ("flat", "spatial", "spatial_unpad")


def best_resolution(size: tuple[int, int], pinpoints: Pinpoints) -> tuple[int, int]:
    """(width, height) of the pinpoint that suits a picture best, by LLaVA's `select_best_resolution`.

    The one that shows most of the picture's own pixels; among equals the one that wastes least; then the first.

    Args:
      size: (width, height) of the picture in pixels.
      pinpoints: resolutions to choose from, (width, height) each.

    Raises:
      ValueError: an empty picture, no pinpoints, or some that are not two positive numbers.
    """
    width, height = size
    if min(size) < 1:
        raise ValueError(f"a picture of {width}x{height} pixels cannot be tiled")
    if not pinpoints:
        raise ValueError("no grid pinpoints: anyres needs at least one (width, height)")
    for pinpoint in pinpoints:
        if len(pinpoint) != 2 or min(pinpoint) < 1:
            raise ValueError(f"grid pinpoint {tuple(pinpoint)} is not a (width, height) in pixels")

    def merit(pinpoint: Sequence[int]) -> tuple[int, int]:
        scale = min(pinpoint[0] / width, pinpoint[1] / height)
        # Enlarging shows no more than there is.
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - pinpoint[0] * pinpoint[1]

    best_width, best_height = max(pinpoints, key=merit)
    return best_width, best_height


def tile_grid(size: tuple[int, int], pinpoints: Pinpoints, image_size: int) -> tuple[int, int]:
    """(columns, rows) of the tiles of a picture, its base tile not counted.

    Args:
      size, pinpoints: see `best_resolution`.
      image_size: side of a tile in pixels.

    Raises:
      ValueError: see `best_resolution`; or a pinpoint is not whole tiles.
    """
    width, height = best_resolution(size, pinpoints)
    for pinpoint in pinpoints:
        if any(side % image_size for side in pinpoint):
            raise ValueError(f"grid pinpoint {tuple(pinpoint)} is not a multiple of the image size {image_size}")
    return width // image_size, height // image_size


def image_slots(
    size: tuple[int, int], *, grid_side: int, image_size: int, pinpoints: Pinpoints | None, merge: str
) -> np.ndarray:
    """int32[slots]: where each image token of one picture comes from, in reading order.

    Entries number the picture's patches, tile by tile as `images.fit_tiles` makes them: the base tile has 0 … P-1, the
    first tile of the grid P … 2P-1, and so on, row-major. `NEWLINE_SLOT` stands where the `image_newline` vector goes.

    Args:
      size: (width, height) of the picture in pixels, before any resizing.
      grid_side: patches along the side of a tile; P = grid_side**2.
      image_size: side of a tile in pixels.
      pinpoints: see `best_resolution`; None for a picture that was not tiled and has its base only.
      merge: what follows the base tile (LLaVA's `mm_patch_merge_type`). "flat": the other tiles one by one. "spatial":
        the rows of patches of the whole grid. "spatial_unpad": the same without the rows or columns that show only
        border, each row ended by a newline; a base alone is ended by one too. A picture thinner than a patch can lose
        every row.

    Raises:
      ValueError: unknown merge, or see `tile_grid`.

    >>> image_slots((2, 1), grid_side=2, image_size=4, pinpoints=[(8, 4)], merge="spatial_unpad")
    [0, 1, 2, 3,  4, 5, 8, 9, -2,  6, 7, 10, 11, -2]
    """
    if merge not in MERGES:
        raise ValueError(f"merge {merge!r} is not one of {', '.join(MERGES)}")
    patches = grid_side**2
    base = np.arange(patches, dtype=np.int32)
    if pinpoints is None:
        return _end_rows(base[None]).ravel() if merge == "spatial_unpad" else base
    columns, rows = tile_grid(size, pinpoints, image_size)
    grid: np.ndarray = patches + np.arange(columns * rows * patches, dtype=np.int32)
    if merge != "flat":
        tiles = grid.reshape(rows, columns, grid_side, grid_side)
        grid = tiles.transpose(0, 2, 1, 3).reshape(rows * grid_side, columns * grid_side)
    if merge == "spatial_unpad":
        grid = _end_rows(_without_border(grid, size))
    return np.concatenate([base, grid.ravel()])


def _end_rows(raster: np.ndarray) -> np.ndarray:
    return np.pad(raster, ((0, 0), (0, 1)), constant_values=NEWLINE_SLOT)


def _without_border(raster: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The rows (or columns) of a grid of patches that show a picture of this (width, height), by LLaVA's `unpad_image`.

    Rounded down at once, as LLaVA does. Hugging Face rounds to seven digits before, which now and then shows two more.
    """
    height, width = raster.shape
    if size[0] / size[1] > width / height:
        border = (height - int(size[1] * (width / size[0]))) // 2
        return raster[border : height - border]
    border = (width - int(size[0] * (height / size[1]))) // 2
    return raster[:, border : width - border]
