"""Which values of a file become -1 and 1, and the types that translations are stored in."""

from __future__ import annotations

import numpy as np
import pytest

from patchkin.errors import CheckpointError, ConfigError, DataError
from patchkin.images import (
    Encoding,
    declared_ranges,
    output_form,
    read_image,
    to_levels,
    to_values,
    write_values,
)

CT = (-1000.0, 3000.0)
TWELVE = (0.0, 4095.0)


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32", "int8", "float16", "float64"])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_every_type_is_read_scaled_and_written_back(tmp_path, dtype, suffix):
    low, high = (-100, 100) if dtype == "int8" else (0, 3000) if dtype == "uint32" else CT
    array = np.linspace(low, high, 24).round().astype(dtype).reshape(4, 6)
    encoding = Encoding.of(np.dtype(dtype), 1)
    expected = 2 * (array.astype(float) - low) / (high - low) - 1
    write_values(
        tmp_path / f"a{suffix}",
        expected[None].astype(np.float32),
        encoding,
        value_range=(low, high),
    )
    picture = read_image(tmp_path / f"a{suffix}")
    assert picture.encoding == encoding
    assert picture.pixels.dtype == dtype
    tolerance = 1 if dtype == "float16" else 1e-3 if dtype == "float64" else 0
    np.testing.assert_allclose(picture.pixels[0], array, rtol=0, atol=tolerance)
    values = to_values(picture, (low, high))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0], expected, rtol=0, atol=1e-3 if tolerance else 1e-6)


def test_32_bit_neighbours_far_from_zero_are_told_apart(tmp_path):
    """float32 knows no whole numbers beyond 2^24."""
    array = np.array([[2**31 - 100, 2**31 - 99, 2**31 - 98]], np.int64).astype(np.uint32)
    np.save(tmp_path / "a.npy", array)
    values = to_values(read_image(tmp_path / "a.npy"), (2**31 - 100, 2**31 - 98))
    assert values.ravel().tolist() == [-1, 0, 1]
    assert to_levels(values, Encoding(32, 1, "unsigned"), (2**31 - 100, 2**31 - 98)).tolist() == [
        array.tolist()
    ]


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32"])
def test_a_type_without_a_usual_range_needs_one(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.array([[0, 300]], dtype))
    with pytest.raises(
        DataError, match=rf"a\.npy` holds {dtype} values from 0 to 300; say which range .*"
    ):
        to_values(read_image(tmp_path / "a.npy"))
    with pytest.raises(ConfigError, match=f"type {dtype} are written with a `value_range` only"):
        to_levels(np.zeros((1, 1, 1), np.float32), Encoding.of(np.dtype(dtype), 1))


def test_8_bits_have_no_other_range():
    values = np.float32([[[-1, 1]]])
    assert to_levels(values, Encoding(8, 1), CT).tolist() == [[[0, 255]]]
    assert output_form(Encoding(8, 1), 3, (TWELVE, CT)) == (Encoding(8, 3), None, "")


@pytest.mark.parametrize(
    ("encoding", "ranges", "stored", "value_range"),
    [
        (Encoding(16, 1), (None, None), "uint16", None),
        (Encoding(16, 1), (TWELVE, TWELVE), "uint16", TWELVE),
        (Encoding(16, 1, "signed"), (CT, CT), "int16", CT),
        (Encoding(32, 1, "signed"), (CT, CT), "int32", CT),
        (Encoding(16, 1, "float"), (CT, CT), "float16", CT),
        (Encoding(64, 1), (CT, CT), "float64", CT),
        (Encoding(16, 1), (TWELVE, CT), "int16", CT),  # MR to CT
        (Encoding(16, 1, "signed"), (CT, TWELVE), "int16", TWELVE),  # CT to MR
        (Encoding(16, 1), (TWELVE, (0.0, 1.0)), "float32", (0.0, 1.0)),
        (Encoding(16, 1), (TWELVE, (0.0, 1e6)), "float32", (0.0, 1e6)),
        (Encoding(16, 1, "signed"), ((0.0, 10.0), (0.0, 10.0)), "int16", (0.0, 10.0)),
        (Encoding(16, 1, "signed"), (CT, None), "uint16", None),
        (Encoding(16, 1, "float"), (None, (0.0, 1e6)), "float32", (0.0, 1e6)),
    ],
)
def test_an_output_has_the_type_of_its_input_where_that_holds_its_range(
    encoding, ranges, stored, value_range
):
    form = output_form(encoding, 1, ranges)
    assert (form.encoding.dtype.name, form.value_range) == (stored, value_range)
    assert (form.note != "") == (stored != encoding.dtype.name)


def test_the_header_of_a_model_tells_its_ranges():
    assert declared_ranges({}) == (None, None)
    assert declared_ranges({"value_range": None, "value_ranges": [[0, 4095], None]}) == (
        TWELVE,
        None,
    )
    for plain in ([0, 4095, 1], ["a", "b"], [5, 5], [0, float("nan")], 3):
        with pytest.raises(CheckpointError, match="expected low and high for each domain"):
            declared_ranges({"value_range": plain})
    with pytest.raises(CheckpointError, match="declares the value ranges"):
        declared_ranges({"value_ranges": [[0, 1]]})


@pytest.mark.parametrize("encoding", [Encoding(8, 1), Encoding(16, 3), Encoding(8, 3)])
def test_large_images_are_scaled_piece_by_piece(monkeypatch, encoding):
    values = np.random.default_rng(0).uniform(-1.1, 1.1, (3, 37, 20)).astype(np.float32)
    for rounding in ("nearest", "released"):
        expected = to_levels(values, encoding, rounding=rounding)
        monkeypatch.setattr("patchkin.images.values._CHUNK_NUMBERS", 100)
        got = to_levels(values, encoding, rounding=rounding)
        monkeypatch.undo()
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
