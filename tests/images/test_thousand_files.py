"""A thousand kinds of files: each is one line, or has the pixels that an independent reader finds.

Independent are Pillow for what Pillow wrote, the array itself where the file is lossless, and
imagecodecs or libtiff (Pillow) for lossy compressions.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from patchkin.errors import DataError
from patchkin.images import read_image
from patchkin.images.pages import each_page

HEIGHT, WIDTH = 18, 21
RNG = np.random.default_rng(0)


class Case(NamedTuple):
    name: str
    content: bytes
    expected: list[np.ndarray] | None
    """[H, W, C] of each page; None: whatever it is, it must be that or a `DataError`."""
    tolerance: int = 0


def _values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "bool":
        return RNG.random(shape) > 0.5
    if dtype.startswith("float"):
        return RNG.random(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def _tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def _hwc(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    return array[:, :, None] if array.ndim == 2 else array


def _tiff_types() -> Iterator[Case]:
    """Every type in every lossless compression, interleaved, planar, tiled, both byte orders."""
    types = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
    compressions = (None, "lzw", "packbits", "zlib", "zstd", "lzma")
    for dtype, compression, order in itertools.product(types, compressions, "<>"):
        for channels, tile in itertools.product((1, 3, 5), (None, (16, 16))):
            shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
            array = _values(shape, dtype)
            options = {
                "photometric": "rgb" if channels == 3 else "minisblack",
                "compression": compression,
                "byteorder": order,
                "tile": tile,
                "metadata": None,
            }
            if channels == 5:
                options |= {"planarconfig": "contig", "extrasamples": ["unspecified"] * 4}
            name = f"{dtype}-{compression}-{order}-{channels}-{tile}.tif"
            yield Case(name, _tiff(array, **options), [_hwc(array)])


def _tiff_layouts() -> Iterator[Case]:
    """Predictors, planes, strips, BigTIFF, alpha, white is zero, black and white."""
    for dtype, compression, planar in itertools.product(
        ("uint8", "uint16", "float32"), ("lzw", "zlib", "zstd"), ("contig", "separate")
    ):
        shape = (3, HEIGHT, WIDTH) if planar == "separate" else (HEIGHT, WIDTH, 3)
        array = _values(shape, dtype)
        options = {"photometric": "rgb", "planarconfig": planar, "metadata": None}
        for big, rows in itertools.product((False, True), (1, 7)):
            content = _tiff(
                array,
                compression=compression,
                predictor=True,
                bigtiff=big,
                rowsperstrip=rows,
                **options,
            )
            expected = array.transpose(1, 2, 0) if planar == "separate" else array
            yield Case(f"{dtype}-{compression}-{planar}-{big}-{rows}.tif", content, [expected])
    for dtype, orientation in itertools.product(("uint8", "uint16", "float32"), range(1, 9)):
        array = _values((HEIGHT, WIDTH, 3), dtype)
        tags = [(274, "H", 1, orientation, True)]
        content = _tiff(array, photometric="rgb", extratags=tags, metadata=None)
        yield Case(f"orientation{orientation}-{dtype}.tif", content, [_turned(array, orientation)])
    for dtype, kind in itertools.product(("uint8", "uint16"), ("unassalpha", "unspecified")):
        array = _values((HEIGHT, WIDTH, 4), dtype)
        content = _tiff(array, photometric="rgb", extrasamples=[kind], metadata=None)
        expected = array[:, :, :3] if kind == "unassalpha" else array
        yield Case(f"{kind}-{dtype}.tif", content, [expected])
    for dtype, compression in itertools.product(
        ("bool", "uint8", "uint16", "uint32"), (None, "lzw", "zlib", "packbits")
    ):
        array = _values((HEIGHT, WIDTH), dtype)
        for white in (False, True):
            content = _tiff(
                array,
                photometric="miniswhite" if white else "minisblack",
                compression=compression,
                metadata=None,
            )
            black = array
            if white:
                black = ~array if dtype == "bool" else np.iinfo(dtype).max - array
            yield Case(f"white{white}-{dtype}-{compression}.tif", content, [_hwc(black)])


def _tiff_stacks() -> Iterator[Case]:
    """ImageJ, OME and plain files with pages and channels."""
    sizes = {"T": 2, "Z": 3, "C": 2}
    for kind, axes, dtype in itertools.product(
        ("imagej", "ome", "shaped"),
        ("T", "Z", "C", "TZ", "TC", "ZC", "TZC"),
        ("uint8", "uint16", "float32"),
    ):
        array = _values((*(sizes[axis] for axis in axes), HEIGHT, WIDTH), dtype)
        options = {} if kind == "shaped" else {kind: True}
        for compression in (None, "lzw"):
            content = _tiff(
                array,
                photometric="minisblack",
                compression=compression,
                metadata={"axes": f"{axes}YX"},
                **options,
            )
            channels = 2 if "C" in axes else 1
            expected = list(array.reshape(-1, channels, HEIGHT, WIDTH).transpose(0, 2, 3, 1))
            yield Case(f"{kind}-{axes}-{dtype}-{compression}.tif", content, expected)


def _lossy_tiffs() -> Iterator[Case]:
    for channels, level in itertools.product((1, 3), (50, 75, 95)):
        shape = (32, 48) if channels == 1 else (32, 48, 3)
        smooth = np.cumsum(RNG.integers(0, 5, shape), axis=0).astype(np.uint8)
        content = _tiff(
            smooth, photometric="rgb" if channels == 3 else "minisblack", compression="jpeg",
            compressionargs={"level": level}, metadata=None,
        )  # fmt: skip
        with Image.open(io.BytesIO(content)) as image:
            yield Case(f"jpeg{level}-{channels}.tif", content, [_hwc(np.asarray(image))], 2)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _pillow_files() -> Iterator[Case]:
    """Every mode in every format that takes it; expected is what Pillow decodes."""
    formats = {
        "PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif",
        "WEBP": ".webp", "TGA": ".tga", "PPM": ".ppm", "JPEG2000": ".jp2", "AVIF": ".avif",
    }  # fmt: skip
    base = Image.fromarray(_values((HEIGHT, WIDTH, 4), "uint8"))
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16")
    for (form, suffix), mode in itertools.product(formats.items(), modes):
        for orientation in (1, 3, 6, 8) if form in ("JPEG", "PNG", "WEBP") else (1,):
            if mode == "I;16":
                image = Image.fromarray(_values((HEIGHT, WIDTH), "uint16"))
            else:
                image = base.convert("L" if mode == "I;16" else mode)
            exif = Image.Exif()
            exif[274] = orientation
            options = {"exif": exif} if orientation > 1 else {}
            try:
                content = _saved(image, form, **options)
                pixels = _by_pillow(content)
            except (OSError, KeyError, ValueError, SystemError):
                continue  # not a mode of this format; Pillow 11.3 cuts its own TIFF of YCbCr short
            name = f"pillow-{mode.replace(';', '')}-{orientation}{suffix}"
            yield Case(name, content, pixels)
    fax = ("group4", "group3") if hasattr(imagecodecs, "ccittfax4_decode") else ()
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", *fax):
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
            if (compression == "jpeg" and mode in ("1", "P")) or (
                compression.startswith("group") and mode != "1"
            ):
                continue  # which hold no such pixels; Pillow up to 12.3 ends the process
            try:
                content = _saved(base.convert(mode), "TIFF", compression=compression)
            except (OSError, KeyError, ValueError):
                continue
            yield Case(f"libtiff-{compression}-{mode}.tif", content, _by_pillow(content), 2)


def _by_pillow(content: bytes) -> list[np.ndarray]:
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("1", "L", "LA"):
            return [_hwc(np.asarray(upright.convert("L")))]
        if upright.mode.startswith("I"):
            return [_hwc(np.asarray(upright).astype(np.uint16))]
        if upright.mode in ("P", "PA"):
            upright = upright.convert("RGBA")
        return [np.asarray(upright.convert("RGB"))]


def _png16() -> Iterator[Case]:
    for channels, level in itertools.product((1, 2, 3, 4), range(10)):
        shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
        array = _values(shape, "uint16")
        content = imagecodecs.png_encode(array, level=level)
        kept = {1: 1, 2: 1, 3: 3, 4: 3}[channels]
        yield Case(f"png16-{channels}-{level}.png", content, [_hwc(array)[:, :, :kept]])


def _npy() -> Iterator[Case]:
    for dtype, channels in itertools.product(
        ("uint8", "uint16", ">u2", "int16", "float32", "int64", "complex64"), (0, 1, 3, 5)
    ):
        shape = (HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH)
        array = (RNG.random(shape) * 100).astype(dtype)
        buffer = io.BytesIO()
        np.save(buffer, array)
        readable = dtype not in ("int64", "complex64")
        expected = [_hwc(array).astype(array.dtype.newbyteorder("="))] if readable else None
        yield Case(f"{dtype.replace('>', 'b')}-{channels}.npy", buffer.getvalue(), expected)


def _animations() -> Iterator[Case]:
    frames = [Image.fromarray(_values((HEIGHT, WIDTH, 3), "uint8")) for _ in range(3)]
    for form, suffix in (("GIF", ".gif"), ("PNG", ".png"), ("WEBP", ".webp")):
        options = {"lossless": True} if form == "WEBP" else {}
        content = _saved(
            frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options
        )
        with Image.open(io.BytesIO(content)) as image:
            expected = []
            for page in range(3):
                image.seek(page)
                expected.append(np.asarray(image.convert("RGBA").convert("RGB")))
        yield Case(f"frames{suffix}", content, expected)


def _damaged(cases: list[Case]) -> Iterator[Case]:
    """Files cut short, and files with other bytes: anything but a crash or a hang."""
    for number, case in enumerate(cases):
        content = bytearray(case.content)
        if number % 2:
            content = content[: len(content) * (1 + number % 7) // 8]
        else:
            for place in RNG.integers(0, min(len(content), 400), 6):
                content[place] = RNG.integers(0, 256)
        yield Case(f"damaged{number}-{case.name}", bytes(content), None)


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    image = [Image.fromarray(_index(array.shape[:2]))]
    exif = image[0].getexif()
    exif[274] = orientation
    places = np.asarray(ImageOps.exif_transpose(image[0]))
    return array.reshape(-1, array.shape[2])[places]


def _index(shape: tuple[int, int]) -> np.ndarray:
    return np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)


def _whole() -> list[Case]:
    makers = (
        _tiff_types, _tiff_layouts, _tiff_stacks, _lossy_tiffs, _pillow_files, _png16, _npy,
        _animations,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [case for maker in makers for case in maker()]


def _array(path: Path) -> np.ndarray:
    pixels = read_image(path).pixels
    if isinstance(pixels, Image.Image):
        return _hwc(np.asarray(pixels))
    return pixels.transpose(1, 2, 0)


@pytest.mark.filterwarnings("ignore")
def test_a_thousand_files_have_the_pixels_that_others_find(tmp_path):
    cases = _whole()
    assert len(cases) >= 1000
    wrong = []
    for case in cases:
        path = tmp_path / case.name
        path.write_bytes(case.content)
        try:
            pages = [_array(page) for page in each_page([path])]
        except DataError as error:
            if case.expected is not None:
                wrong.append(f"{case.name}: {error}")
            continue
        if case.expected is None:
            wrong.append(f"{case.name}: accepted")
        elif not _agree(pages, case):
            wrong.append(f"{case.name}: {[page.shape for page in pages]}")
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong[:60])


def _agree(pages: list[np.ndarray], case: Case) -> bool:
    assert case.expected is not None
    if len(pages) != len(case.expected):
        return False
    return all(
        page.shape == expected.shape
        and page.dtype == expected.dtype
        and (np.abs(page.astype(float) - expected).max() <= case.tolerance)
        for page, expected in zip(pages, case.expected, strict=True)
    )


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_data_errors_and_nothing_else(tmp_path):
    lines = []
    for case in _damaged(_whole()[::4]):
        path = tmp_path / case.name
        path.write_bytes(case.content)
        try:
            for page in each_page([path])[:4]:
                read_image(page)
        except DataError as error:
            lines.append(str(error))
    assert len(lines) > 100
    assert not any("\n" in line for line in lines)
