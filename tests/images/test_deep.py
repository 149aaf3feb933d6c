"""HEIC, AVIF, JPEG 2000 and PPM of more than 8 bits are read as 16 bits, and keep them."""

from __future__ import annotations

import sys

import glymur
import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from patchkin.errors import DataError
from patchkin.images import read_image
from patchkin.images.boxes import fits_jp2, with_jp2_metadata
from patchkin.images.container import container_of
from patchkin.images.limits import VARIABLE, allow_pixels
from patchkin.images.saving import Page, write_pages
from patchkin.images.sizes import image_size

RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


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


@pytest.mark.parametrize("bits", [8, 10])
def test_an_avif_may_have_the_brand_that_heic_has_too(ramps, tmp_path, bits):
    levels = ramps if bits == 10 else (ramps >> 2).astype(np.uint8)
    content = imagecodecs.avif_encode(levels, bitspersample=bits, level=100)
    (tmp_path / "a.avif").write_bytes(content)
    (tmp_path / "b.avif").write_bytes(content.replace(b"ftypavif", b"ftypmif1", 1))
    a, b = (np.asarray(read_image(tmp_path / name).pixels) for name in ("a.avif", "b.avif"))
    assert np.array_equal(a, b)
    assert a.dtype == (np.uint8 if bits == 8 else np.uint16)


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


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_2000_has_all_its_levels_both_ways(tmp_path, bits, channels):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 2**bits, (16, 64, channels), dtype=np.uint16)
    stored = levels[:, :, 0] if channels == 1 else levels
    content = imagecodecs.jpeg2k_encode(stored, level=0, codecformat="jp2", bitspersample=bits)
    (tmp_path / "a.jp2").write_bytes(content)
    picture = read_image(tmp_path / "a.jp2")
    expected = as_16_bits(levels, bits).transpose(2, 0, 1)
    assert np.array_equal(picture.pixels, expected[: min(channels, 3)])
    assert (picture.alpha is not None) == (channels == 4)
    page = Page(np.asarray(picture.pixels), picture.alpha)
    assert write_pages(tmp_path / "b.jp2", [page], container_of(tmp_path / "a.jp2")) == []
    again = read_image(tmp_path / "b.jp2")
    assert np.array_equal(again.pixels, picture.pixels)
    if channels == 4:
        assert np.array_equal(again.alpha, expected[3])


@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize("white", [256, 1023, 4095, 65535])
def test_ppm_and_pgm_have_all_their_levels_both_ways(tmp_path, kind, white):
    channels = 3 if kind in ("P3", "P6") else 1
    rng = np.random.default_rng(0)
    levels = rng.integers(0, white + 1, (6, 7, channels), dtype=np.uint16)
    header = f"{kind}\n# by hand\n7 6\n{white}\n".encode()
    body = levels.astype(">u2").tobytes()
    if kind in ("P2", "P3"):
        body = " ".join(map(str, levels.ravel())).encode()
    path = tmp_path / ("a.ppm" if channels == 3 else "a.pgm")
    path.write_bytes(header + body)
    picture = read_image(path)
    expected = np.rint(levels * (65535 / white)).transpose(2, 0, 1)
    assert np.array_equal(picture.pixels, expected)
    assert write_pages(tmp_path / "b.pnm", [Page(picture.pixels)], container_of(path)) == []
    assert np.array_equal(read_image(tmp_path / "b.pnm").pixels, picture.pixels)
    path.write_bytes((header + body)[:-7])
    with pytest.raises(DataError, match="truncated"):
        read_image(path)


