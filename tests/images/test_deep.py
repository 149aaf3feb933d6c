"""HEIC and AVIF of 10 and 12 bits are read as 16 bits, and written with 10."""

from __future__ import annotations

import sys

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from patchkin.errors import DataError
from patchkin.images import read_image
from patchkin.images.container import container_of
from patchkin.images.limits import VARIABLE, allow_pixels
from patchkin.images.saving import Page, write_pages


@pytest.fixture
def ramps():
    """[H, W, 3] of all 1024 levels of 10 bits."""
    ramp = np.arange(1024, dtype=np.uint16).reshape(16, 64)
    return np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2)


def as_16_bits(levels, bits=10):
    return np.rint(levels * (65535 / (2**bits - 1))).astype(int)


def write_heic(path, levels, bits=10):
    mode = {2: "I;16", 3: "RGB;16", 4: "RGBA;16"}[levels.shape[2] if levels.ndim == 3 else 2]
    wide = (levels << (16 - bits)).astype(np.uint16)
    size = (levels.shape[1], levels.shape[0])
    pillow_heif.from_bytes(mode, size, wide.tobytes()).save(path, quality=-1, chroma=444)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [10, 12])
def test_an_avif_has_all_its_levels(ramps, tmp_path, channels, bits):
    levels = (ramps << (bits - 10))[:, :, 0] if channels == 1 else ramps << (bits - 10)
    content = imagecodecs.avif_encode(levels, bitspersample=bits, level=100)
    (tmp_path / "a.avif").write_bytes(content)
    picture = read_image(tmp_path / "a.avif")
    assert (picture.encoding.bits, picture.encoding.channels) == (16, channels)
    stored = imagecodecs.avif_decode(content)
    assert np.abs(stored.astype(int) - levels).max() <= 2**bits / 256
    expected = as_16_bits(stored, bits).reshape(*stored.shape[:2], channels).transpose(2, 0, 1)
    assert np.array_equal(picture.pixels, expected)
    assert len(np.unique(picture.pixels)) > 512
    assert container_of(tmp_path / "a.avif").bits == bits
    assert container_of(tmp_path / "a.avif").notes == ()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_heic_has_all_its_levels(ramps, tmp_path, channels):
    alpha = np.full((16, 64, 1), 1023, np.uint16)
    levels = ramps[:, :, 0] if channels == 1 else np.concatenate([ramps, alpha], 2)[:, :, :channels]
    write_heic(tmp_path / "a.heic", levels)
    picture = read_image(tmp_path / "a.heic")
    assert (picture.encoding.bits, picture.encoding.channels) == (16, min(channels, 3))
    expected = as_16_bits(levels[:, :, None] if channels == 1 else levels).transpose(2, 0, 1)[:3]
    off = np.abs(picture.pixels.astype(int) - expected)
    assert off.mean() < 65535 / 256
    assert len(np.unique(picture.pixels)) > 512
    if channels == 4:
        assert np.array_equal(picture.alpha, np.full((16, 64), 65535))


def test_turned_avif_is_upright(ramps, tmp_path):
    """Pillow writes the turn, which is that of the pixels in either depth."""
    Image.fromarray((ramps >> 2).astype(np.uint8)).save(tmp_path / "8.avif", quality=100)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray((ramps >> 2).astype(np.uint8)).save(tmp_path / "6.avif", exif=exif)
    assert read_image(tmp_path / "6.avif").size == (16, 64)
    boxes = (tmp_path / "6.avif").read_bytes()
    assert b"irot" in boxes
    deep = imagecodecs.avif_encode(ramps, bitspersample=10, level=100)
    (tmp_path / "10.avif").write_bytes(deep)
    assert read_image(tmp_path / "10.avif").size == (64, 16)


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_what_is_read_is_written_with_as_many_bits(ramps, tmp_path, suffix, channels, has_alpha):
    rows, columns = np.mgrid[:64, :64] * 16
    smooth = np.stack([rows, columns, (rows + columns) // 2])  # colours are stored by 2 x 2 pixels
    levels_CHW = as_16_bits(smooth).astype(np.uint16)[:channels]
    alpha = as_16_bits(rows).astype(np.uint16) if has_alpha else None
    write_heic(tmp_path / "in.heic", ramps)
    container = container_of(tmp_path / "in.heic")
    target = tmp_path / f"out{suffix}"
    assert write_pages(target, [Page(levels_CHW, alpha)], container, quality=100) == []
    again = read_image(target, channels)
    assert again.encoding.bits == 16
    assert np.abs(again.pixels.astype(int) - levels_CHW).mean() < 65535 / 256
    assert container_of(target).bits == 10
    assert (again.alpha is not None) == has_alpha
    notes = write_pages(target, [Page(levels_CHW, alpha)], container_of(tmp_path / "a.png"))
    assert notes == ["its levels are written with 10 bits"]


def test_without_imagecodecs_a_deep_avif_is_refused_and_a_plain_one_is_not(
    ramps, tmp_path, monkeypatch
):
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(ramps, bitspersample=10))
    Image.fromarray((ramps >> 2).astype(np.uint8)).save(tmp_path / "8.avif")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(DataError, match=r"AVIF of 10 bits needs imagecodecs.*patchkin\[tiff\]"):
        read_image(tmp_path / "a.avif")
    assert read_image(tmp_path / "8.avif").encoding.bits == 8


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_limits_and_damage_are_told(ramps, tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".heic":
        write_heic(path, ramps)
    else:
        path.write_bytes(imagecodecs.avif_encode(ramps, bitspersample=10))
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="--max-pixels"):
        read_image(path)
    allow_pixels(1024)
    assert read_image(path).size == (64, 16)
    content = path.read_bytes()
    for length in (20, 100, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"^[^\n]*cannot be decoded[^\n]*$"):
            read_image(path)
