"""Pixels against the reference's, level by level; the order of tiled patches against Hugging Face's LLaVA-NeXT."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.llava_next import modeling_llava_next as llava_next

from mmfuser_jax.data import images, preprocess_image, resize
from mmfuser_jax.data.anyres import GRID_PINPOINTS, MERGES, best_resolution, image_slots, tile_grid
from mmfuser_jax.data.images import fit_image, fit_tiles
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.types import CLIP_MEAN, CLIP_STD, NEWLINE_SLOT
from tests.conftest import GOLDEN

FOLDER = GOLDEN / "text"
SIZE = 112
PINPOINTS = [[112, 224], [224, 112], [224, 224]]
PICTURES = {
    "0": "0_64x64.png", "1": "1_100x40.png", "2": "2_37x211.png", "3": "3_336x336.png", "4": "4_500x375.png",
    "5": "5_640x1.png", "mode_L": "mode_L.png", "mode_RGBA": "mode_RGBA.png", "mode_P": "mode_P.png",
    "mode_CMYK": "mode_CMYK.tiff", "mode_I16": "mode_I16.png",
}  # fmt: skip
SIZED = ("0", "1", "2", "3", "4", "5")
REFUSED = "5/square"
CASES = [f"{name}/{aspect}" for name in SIZED for aspect in ("square", "pad", "anyres")]
CASES += [f"{name}/pad" for name in PICTURES if name not in SIZED]
CASES.remove(REFUSED)


@cache
def golden() -> dict[str, np.ndarray]:
    """The reference's normalised pixels, channels first."""
    with np.load(FOLDER / "pixels.npz") as file:
        return dict(file)


def picture(name: str) -> Image.Image:
    """In the mode of the file."""
    with Image.open(FOLDER / "images" / PICTURES[name]) as image:
        return image.copy()


def levels(values: np.ndarray) -> np.ndarray:
    """Normalised pixels, channels last → 0 … 255."""
    return (values * np.asarray(CLIP_STD) + np.asarray(CLIP_MEAN)) * 255


def expected(case: str) -> np.ndarray:
    return levels(np.moveaxis(golden()[case], -3, -1))


def ours(case: str, pinpoints=PINPOINTS) -> np.ndarray:
    name, aspect = case.split("/")
    return levels(preprocess_image(picture(name), aspect, SIZE, grid_pinpoints=pinpoints))


def close(actual: np.ndarray, wanted: np.ndarray) -> bool:
    """Within one level everywhere, Pillow versions round differently; and almost everywhere the same."""
    error = np.abs(actual - wanted)
    return bool(error.max() <= 1.001 and error.mean() <= 0.05)


def test_no_golden_case_is_left_out():
    assert sorted(golden()) == sorted([*CASES, REFUSED + "/error"])


@pytest.mark.parametrize("case", CASES)
def test_pixels_are_the_references(case):
    actual, wanted = ours(case), expected(case)
    assert actual.shape == wanted.shape
    assert close(actual, wanted)


def test_a_picture_too_elongated_for_a_square_is_refused():
    assert golden()[REFUSED + "/error"] == "ValueError"
    with pytest.raises(RecordError, match="640x1 pixels are too elongated for aspect 'square'"):
        ours(REFUSED)
    # The reference fails on a single row only; a column it would enlarge to gigabytes.
    assert fit_image(Image.new("RGB", (1, 640)), "square", SIZE).shape == (SIZE, SIZE, 3)
    with pytest.raises(RecordError, match="1x60000"):
        fit_image(Image.new("RGB", (1, 60000)), "square", SIZE)


@pytest.mark.parametrize("name", ["1", "2", "4"])
def test_the_aspects_differ(name):
    assert not close(ours(f"{name}/pad"), expected(f"{name}/square"))
    assert not close(ours(f"{name}/square"), expected(f"{name}/pad"))
    assert not close(ours(f"{name}/anyres")[0], expected(f"{name}/pad"))


@pytest.mark.parametrize("case", ["0/anyres", "2/square", "4/pad", "3/anyres"])
def test_another_filter_would_show(case, monkeypatch):
    for module in (images, resize):
        monkeypatch.setattr(module, "FILTER", Image.Resampling.BILINEAR)
    assert not close(ours(case), expected(case))


