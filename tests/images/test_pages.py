"""Pages and channels of files: what becomes an image of its own, and what a channel."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from patchkin.data.check import check_data
from patchkin.data.config import DataConfig
from patchkin.data.layouts import find_domains
from patchkin.errors import DataError
from patchkin.images import Encoding, read_image
from patchkin.images.container import Container, container_of
from patchkin.images.pages import each_page, file_of, num_pages, page_path, split_page


def _stack(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def _channels(path: Path) -> np.ndarray:
    pixels = read_image(path).pixels
    return pixels if isinstance(pixels, np.ndarray) else np.atleast_3d(pixels).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("options", "axes", "shape", "pages"),
    [
        ({"photometric": "minisblack"}, "QYX", (3, 7, 9), 3),
        ({"imagej": True}, "CYX", (4, 7, 9), 1),
        ({"imagej": True}, "ZYX", (4, 7, 9), 4),
        ({"imagej": True}, "TZCYX", (2, 3, 2, 7, 9), 6),
        ({"ome": True}, "TCYX", (2, 3, 7, 9), 2),
        ({"ome": True}, "CZYX", (3, 2, 7, 9), 2),
        ({"ome": True, "compression": "lzw"}, "CTZYX", (2, 3, 2, 7, 9), 6),
        ({"ome": True, "photometric": "rgb"}, "ZYXS", (2, 7, 9, 3), 2),
        ({"ome": True, "photometric": "rgb", "planarconfig": "separate"}, "ZSYX", (2, 3, 7, 9), 2),
        ({"bigtiff": True, "tile": (16, 16)}, "TYX", (2, 7, 9), 2),
        ({"byteorder": ">", "compression": "zlib", "predictor": True}, "TCYX", (2, 5, 7, 9), 2),
    ],
)
def test_axes_are_read_channels_are_channels_and_the_rest_are_pages(
    tmp_path, options, axes, shape, pages
):
    array = _stack(*shape)
    options = {"photometric": "minisblack", **options}
    tifffile.imwrite(tmp_path / "a.tif", array, metadata={"axes": axes}, **options)
    inner = [axes.index(axis) for axis in "SCYX" if axis in axes]
    outer = [place for place in range(len(axes)) if place not in inner]
    expected = array.transpose(outer + inner).reshape(pages, -1, 7, 9)
    assert num_pages(tmp_path / "a.tif") == pages
    for page in range(pages):
        path = page_path(tmp_path / "a.tif", page) if pages > 1 else tmp_path / "a.tif"
        assert np.array_equal(_channels(path), expected[page])


def test_a_plain_file_of_three_pages_is_not_one_image_of_three_channels(tmp_path):
    array = _stack(3, 7, 9)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in array:
            file.write(page, metadata=None, contiguous=False)
    assert num_pages(tmp_path / "a.tif") == 3
    assert read_image(tmp_path / "a.tif").encoding == Encoding(16, 1)
    assert np.array_equal(_channels(page_path(tmp_path / "a.tif", 2))[0], array[2])


def test_pages_of_several_sizes_are_all_there(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for side in (7, 9, 12):
            file.write(_stack(side, 5), metadata=None, contiguous=False)
    pages = each_page([tmp_path / "a.tif"])
    assert [read_image(page).size for page in pages] == [(5, 7), (5, 9), (5, 12)]


def test_infrared_is_a_channel_and_alpha_is_not(tmp_path):
    array = _stack(7, 9, 4, dtype=np.uint8)
    kinds = {"unspecified": 4, "unassalpha": 3}
    for kind, channels in kinds.items():
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=[kind])
        picture = read_image(tmp_path / "a.tif")
        assert picture.encoding == Encoding(8, channels)
        if kind == "unassalpha":
            assert np.array_equal(picture.alpha, array[:, :, 3])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_white_is_zero_at_every_depth(tmp_path, dtype):
    array = _stack(7, 9, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    assert np.array_equal(_channels(tmp_path / "a.tif")[0], np.iinfo(dtype).max - array)


def test_nobody_can_tell_black_of_floats_where_white_is_lowest(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), np.float32), photometric="miniswhite")
    with pytest.raises(DataError, match="nobody can tell which value is black"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_orientation_of_a_tiff(tmp_path, orientation, dtype):
    array = _stack(7, 9, 3, dtype=dtype)
    extra = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extratags=extra)
    expected = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.swapaxes(0, 1),
        6: np.rot90(array, -1),
        7: np.rot90(array, 2).swapaxes(0, 1),
        8: np.rot90(array),
    }[orientation]
    assert np.array_equal(_channels(tmp_path / "a.tif").transpose(1, 2, 0), expected)


def test_frames_of_an_animation_are_pages(tmp_path):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.webp", "a.png"):
        lossless = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], duration=100, **lossless
        )
        assert num_pages(tmp_path / name) == 3
        colours = [_channels(page)[:, 3, 3].tolist() for page in each_page([tmp_path / name])]
        assert colours == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_paths_of_pages(tmp_path):
    assert split_page(page_path(tmp_path / "a.tif", 1234)) == (tmp_path / "a.tif", 1234)
    assert split_page(tmp_path / "a_p001.tif") == (tmp_path / "a_p001.tif", None)
    folder = tmp_path / "a.png"  # a folder, whatever its name
    folder.mkdir()
    Image.new("L", (3, 3)).save(folder / "a_p001.png")
    assert file_of(folder / "a_p001.png") == folder / "a_p001.png"
    assert each_page([folder / "a_p001.png"]) == (folder / "a_p001.png",)


def test_training_takes_every_page_and_the_check_counts_them(tmp_path):
    for domain in "AB":
        (tmp_path / f"train{domain}").mkdir()
        tifffile.imwrite(
            tmp_path / f"train{domain}" / "z.tif",
            _stack(5, 16, 16),
            imagej=True,
            metadata={"axes": "ZYX"},
        )
    domains = find_domains(DataConfig(root=str(tmp_path)))
    assert [path.name for path in domains.train_a] == [f"z_p{page:03d}.tif" for page in range(5)]
    report = check_data(tmp_path).folders[0]
    assert (report.num_images, report.num_files, report.broken) == (5, 1, [])


def test_a_truncated_tiff_is_never_filled_with_zeros(tmp_path):
    for compression in (None, "zlib"):
        tifffile.imwrite(tmp_path / "a.tif", _stack(64, 64), compression=compression)
        whole = (tmp_path / "a.tif").read_bytes()
        (tmp_path / "a.tif").write_bytes(whole[:-3000])
        with pytest.raises(DataError, match="truncated"):
            read_image(tmp_path / "a.tif")


# 16-bit PNG


def test_interlaced_16_bit_png_with_and_without_imagecodecs(tmp_path, monkeypatch):
    for height, width in ((1, 1), (3, 2), (13, 21)):
        array = _stack(height, width, 3)
        (tmp_path / "a.png").write_bytes(_interlaced(array))
        assert np.array_equal(imagecodecs.png_decode((tmp_path / "a.png").read_bytes()), array)
        for installed in (True, False):
            with monkeypatch.context() as patched:
                if not installed:
                    patched.setattr("importlib.util.find_spec", lambda name: None)
                assert np.array_equal(_channels(tmp_path / "a.png").transpose(1, 2, 0), array)


def _interlaced(array: np.ndarray) -> bytes:
    """As the specification says: seven passes over a grid of 8 x 8, without filters."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    lines = b""
    for top, left, down, across in [*passes, (1, 0, 2, 1)]:
        for row in array[top::down, left::across]:
            if len(row):
                lines += b"\0" + row.astype(">u2").tobytes()
    height, width = array.shape[:2]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2, 0, 0, 1])
    return _png((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks
    )


def test_a_large_16_bit_png_in_chunks_of_8_kib_is_read_in_2_seconds(tmp_path):
    side = 4096
    row = np.random.default_rng(0).integers(0, 65536, side, dtype=np.uint16)
    array = np.tile(row, (side, 1))
    array[::2] += 1
    lines = np.zeros((side, 1 + 2 * side), np.uint8)
    lines[:, 1:] = array.astype(">u2").view(np.uint8)
    packed = zlib.compress(lines.tobytes(), 0)  # 33 MB, so that there are 4096 chunks
    header = side.to_bytes(4, "big") * 2 + bytes([16, 0, 0, 0, 0])
    parts = [(b"IDAT", packed[at : at + 8192]) for at in range(0, len(packed), 8192)]
    (tmp_path / "a.png").write_bytes(_png((b"IHDR", header), *parts, (b"IEND", b"")))
    before = time.process_time()  # of this process: others may be busy
    picture = read_image(tmp_path / "a.png")
    assert time.process_time() - before < 2
    assert np.array_equal(picture.pixels[0], array)


@pytest.mark.parametrize("pages", [1, 3, 120])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_pages_that_lead_in_a_circle_are_damage(tmp_path, pages, bigtiff):
    """tifffile reads such a file for ever."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as file:
        for _ in range(pages):
            file.write(np.zeros((2, 2), np.uint8), photometric="minisblack", contiguous=False)
    with tifffile.TiffFile(path) as file:
        last = file.pages[-1]
        first_offset, offset, form = file.pages[0].offset, last.offset, file.tiff
    data = bytearray(path.read_bytes())
    (tags,) = struct.unpack_from(form.tagnoformat, data, offset)
    at = offset + form.tagnosize + tags * form.tagsize
    assert struct.unpack_from(form.offsetformat, data, at) == (0,)
    struct.pack_into(form.offsetformat, data, at, first_offset)
    path.write_bytes(data)
    assert num_pages(path) == 1  # of a damaged one
    assert container_of(path) == Container()
    with pytest.raises(DataError, match="lead in a circle"):
        read_image(path)
