from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from patchkin.errors import ConfigError, DataError, StorageError
from patchkin.images import (
    Encoding,
    image_grid,
    is_image_file,
    read_image,
    to_tensor,
    to_uint8,
    write_image,
    write_pillow,
)

RAMP_HWC = np.stack(
    [np.tile(np.arange(0, 250, 10), (20, 1)), np.tile(np.arange(0, 200, 10), (25, 1)).T] * 2, axis=2
).astype(np.uint8)[:, :, :3]
EVERY_LEVEL_HW = np.arange(256, dtype=np.uint8).reshape(16, 16)


def _uint16(channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(0)
    array = generator.integers(0, 65536, (9, 13, channels), dtype=np.uint16)
    array[0, 0], array[0, 1] = 0, 65535
    return array


def _array(pixels: object) -> np.ndarray:
    if isinstance(pixels, Image.Image):
        return np.asarray(pixels)
    return pixels.transpose(1, 2, 0)


# Reading 8 bits


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tif", ".tga"])
def test_lossless_colour_formats_give_the_pixels_back(tmp_path, suffix):
    Image.fromarray(RAMP_HWC).save(tmp_path / f"a{suffix}")
    picture = read_image(tmp_path / f"a{suffix}")
    assert picture.pixels.mode == "RGB"
    assert picture.encoding == Encoding(8, 3)
    assert picture.size == (25, 20)
    assert np.array_equal(np.asarray(picture.pixels), RAMP_HWC)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif", ".gif"])
def test_lossy_formats_come_close(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    Image.fromarray(RAMP_HWC).save(tmp_path / f"a{suffix}", quality=95)
    difference = _array(read_image(tmp_path / f"a{suffix}").pixels).astype(int) - RAMP_HWC
    assert np.abs(difference).mean() < 8


def test_grey_stays_grey_unless_three_channels_are_wanted(tmp_path):
    Image.fromarray(EVERY_LEVEL_HW).save(tmp_path / "a.png")
    grey, colour = read_image(tmp_path / "a.png"), read_image(tmp_path / "a.png", channels=3)
    assert grey.pixels.mode == "L"
    assert colour.encoding == Encoding(8, 1), "the encoding is that of the file"
    assert np.array_equal(_array(colour.pixels), np.stack([EVERY_LEVEL_HW] * 3, axis=2))


def test_colour_becomes_luma_where_one_channel_is_wanted(tmp_path):
    Image.fromarray(RAMP_HWC).save(tmp_path / "a.png")
    grey = _array(read_image(tmp_path / "a.png", channels=1).pixels).astype(float)
    expected = RAMP_HWC @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - expected).max() <= 1


def test_float_colour_becomes_luma_without_rounding(tmp_path):
    np.save(tmp_path / "a.npy", RAMP_HWC.astype(np.float32) / 255)
    grey = _array(read_image(tmp_path / "a.npy", channels=1).pixels)[:, :, 0]
    expected = RAMP_HWC.astype(np.float32) / 255 @ np.float32([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey, expected, rtol=0, atol=1e-6)


def test_palette_with_and_without_transparency(tmp_path):
    colour = Image.fromarray(np.repeat(np.repeat(RAMP_HWC[:2, :2] * 9, 8, 0), 8, 1))
    palette = colour.quantize(8)
    palette.save(tmp_path / "plain.png")
    palette.save(tmp_path / "clear.png", transparency=bytes([0, 128]))
    for name in ("plain.png", "clear.png"):
        picture = read_image(tmp_path / name)
        assert picture.pixels.mode == "RGB"
        assert np.array_equal(_array(picture.pixels), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(("mode", "kept"), [("RGBA", "RGB"), ("LA", "L")])
def test_alpha_is_dropped_not_blended(tmp_path, mode, kept):
    colour = Image.fromarray(RAMP_HWC).convert(kept)
    with_alpha = colour.convert(mode)
    with_alpha.putalpha(7)
    with_alpha.save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert picture.pixels.mode == kept
    assert np.array_equal(_array(picture.pixels), np.asarray(colour))


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    picture = read_image(tmp_path / "a.jpg")
    assert picture.encoding == Encoding(8, 3)
    assert np.abs(_array(picture.pixels)[4, 4].astype(int) - (255, 0, 0)).max() <= 3


def test_black_and_white_becomes_0_and_255(tmp_path):
    Image.fromarray(EVERY_LEVEL_HW > 100).save(tmp_path / "a.png")
    assert np.array_equal(
        _array(read_image(tmp_path / "a.png").pixels), (EVERY_LEVEL_HW > 100) * 255
    )


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    Image.fromarray(RAMP_HWC).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(_array(read_image(tmp_path / "a.png").pixels), np.rot90(RAMP_HWC, -1))


def test_suffixes_are_compared_without_case_and_hidden_files_do_not_count():
    assert all(is_image_file(Path(name)) for name in ("a.JPEG", "b.Tif", "c.npy", "d.webp"))
    assert not any(is_image_file(Path(name)) for name in ("._a.jpg", "a.txt", "Thumbs.db", "a"))


# Reading more than 8 bits


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_16_bits_survive_reading_and_writing_exactly(tmp_path, suffix, channels):
    array = _uint16(channels)
    encoding = Encoding(16, channels)
    source_CHW = torch.from_numpy(array.transpose(2, 0, 1).copy())
    image_CHW = (source_CHW.float() / 65535 - 0.5) / 0.5
    write_image(tmp_path / f"a{suffix}", image_CHW, encoding)
    picture = read_image(tmp_path / f"a{suffix}")
    assert picture.encoding == encoding
    assert picture.pixels.dtype == np.uint16
    assert np.array_equal(_array(picture.pixels), array)
    write_image(tmp_path / f"b{suffix}", to_tensor(picture), picture.encoding)
    assert np.array_equal(_array(read_image(tmp_path / f"b{suffix}").pixels), array)


def test_16_bit_png_is_read_by_others_and_from_others(tmp_path):
    array = _uint16()
    image_CHW = torch.from_numpy(array[:, :, 0].astype(np.float32) / 65535 * 2 - 1)[None]
    write_image(tmp_path / "ours.png", image_CHW, Encoding(16, 1))
    with Image.open(tmp_path / "ours.png") as image:
        image.load()
        assert np.array_equal(np.asarray(image), array[:, :, 0])
    Image.fromarray(array[:, :, 0]).save(tmp_path / "theirs.png")
    assert np.array_equal(_array(read_image(tmp_path / "theirs.png").pixels), array)


def _png(
    array: np.ndarray, colour_type: int, filters: list[int], *more: tuple[bytes, bytes]
) -> bytes:
    """A 16-bit PNG, filtered byte by byte as the specification says."""
    height, width, channels = array.shape
    step, lines, above = 2 * channels, b"", bytes(2 * channels * width)
    for row, kind in zip(array, filters, strict=True):
        line = row.astype(">u2").tobytes()
        left, corner = bytes(step) + line, bytes(step) + above
        lines += bytes([kind])
        for i, value in enumerate(line):
            a, b, c = left[i], above[i], corner[i]
            paeth = min((a, b, c), key=lambda near, p=a + b - c: abs(p - near))
            lines += bytes([(value - (0, a, b, (a + b) // 2, paeth)[kind]) % 256])
        above = line
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    packed = zlib.compress(lines)
    parts = [
        (b"IHDR", header),
        *more,
        (b"IDAT", packed[:20]),
        (b"IDAT", packed[20:]),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


@pytest.mark.parametrize(
    ("colour_type", "channels", "kept"), [(0, 1, 1), (2, 3, 3), (4, 2, 1), (6, 4, 3)]
)
def test_16_bit_png_of_every_filter_and_colour_type(tmp_path, colour_type, channels, kept):
    array = _uint16(channels)
    array[5:] = np.cumsum(
        array[5:] // 500, axis=1, dtype=np.uint16
    )  # smooth, so predictions matter
    filters = [0, 1, 2, 3, 4, 4, 3, 2, 1]
    (tmp_path / "a.png").write_bytes(_png(array, colour_type, filters))
    picture = read_image(tmp_path / "a.png")
    assert picture.encoding == Encoding(16, kept)
    assert np.array_equal(_array(picture.pixels), array[:, :, :kept])


def test_16_bit_png_obeys_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    notes = (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "a.png").write_bytes(_png(_uint16(3), 2, [0] * 9, notes))
    assert np.array_equal(_array(read_image(tmp_path / "a.png").pixels), np.rot90(_uint16(3), -1))


def test_damaged_16_bit_png_names_the_chunk(tmp_path):
    whole = bytearray(_png(_uint16(3), 2, [0] * 9))
    whole[60] ^= 1
    (tmp_path / "a.png").write_bytes(whole)
    with pytest.raises(DataError, match="its IDAT chunk is damaged"):
        read_image(tmp_path / "a.png")


def test_16_bit_pgm(tmp_path):
    array = _uint16()
    (tmp_path / "a.pgm").write_bytes(b"P5\n13 9\n65535\n" + array.astype(">u2").tobytes())
    picture = read_image(tmp_path / "a.pgm")
    assert picture.encoding == Encoding(16, 1)
    assert np.array_equal(_array(picture.pixels), array)


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("channels", [2, 5])
def test_n_channel_files_survive_reading_and_writing(tmp_path, suffix, bits, channels):
    levels = {8: 255, 16: 65535, 32: 2**20}[bits]
    generator = torch.Generator().manual_seed(0)
    whole_CHW = torch.randint(0, levels + 1, (channels, 6, 9), generator=generator)
    image_CHW = (whole_CHW.double() / levels * 2 - 1).float()
    encoding = Encoding(bits, channels)
    write_image(tmp_path / f"a{suffix}", image_CHW, encoding)
    picture = read_image(tmp_path / f"a{suffix}", channels)
    assert picture.encoding == encoding
    assert picture.size == (9, 6)
    torch.testing.assert_close(to_tensor(picture), image_CHW, rtol=0, atol=1e-6)


def test_without_tifffile_8_bit_tiff_still_works(tmp_path, monkeypatch):
    Image.fromarray(RAMP_HWC).save(tmp_path / "8.tif")
    np.save(tmp_path / "16.npy", _uint16())
    Image.fromarray(_uint16()[:, :, 0]).save(tmp_path / "16.tif")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert np.array_equal(_array(read_image(tmp_path / "8.tif").pixels), RAMP_HWC)
    with pytest.raises(
        DataError, match=r"needs tifffile and imagecodecs; run `pip install patchkin\[tiff\]`"
    ):
        read_image(tmp_path / "16.tif")
    with pytest.raises(ConfigError, match=r"or write \.npy"):
        write_image(tmp_path / "b.tif", torch.zeros(1, 2, 2), Encoding(16, 1))


def test_npy_of_uint8_is_an_ordinary_picture(tmp_path):
    np.save(tmp_path / "a.npy", RAMP_HWC)
    picture = read_image(tmp_path / "a.npy")
    assert picture.pixels.mode == "RGB"
    assert np.array_equal(_array(picture.pixels), RAMP_HWC)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 90), np.uint8), r"expected HWC\. Is it CHW"),
        (np.zeros(7, np.uint8), "expected HW or HWC"),
        (np.zeros((4, 4), np.int64), "values of type int64; expected integers of at most 32 bits"),
        (np.full((4, 4), np.nan), "not numbers"),
        (np.array([{}], dtype=object), "allow_pickle=False"),
    ],
)
def test_unusable_arrays_say_why(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message) as caught:
        read_image(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)


# Broken files


def _jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's remark on the cut TIFF
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("truncated.jpg", _jpeg()[:900], "truncated"),
        ("empty.png", b"", "the file is empty"),
        ("text.png", b"hello, this is no picture", "not an image in a known format"),
        ("cut.npy", b"\x93NUMPY\x01", "."),
        ("cut.tif", b"II*\0\x08\0\0\0", "."),
        ("cut16.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x04\0\0\0\x04\x10\0\0\0\0", "."),
    ],
)
def test_broken_files_are_named_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_image(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(f"`{tmp_path / name}`: cannot be decoded: ")
    assert "\n" not in message
    assert not message.endswith("..")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"`.*nothing\.png` does not exist\."):
        read_image(tmp_path / "nothing.png")


def test_wrong_number_of_channels(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 5), np.uint8))
    with pytest.raises(DataError, match="has 5 channels, 3 are wanted"):
        read_image(tmp_path / "a.npy", channels=3)