@pytest.mark.parametrize("case", ["3/anyres", "4/anyres"])
def test_another_order_of_tiles_would_show(case):
    column_major, base_last = [0, 1, 3, 2, 4], [1, 2, 3, 4, 0]
    assert not close(ours(case)[column_major], expected(case))
    assert not close(ours(case)[base_last], expected(case))


def test_pinpoints_read_as_height_and_width_would_show():
    assert close(ours("2/anyres", [[112, 224]]), expected("2/anyres"))
    assert not close(ours("2/anyres", [[224, 112]]), expected("2/anyres"))
    # Where two pinpoints do equally well the first wins, here the upright one for a wide picture.
    assert not close(ours("1/anyres", reversed_pairs(PINPOINTS)), expected("1/anyres"))


def test_tiles_are_uint8_and_normalised_like_single_pictures():
    tiles = fit_tiles(picture("4"), SIZE, PINPOINTS)
    assert tiles.dtype == np.uint8
    assert tiles.shape == (5, SIZE, SIZE, 3)
    values = preprocess_image(picture("4"), "anyres", SIZE, (0.5,) * 3, (0.25,) * 3, PINPOINTS)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, (tiles / 255 - 0.5) / 0.25, atol=1e-6)
    assert fit_tiles(Image.new("L", (1000, 10)), 336).shape == (4, 336, 336, 3)
    with pytest.raises(ValueError, match="aspect 'round' is not one of pad, square, anyres"):
        preprocess_image(picture("4"), "round")
    with pytest.raises(ValueError, match="aspect 'anyres' makes several tiles"):
        fit_image(picture("4"), "anyres", SIZE)


def sizes() -> list[tuple[int, int]]:
    """(width, height) of small, large, square, elongated and hair-thin pictures."""
    rng = np.random.default_rng(3)
    random = np.exp(rng.uniform(0, np.log(2000), (150, 2))).astype(int).tolist()
    named = [(1, 1), (336, 336), (672, 672), (640, 1), (1, 640), (5000, 30), (30, 5000), (337, 336), (100, 49)]
    return [*named, *((width, height) for width, height in random)]


def reversed_pairs(pinpoints) -> list[list[int]]:
    return [[height, width] for width, height in pinpoints]


def next_features(features: np.ndarray, newline: np.ndarray, size: tuple[int, int], side: int, pinpoints) -> np.ndarray:
    """LLaVA-NeXT's own merging of float[tiles, P, D]; it has (height, width) throughout."""
    vision = SimpleNamespace(image_size=336, patch_size=336 // side)
    model = SimpleNamespace(
        config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=reversed_pairs(pinpoints))
    )
    merged, _ = llava_next.LlavaNextModel.pack_image_features(
        model, [torch.from_numpy(features)], torch.tensor([size[::-1]]), "default", torch.from_numpy(newline)
    )
    return merged[0].numpy()


def gather(features: np.ndarray, newline: np.ndarray, slots: np.ndarray) -> np.ndarray:
    flat = features.reshape(-1, features.shape[-1])
    return np.where(slots[:, None] == NEWLINE_SLOT, newline, flat[np.maximum(slots, 0)])


def random_features(size: tuple[int, int], side: int, pinpoints, rng) -> tuple[np.ndarray, np.ndarray]:
    columns, rows = tile_grid(size, pinpoints, 336)
    return rng.normal(size=(1 + columns * rows, side**2, 2)), rng.normal(size=2)


@pytest.mark.parametrize("side", [24, 7])
@pytest.mark.parametrize("pinpoints", [GRID_PINPOINTS, [[672, 336]], [[1344, 672], [336, 336], [336, 1344]]])
def test_unpadded_slots_are_llava_nexts(side, pinpoints, rng, monkeypatch):
    # LLaVA rounds down at once, without the rounding that Hugging Face put before it.
    monkeypatch.setattr(llava_next, "round", lambda value, digits: value, raising=False)
    for size in sizes():
        features, newline = random_features(size, side, pinpoints, rng)
        slots = image_slots(size, grid_side=side, image_size=336, pinpoints=pinpoints, merge="spatial_unpad")
        wanted = next_features(features, newline, size, side, pinpoints)
        assert slots.dtype == np.int32
        np.testing.assert_array_equal(gather(features, newline, slots), wanted, err_msg=str(size))