@pytest.mark.parametrize("kind", ["8.jp2", "16.jp2", "10.avif"])
def test_profile_and_exif_are_kept_as_others_read_them(ramps, tmp_path, kind):
    bits, suffix = kind.split(".")
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 6
    Image.fromarray((ramps >> 2).astype(np.uint8)).save(
        tmp_path / "a.jpg", exif=exif, icc_profile=RGB_PROFILE, dpi=(300, 300)
    )
    container = container_of(tmp_path / "a.jpg")
    levels_CHW = ramps.transpose(2, 0, 1)
    page = Page((levels_CHW >> 2).astype(np.uint8) if bits == "8" else levels_CHW << 6)
    target = tmp_path / f"b.{suffix}"
    notes = write_pages(target, [page], container, quality=100)
    written = ["its levels are written with 10 bits"] if suffix == "avif" else []
    lost = [] if suffix == "avif" else ["resolution not kept: .jp2 has no place for it"]
    assert notes == lost + written
    if suffix == "jp2":
        told = _by_glymur(target)
    else:
        with Image.open(target) as image:
            told = (image.info["icc_profile"], dict(image.getexif()))
    assert told[0] == RGB_PROFILE
    assert told[1].get("Make", told[1].get(0x010F)) == "a camera"
    assert not {"Orientation", 0x0112} & set(told[1])
    again = container_of(target)
    assert again.icc_profile == RGB_PROFILE
    assert (again.exif or b"").removeprefix(b"Exif\0\0") == container.exif.removeprefix(b"Exif\0\0")
    kept = np.asarray(read_image(target).pixels)
    if suffix == "jp2":
        assert np.array_equal(kept, page.levels.transpose(1, 2, 0) if bits == "8" else page.levels)
    plain = tmp_path / f"plain.{suffix}"
    write_pages(plain, [page], container_of(tmp_path / "none.png"), quality=100)
    assert np.array_equal(kept, np.asarray(read_image(plain).pixels))


def _by_glymur(path):
    """Colour profile and EXIF as another reader of JPEG 2000 finds them."""
    boxes = glymur.Jp2k(path).box
    header = next(box for box in boxes if box.box_id == "jp2h")
    (colour,) = [box for box in header.box if box.box_id == "colr"]
    assert colour.method == 2, "restricted ICC"
    return bytes(colour.icc_profile), next(box for box in boxes if box.box_id == "uuid").data


@pytest.mark.parametrize("bits", [8, 16])
def test_a_turned_jpeg_2000_is_upright_and_its_copy_says_so(ramps, tmp_path, bits):
    levels = (ramps >> 2).astype(np.uint8) if bits == 8 else ramps << 6
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = imagecodecs.jpeg2k_encode(levels, level=0, codecformat="jp2")
    (tmp_path / "a.jp2").write_bytes(with_jp2_metadata(plain, None, exif.tobytes()))
    picture = read_image(tmp_path / "a.jp2")
    pixels = np.asarray(picture.pixels)
    upright = pixels if bits == 8 else pixels.transpose(1, 2, 0)
    assert np.array_equal(upright, np.rot90(levels, -1))
    assert image_size(tmp_path / "a.jp2") == picture.size == (16, 64)
    assert container_of(tmp_path / "a.jp2").exif is None


def test_a_profile_of_tables_has_no_place_in_jpeg_2000(tmp_path):
    tables = RGB_PROFILE.replace(b"rXYZ", b"A2B0", 1)
    assert (fits_jp2(RGB_PROFILE), fits_jp2(tables)) == (True, False)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", icc_profile=tables)
    page = Page(np.zeros((3, 8, 8), np.uint8))
    assert write_pages(tmp_path / "b.jp2", [page], container_of(tmp_path / "a.png")) == [
        "its colour profile is not kept: JPEG 2000 has no place for tables of colours"
    ]


def test_what_a_pnm_has_no_place_for_is_said(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", icc_profile=RGB_PROFILE, exif=exif)
    for dtype in (np.uint8, np.uint16):
        page = Page(np.zeros((3, 8, 8), dtype))
        (note,) = write_pages(tmp_path / "b.ppm", [page], container_of(tmp_path / "a.png"))
        assert note == "colour profile, EXIF not kept: .ppm has no place for it"