# Values


def test_8_bit_values_follow_the_published_order_of_operations(tmp_path):
    Image.fromarray(EVERY_LEVEL_HW).save(tmp_path / "a.png")
    values = to_tensor(read_image(tmp_path / "a.png"))[0]
    expected = torch.from_numpy(EVERY_LEVEL_HW).float().div(255).sub(0.5).div(0.5)
    assert torch.equal(values, expected)


def test_every_8_bit_level_comes_back_when_rounded_to_nearest(tmp_path):
    Image.fromarray(EVERY_LEVEL_HW).save(tmp_path / "a.png")
    image_CHW = to_tensor(read_image(tmp_path / "a.png"))
    assert np.array_equal(to_uint8(image_CHW)[0].numpy(), EVERY_LEVEL_HW)
    write_image(tmp_path / "b.png", image_CHW, Encoding(8, 1))
    assert (tmp_path / "b.png").exists()
    assert np.array_equal(_array(read_image(tmp_path / "b.png").pixels), EVERY_LEVEL_HW)
    truncated = to_uint8(image_CHW, "released")[0].numpy()
    assert (truncated < EVERY_LEVEL_HW).any(), "the released rule loses levels"


def test_12_bit_data_uses_its_declared_range_and_is_clipped(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 4095], [2048, 9999]], np.uint16))
    values = to_tensor(read_image(tmp_path / "a.npy"), value_range=(0, 4095))[0]
    expected = torch.tensor([[-1.0, 1.0], [2 * 2048 / 4095 - 1, 1.0]])
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)
    write_image(tmp_path / "b.npy", values[None], Encoding(16, 1), value_range=(0, 4095))
    assert np.load(tmp_path / "b.npy").tolist() == [[0, 4095], [2048, 4095]]