@pytest.mark.parametrize("size", sizes())
def test_resolution_and_number_of_tiles_are_llava_nexts(size):
    pinpoints = reversed_pairs(GRID_PINPOINTS)
    assert best_resolution(size, GRID_PINPOINTS)[::-1] == llava_next.select_best_resolution(size[::-1], pinpoints)
    columns, rows = tile_grid(size, GRID_PINPOINTS, 336)
    assert (rows, columns) == llava_next.get_anyres_image_grid_shape(size[::-1], pinpoints, 336)
    assert columns * rows + 1 == llava_next.image_size_to_num_patches(size[::-1], pinpoints, 336)


def test_borders_round_down_as_llavas_do(rng):
    """Of 99 * (24 / 88) = 26.999… rows LLaVA shows 26, Hugging Face rounds to 27 and then shows 28."""
    size, side = (88, 99), 24
    features, newline = random_features(size, side, GRID_PINPOINTS, rng)
    slots = image_slots(size, grid_side=side, image_size=336, pinpoints=GRID_PINPOINTS, merge="spatial_unpad")
    assert len(slots) == side**2 + 26 * (side + 1)
    assert len(next_features(features, newline, size, side, GRID_PINPOINTS)) == side**2 + 28 * (side + 1)


def test_height_and_width_swapped_would_show(rng):
    size, side = (500, 300), 24
    features, newline = random_features(size, side, GRID_PINPOINTS, rng)
    wanted = next_features(features, newline, size, side, GRID_PINPOINTS)
    right, wrong = (
        image_slots(pair, grid_side=side, image_size=336, pinpoints=GRID_PINPOINTS, merge="spatial_unpad")
        for pair in (size, size[::-1])
    )
    np.testing.assert_array_equal(gather(features, newline, right), wanted)
    assert right.tolist() != wrong.tolist()


def test_merges_read_the_picture_in_their_order(rng):
    """A picture of exactly the grid's size, one pixel a patch: read in spatial order it is the picture again."""
    pixels = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    tiles = fit_tiles(Image.fromarray(pixels), 4, [[12, 8]])
    patches = tiles.reshape(-1, 3)
    slots = {
        merge: image_slots((12, 8), grid_side=4, image_size=4, pinpoints=[[12, 8]], merge=merge) for merge in MERGES
    }
    for order in slots.values():
        np.testing.assert_array_equal(order[:16], np.arange(16))
    np.testing.assert_array_equal(slots["flat"], np.arange(7 * 16))
    np.testing.assert_array_equal(patches[slots["spatial"][16:]].reshape(8, 12, 3), pixels)
    rows = slots["spatial_unpad"][16:].reshape(8, 13)
    np.testing.assert_array_equal(patches[rows[:, :-1]], pixels)
    assert np.all(rows[:, -1] == NEWLINE_SLOT)


def test_a_base_alone_ends_in_one_newline():
    base = {
        merge: image_slots((5, 9), grid_side=2, image_size=4, pinpoints=None, merge=merge).tolist() for merge in MERGES
    }
    assert base == {"flat": [0, 1, 2, 3], "spatial": [0, 1, 2, 3], "spatial_unpad": [0, 1, 2, 3, NEWLINE_SLOT]}


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="no grid pinpoints"):
        best_resolution((4, 4), [])
    with pytest.raises(ValueError, match="picture of 4x0 pixels"):
        best_resolution((4, 0), [(4, 4)])
    with pytest.raises(ValueError, match=r"grid pinpoint \(4, 0\) is not a \(width, height\)"):
        best_resolution((4, 4), [(4, 4), (4, 0)])
    with pytest.raises(ValueError, match=r"grid pinpoint \(6, 4\) is not a multiple of the image size 4"):
        fit_tiles(Image.new("RGB", (4, 4)), 4, [(4, 4), (6, 4)])
    with pytest.raises(ValueError, match="merge 'columns' is not one of flat, spatial, spatial_unpad"):
        image_slots((4, 4), grid_side=1, image_size=4, pinpoints=[(4, 4)], merge="columns")
