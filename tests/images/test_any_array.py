"""Arrays of any type, shape and memory layout: the values of a plain loop, or one clear error."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchkin.errors import DataError, PatchkinError, ShapeError
from patchkin.images import Encoding, Picture, read_image, to_levels, to_tensor
from patchkin.images.picture import pixels_from_array
from patchkin.translation.given import given_image

HIGHEST = {"uint8": 255, "uint16": 65535, "float16": 1.0, "float32": 1.0, "float64": 1.0, "bool": 1}
"""Type -> what becomes 1; 0 becomes -1."""
REFUSED = ("int64", "uint64", "complex64", "U3", "O", "M8[s]")
NEEDS_RANGE = ("int8", "int16", "int32", "uint32")
sides = st.integers(1, 40)
shapes = st.one_of(st.tuples(sides, sides), st.tuples(sides, sides, st.integers(1, 5)))
layouts = st.sampled_from(("plain", "columns", "backwards", "every second", "turned", "swapped"))


def laid_out(array, layout):
    """An equal array that lies otherwise in memory."""
    if layout == "columns":
        return np.asfortranarray(array)
    if layout == "backwards":
        return array[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "every second":
        wide = np.zeros((2 * array.shape[0], 3 * array.shape[1], *array.shape[2:]), array.dtype)
        wide[::2, ::3] = array
        return wide[::2, ::3]
    if layout == "turned":
        return np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1)
    return array.astype(array.dtype.newbyteorder(">")) if layout == "swapped" else array


def random_array(dtype, shape, seed):
    numbers = np.random.default_rng(seed).random(shape)
    if dtype == "bool":
        return numbers < 0.5
    return numbers.astype(dtype) if "float" in dtype else (numbers * HIGHEST[dtype]).astype(dtype)


def by_loop(array, highest):
    """Values [C, H, W] in [-1, 1], number by number."""
    array = array if array.ndim == 3 else array[:, :, None]
    height, width, channels = array.shape
    values = np.zeros((channels, height, width))
    for y, x, c in product(range(height), range(width), range(channels)):
        values[c, y, x] = float(array[y, x, c]) / highest * 2 - 1
    return values


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.sampled_from(sorted(HIGHEST)), shapes, layouts, st.integers(0, 9))
def test_values_and_way_back_are_those_of_a_loop(dtype, shape, layout, seed):
    array = random_array(dtype, shape, seed)
    array.setflags(write=False)
    channels = shape[2] if len(shape) == 3 else 1
    taken = given_image(laid_out(array, layout), channels=channels)
    expected = by_loop(array, HIGHEST[dtype])
    assert taken.values_CHW.dtype == np.float32
    np.testing.assert_allclose(taken.values_CHW, expected, atol=3e-7)
    pixels = pixels_from_array(laid_out(array, layout))
    picture = Picture(
        pixels, Encoding.of(np.dtype("uint8" if dtype == "bool" else dtype), channels)
    )
    np.testing.assert_array_equal(to_tensor(picture).numpy(), taken.values_CHW)
    back = taken.back(taken.values_CHW)
    assert back.shape == shape
    if dtype == "bool":
        np.testing.assert_array_equal(back, array * np.uint8(255))
    else:
        assert back.dtype == array.dtype
        tolerance = 0 if "uint" in dtype else 1e-3 if dtype == "float16" else 1e-7
        np.testing.assert_allclose(back, array, atol=tolerance)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(sides, sides, st.sampled_from((1, 3)), st.sampled_from((1, 3)), st.integers(0, 9))
def test_grey_is_repeated_and_colour_becomes_luma(height, width, own, wanted, seed):
    """In 16 bits, rounded; number by number."""
    array = random_array("uint16", (height, width, own), seed)
    values = given_image(array, channels=wanted).values_CHW
    assert values.shape == (wanted, height, width)
    for y, x, c in product(range(height), range(width), range(wanted)):
        red, green, blue = (float(array[y, x, each % own]) for each in range(3))
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        level = luma if (own, wanted) == (3, 1) else float(array[y, x, c % own])
        assert values[c, y, x] == pytest.approx(level / 65535 * 2 - 1, abs=0.6 / 32767)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.sampled_from((*REFUSED, *NEEDS_RANGE)), st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_other_types_are_refused_by_name(dtype, shape):
    array = np.ones(shape).astype(dtype) if dtype not in ("M8[s]",) else np.zeros(shape, dtype)
    said = "expected integers" if dtype in REFUSED else "declares no range"
    with pytest.raises(DataError, match=said) as caught:
        given_image(array, channels=1)
    assert str(array.dtype) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.integers(0, 3), max_size=5))
def test_empty_arrays_and_other_numbers_of_axes_are_refused(shape):
    array = np.zeros(shape, np.uint8)
    is_image = len(shape) in (2, 3) and 0 not in shape
    if is_image and (len(shape) == 2 or shape[2] in (1, 3)):
        given_image(array, channels=1)
        return
    with pytest.raises(ShapeError, match=r"must be \[H, W\] or \[H, W, ") as caught:
        given_image(array, channels=1)
    assert str(tuple(shape)) in str(caught.value)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.sampled_from(sorted(HIGHEST)), shapes, layouts, st.integers(0, 9))
def test_an_npy_file_is_the_array(tmp_path_factory, dtype, shape, layout, seed):
    array = random_array(dtype, shape, seed)
    path = tmp_path_factory.getbasetemp() / "any_array.npy"
    np.save(path, laid_out(array, layout))
    picture = read_image(path)
    assert picture.size == (shape[1], shape[0])
    expected = by_loop(array, HIGHEST[dtype])
    np.testing.assert_allclose(to_tensor(picture).numpy(), expected, atol=3e-7)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.sampled_from(("uint8", "uint16")),
    st.floats(-3, 3, width=32),
    st.sampled_from(("nearest", "released")),
)
def test_levels_are_those_of_python(dtype, value, rounding):
    """Clipped, scaled, and rounded to the nearest; or cut off, as the papers' code does 8 bits."""
    encoding = Encoding.of(np.dtype(dtype), 1)
    [level] = to_levels(np.float32([[[value]]]), encoding, rounding=rounding).flat
    exact = (min(max(value, -1.0), 1.0) + 1) / 2 * HIGHEST[dtype]
    cut_off = rounding == "released" and dtype == "uint8"
    allowed = {int(exact - 1e-4), int(exact + 1e-4)} if cut_off else {
        round(exact - 1e-4), round(exact + 1e-4)
    }  # fmt: skip
    assert int(level) in allowed


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(broken):
    array = np.full((3, 2), 0.5, np.float32)
    array[2, 1] = broken
    with pytest.raises(PatchkinError, match="NaN or infinite"):
        given_image(array, channels=1)
