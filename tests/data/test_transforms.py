from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.data.transforms import (
    SeededViewDraws,
    mirrored,
    resized,
    rounded_sides,
    size_of,
    view,
)
from patchkin.errors import DataError

ARRAY = np.arange(12 * 20 * 3, dtype=np.uint8).reshape(12, 20, 3)
IMAGE = Image.fromarray(ARRAY)
TENSOR = torch.from_numpy(ARRAY).permute(2, 0, 1).float() / 127.5 - 1


def _view(pixels, seed=0, **settings):
    settings = {"preprocess": "crop", "load_size": 8, "crop_size": 8, "flip": False} | settings
    return view(pixels, SeededViewDraws(seed), **settings)


def test_flip_is_exact_for_images_and_tensors():
    assert np.array_equal(np.asarray(mirrored(IMAGE)), ARRAY[:, ::-1])
    assert torch.equal(mirrored(TENSOR), TENSOR.flip(2))


def test_crop_cuts_pixels_unchanged_and_alike_for_images_and_tensors():
    image, tensor = _view(IMAGE, 3), _view(TENSOR, 3)
    crops = [ARRAY[y : y + 8, x : x + 8] for y in range(5) for x in range(13)]
    assert any(np.array_equal(np.asarray(image), crop) for crop in crops)
    assert torch.equal(
        tensor, torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 127.5 - 1
    )


def test_every_corner_and_both_flips_are_drawn_evenly():
    columns = Image.fromarray(np.arange(10, dtype=np.uint8)[None].repeat(8, 0))
    seen = Counter()
    for seed in range(3000):
        row = np.asarray(_view(columns, seed, flip=True))[0]
        seen[int(row.min()), bool(row[0] > row[1])] += 1
    assert set(seen) == {(x, flipped) for x in range(3) for flipped in (False, True)}
    assert all(abs(count - 500) < 4 * 500**0.5 for count in seen.values())


def test_same_seed_same_view_other_seed_other_view():
    views = [np.asarray(_view(IMAGE, seed, flip=True)) for seed in (1, 1, 2)]
    assert np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_image_smaller_than_the_crop_is_refused():
    with pytest.raises(DataError, match="20 x 12 pixels are smaller than the crop of 16"):
        _view(IMAGE, crop_size=16)


@pytest.mark.parametrize(
    ("preprocess", "size"),
    [
        ("resize_and_crop", (8, 8)),
        ("resize", (24, 24)),
        ("scale_width", (24, 16)),  # 24 x 14.4, the sides to multiples of 4: 24 x 14 -> 16
        ("scale_shortside", (40, 24)),
        ("scale_shortside_and_crop", (8, 8)),
        ("shortside", (40, 24)),
        ("shortside_and_crop", (8, 8)),
        ("zoom_and_patch", (8, 8)),
        ("trim", (8, 8)),
        ("none", (20, 12)),
    ],
)
@pytest.mark.parametrize("pixels", [IMAGE, TENSOR], ids=["image", "tensor"])
def test_sizes(pixels, preprocess, size):
    assert size_of(_view(pixels, preprocess=preprocess, load_size=24)) == size


def test_trim_keeps_what_is_smaller():
    assert size_of(_view(IMAGE, preprocess="trim", crop_size=16)) == (16, 12)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((61, 38), (60, 40)), ((45, 70), (44, 72)), ((6, 10), (8, 8)), ((1, 1), (4, 4))],
)
def test_sides_become_multiples_of_4_halves_to_even(size, expected):
    assert size_of(rounded_sides(Image.new("L", size))) == expected


def test_resized_tensor_does_not_overshoot():
    edge = torch.ones(1, 8, 8)
    edge[:, :, 4:] = -1
    assert resized(edge, 13, 13).abs().max() == 1


def test_zoom_is_between_four_fifths_and_one():
    zooms = np.array([SeededViewDraws(seed).zoom() for seed in range(500)])
    assert zooms.min() >= 0.8
    assert zooms.max() <= 1
    assert abs(zooms.mean() - 0.9) < 0.01
    assert abs(np.corrcoef(zooms.T)[0, 1]) < 0.2, "the axes are independent"


@pytest.mark.parametrize(
    ("preprocess", "load_size", "size"),
    [
        ("resize", (16, 28), (28, 16)),
        ("resize_and_crop", (16, 28), (8, 4)),
        ("crop", 1, (8, 4)),
        ("zoom_and_crop", 1, (8, 4)),
        ("zoom_and_patch", 1, (8, 4)),
        ("trim", 1, (8, 4)),
        ("scale_width", (1, 40), (40, 24)),
        ("scale_shortside", (24, 24), (40, 24)),
        ("scale_shortside", (12, 40), (40, 24)),  # enlarged until it covers 40 x 12
        ("shortside", (4, 8), (8, 4)),  # 8 x 4.8 covers 8 x 4
        ("shortside", (8, 8), (12, 8)),  # 13.3 x 8, the sides to multiples of 4
    ],
)
@pytest.mark.parametrize("pixels", [IMAGE, TENSOR], ids=["image", "tensor"])
def test_views_that_are_not_square(pixels, preprocess, load_size, size):
    found = _view(pixels, preprocess=preprocess, load_size=load_size, crop_size=(4, 8))
    assert size_of(found) == size


def test_a_crop_of_height_and_width_is_cut_unchanged_from_every_place():
    columns = np.arange(7, dtype=np.uint8)[None] + 10 * np.arange(6, dtype=np.uint8)[:, None]
    seen = set()
    for seed in range(300):
        crop = np.asarray(_view(Image.fromarray(columns), seed, crop_size=(4, 4)))
        y, x = divmod(int(crop[0, 0]), 10)
        assert np.array_equal(crop, columns[y : y + 4, x : x + 4])
        seen.add((y, x))
    assert seen == {(y, x) for y in range(3) for x in range(4)}


def test_shortside_shrinks_and_scale_shortside_does_not():
    wide = Image.new("RGB", (1024, 512))
    sizes = {
        name: size_of(_view(wide, preprocess=name, load_size=256, crop_size=256))
        for name in ("scale_shortside", "shortside")
    }
    assert sizes == {"scale_shortside": (1024, 512), "shortside": (512, 256)}
    turned = _view(Image.new("RGB", (333, 1000)), preprocess="shortside", load_size=256)
    assert size_of(turned) == (256, 768), "256 x 768.8: the longer side is cut, as torchvision does"


def _picture(width, height):
    y, x, c = np.mgrid[:height, :width, :3]
    return Image.fromarray(((x * x * 7 + y * y * 5 + x * y * (c + 3)) % 256).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "to", "levels"),
    [
        ((45, 70), (32, 32), "d9c10d04c3a37e6f"),  # 38 rows go, and 13 columns: rows first
        ((80, 100), (60, 59), "f31d5f2670319710"),  # 41 and 20: more than twice as many
        ((40, 60), (30, 40), "95dd4d3516af0bbf"),  # 20 and 10: not more
        ((60, 40), (70, 39), "b7780cddb4d4cf8e"),  # columns come
        ((70, 45), (32, 32), "0d1d35e5e52f64b5"),
        ((61, 38), (44, 44), "bcfdbe373aa626f4"),
    ],
)
def test_levels_are_the_same_with_every_pillow(size, to, levels):
    """Those of Pillow 13.0, where the order of passes was recorded; 11.3 by itself has others."""
    shown = resized(_picture(*size), *to)
    assert hashlib.sha256(shown.tobytes()).hexdigest().startswith(levels)