def test_float_outside_0_to_1_needs_a_declared_range(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[-1000.0, 400.0]], np.float32))
    picture = read_image(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"from -1000 to 400; say which range .* `value_range`"):
        to_tensor(picture)
    assert to_tensor(picture, (-1000, 1000)).tolist() == [[[-1.0, pytest.approx(0.4)]]]


# Writing


def test_channels_of_the_input_are_kept(tmp_path):
    write_image(tmp_path / "grey.png", torch.full((3, 4, 4), 1.0), Encoding(8, 1))
    write_image(tmp_path / "colour.png", torch.full((1, 4, 4), -1.0), Encoding(8, 3))
    assert read_image(tmp_path / "grey.png").encoding == Encoding(8, 1)
    assert _array(read_image(tmp_path / "grey.png").pixels).min() == 255
    assert read_image(tmp_path / "colour.png").encoding == Encoding(8, 3)


@pytest.mark.parametrize("encoding", [Encoding(16, 3), Encoding(8, 5), Encoding(32, 1)])
def test_a_format_that_cannot_hold_the_encoding_is_refused(tmp_path, encoding):
    with pytest.raises(ConfigError, match=r"`\.jpg` cannot hold .* use \.(png|tif) or \.npy"):
        write_image(tmp_path / "a.jpg", torch.zeros(encoding.channels, 4, 4), encoding)
    with pytest.raises(ConfigError, match=r"`\.xyz`"):
        write_pillow(tmp_path / "a.xyz", Image.new("L", (2, 2)))


