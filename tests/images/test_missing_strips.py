"""Strips and tiles of a TIFF that are not in the file are told, and never black in silence."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from patchkin.errors import DataError
from patchkin.images import read_image
from patchkin.images.container import container_of

COMPRESSIONS = [None, "lzw", "packbits", "zlib", "jpeg", "zstd"]
OFFSETS, COUNTS = {False: 273, True: 324}, {False: 279, True: 325}


def write(path, *, compression=None, tiled=False, pages=1, dtype=np.uint8, nodata=None):
    """80 x 64 pixels in five strips of 16 rows, or 20 tiles."""
    rng = np.random.default_rng(0)
    shape = (80, 64) if pages == 1 else (pages, 80, 64)
    array = rng.integers(100, 200, shape).astype(dtype)
    options = {"tile": (16, 16)} if tiled else {"rowsperstrip": 16}
    tags = [] if nodata is None else [(42113, "s", 0, nodata, True)]
    tifffile.imwrite(
        path, array, compression=compression, photometric="minisblack", metadata=None,
        extratags=tags, **options,
    )  # fmt: skip
    return array


def change(path, tag, place, value):
    """One of the numbers of a tag of the last page."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        found = file.pages[len(file.pages) - 1].tags[tag]
        numbers = list(found.value)
        numbers[place] = value(numbers[place])
        found.overwrite(numbers)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_a_missing_strip_is_an_error(tmp_path, compression, tiled, both):
    path = tmp_path / "a.tif"
    write(path, compression=compression, tiled=tiled)
    read_image(path)
    change(path, COUNTS[tiled], 2, lambda _: 0)
    if both:
        change(path, OFFSETS[tiled], 2, lambda _: 0)
    told = "1 of its 20 tiles are missing" if tiled else "1 of its 5 strips are missing"
    with pytest.raises(DataError, match=rf"a\.tif`: cannot be decoded: {told}"):
        read_image(path)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_short_strip_is_an_error(tmp_path, compression, tiled, part):
    path = tmp_path / "a.tif"
    write(path, compression=compression, tiled=tiled)
    change(path, COUNTS[tiled], 2, lambda count: int(count * part))
    with pytest.raises(DataError, match=r"a\.tif`: cannot be decoded: [^\n]*$"):
        read_image(path)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_file_that_ends_early_is_an_error(tmp_path, compression, part):
    path = tmp_path / "a.tif"
    write(path, compression=compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DataError, match=r"a\.tif`: cannot be decoded: [^\n]*$"):
        read_image(path)


def test_the_page_that_lacks_a_strip_is_named(tmp_path):
    path = tmp_path / "a.tif"
    array = write(path, compression="zlib", pages=3)
    change(path, COUNTS[False], 2, lambda _: 0)
    for page in range(2):
        pixels = read_image(path / f"a_p00{page}.tif").pixels
        assert np.array_equal(np.asarray(pixels), array[page])
    with pytest.raises(DataError, match=r"a_p002\.tif`: .*1 of its 5 strips are missing"):
        read_image(path / "a_p002.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_sparse_tiles_have_the_declared_value(tmp_path, compression, dtype):
    """As GDAL writes and reads them: SPARSE_OK leaves out what holds nothing but nodata."""
    path = tmp_path / "a.tif"
    array = write(path, compression=compression, tiled=True, dtype=dtype, nodata="7")
    change(path, COUNTS[True], 6, lambda _: 0)
    change(path, OFFSETS[True], 6, lambda _: 0)
    expected = array.copy()
    expected[16:32, 32:48] = 7
    assert np.array_equal(np.squeeze(np.asarray(read_image(path).pixels)), expected)
    notes = container_of(path).notes
    assert "1 empty tiles (sparse) are read as nodata and written out" in notes