def test_a_failed_write_is_one_line_and_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"Cannot write `.*a\.png`: ") as caught:
        write_image(tmp_path / "file" / "a.png", torch.zeros(3, 4, 4), Encoding(8, 3))
    assert "\n" not in str(caught.value)

    class Unsavable(Image.Image):
        def save(self, part, **_):
            part.write(b"half of a file")
            raise OSError(28, "No space left on device")

    write_image(tmp_path / "a.png", torch.zeros(3, 4, 4), Encoding(8, 3))
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(StorageError, match="No space left"):
        write_pillow(tmp_path / "a.png", Unsavable())
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file"]


# Grids


def test_grid_places_images_of_any_size_and_kind():
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 5, 4)
    grey, many = torch.zeros(1, 2, 3), torch.full((6, 3, 3), -1.0)
    grid = np.asarray(image_grid([[red, grey], [many]], gap_pixels=2))
    assert grid.shape == (5 + 2 + 3, 4 + 2 + 3, 3)
    assert grid[4, 3].tolist() == [255, 0, 0]
    assert grid[1, 6 + 2].tolist() == [128, 128, 128]
    assert grid[7, 0].tolist() == [0, 0, 0]
    assert grid[5, 0].tolist() == grid[0, 4].tolist() == [255, 255, 255]


def test_grid_with_captions_has_dark_ink_above():
    captioned = np.asarray(image_grid([[torch.ones(3, 30, 60)] * 2], captions=["real", "fake"]))
    plain = np.asarray(image_grid([[torch.ones(3, 30, 60)] * 2]))
    top = captioned.shape[0] - plain.shape[0]
    assert top > 8
    assert captioned[:top].min() < 60
    assert np.array_equal(captioned[top:], plain)


def test_captions_stay_above_their_column():
    """Columns of 40 pixels with long captions: the ink of each equals that of the column alone."""
    white = torch.ones(3, 10, 40)
    captions = ["in the target's style", "target to source"]
    both = np.asarray(image_grid([[white] * 2], captions=captions, gap_pixels=8))
    for column, caption in enumerate(captions):
        alone = np.asarray(image_grid([[white]], captions=[caption]))
        part = both[: alone.shape[0], column * 48 :][:, :48]
        ink = [np.argwhere(image[:-10].min(axis=2) < 128).tolist() for image in (part, alone)]
        assert ink[0] == ink[1] != []


def test_empty_grid_is_refused():
    with pytest.raises(ConfigError, match="at least one image"):
        image_grid([])
