"""Values in [-1, 1] to files that appear whole or not at all.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from patchkin.errors import ConfigError, PatchkinError
from patchkin.images.picture import (
    Array,
    Encoding,
    Pixels,
    Rounding,
    ValueRange,
    encoding_of,
)
from patchkin.images.png16 import save_16bit_png
from patchkin.images.tiff import save_tiff
from patchkin.images.values import to_levels
from patchkin.storage.atomic import new_file

_JPEG_QUALITY = 95
_LARGEST_SIDES: Mapping[str, int] = MappingProxyType(
    {"JPEG": 65_500, "WEBP": 16_383, "GIF": 65_535, "AVIF": 32_768}
)
"""By Pillow's name of the format. Larger AVIF is written, and not read by its own libraries."""


def default_suffix(encoding: Encoding) -> str:
    """The suffix of a file that keeps this encoding without loss.

    >>> default_suffix(Encoding(16, 3)), default_suffix(Encoding(8, 5))
    ('.png', '.tif')
    """
    held = encoding.kind == "unsigned" and encoding.bits <= 16 and encoding.channels in (1, 3)
    return ".png" if held else ".tif"


def write_values(
    path: str | Path,
    values_CHW: Array,
    encoding: Encoding,
    *,
    value_range: ValueRange | None = None,
    rounding: Rounding = "nearest",
) -> None:
    """Write an image in [-1, 1] in the format of the suffix; the file appears whole or not at all.

    Args:
        path: .png holds 8 and 16 bits, .tif (needs tifffile beyond 8 bits and 3 channels) and
            .npy everything, the other formats 8 bits.
        values_CHW: float32. One channel is repeated and three become luma if `encoding` says
            so, hence a grey input to a colour model stays a grey file.
        encoding: usually that of the input.
        value_range: what -1 and 1 become, for 16 bits and float, as in `to_values`.
        rounding: of 8-bit files, see `to_uint8`.

    Raises:
        ConfigError: if the format cannot hold the encoding, or so many pixels.
        StorageError: if the file cannot be written.
    """
    path = Path(path)
    array_HWC = to_levels(values_CHW, encoding, value_range, rounding).transpose(1, 2, 0)
    if encoding.channels == 1:
        array_HWC = array_HWC[:, :, 0]
    _write_array(path, array_HWC, encoding)


def write_pixels(path: str | Path, pixels: Pixels) -> None:
    """Write what was decoded, to the bit, in the format of the suffix, whole or not at all.

    Args:
        path: .png, .tif or .npy as for `write_values`; the other formats may lose something.
        pixels: Pillow image (L or RGB), or array [C, H, W].

    Raises:
        ConfigError: if the format cannot hold the pixels.
        StorageError: if the file cannot be written.
    """
    path, encoding = Path(path), encoding_of(pixels)
    if isinstance(pixels, Image.Image):
        array = np.asarray(pixels)
    else:
        array = pixels.transpose(1, 2, 0) if encoding.channels > 1 else pixels[0]
    _write_array(path, array, encoding)


def write_pillow(path: str | Path, image: Image.Image, *, synced: bool = True) -> None:
    """Write a Pillow image (a preview, a grid) in the format of the suffix, whole or not at all.

    Args:
        path: of the file.
        image: what to write.
        synced: as `storage.atomic.write_bytes`.

    Raises:
        ConfigError: if the suffix is that of no format, or of one that cannot hold the image.
        StorageError: if the file cannot be written.
    """
    path = Path(path)
    form = pillow_format(path.suffix)
    check_sides(path, *image.size)
    with new_file(path, synced=synced) as part:
        save_pillow(image, part, format=form)


def pillow_format(suffix: str) -> str:
    """What Pillow calls the format of a suffix.

    Raises:
        ConfigError: it is that of no format.
    """
    known = Image.registered_extensions()
    if suffix.lower() not in known:
        raise ConfigError(f"`{suffix}` is no image format that can be written; use .png.")
    return known[suffix.lower()]


def _write_array(path: Path, array: Array, encoding: Encoding) -> None:
    """An array [H, W] or [H, W, C] of the type that `encoding` says."""
    check_sides(path, *array.shape[1::-1])
    write = _writer(path.suffix.lower(), np.ascontiguousarray(array), encoding)
    with new_file(path) as part:
        write(part)


def _writer(suffix: str, array: Array, encoding: Encoding) -> Callable[[Path], None]:
    plain = encoding.dtype == np.uint8 and encoding.channels in (1, 3)
    if suffix == ".npy":
        return lambda part: save_npy(part, array)
    if suffix in (".tif", ".tiff") and not plain:
        return lambda part: save_tiff(part, array)
    if suffix == ".png" and encoding.dtype == np.uint16 and encoding.channels in (1, 3):
        return lambda part: save_16bit_png(part, array)
    if not plain:
        raise ConfigError(
            f"`{suffix}` cannot hold {encoding.channels} channels of {encoding.dtype}; "
            f"use {default_suffix(encoding)} or .npy."
        )
    image, name = Image.fromarray(array), pillow_format(suffix)
    if name == "JPEG":
        return lambda part: save_pillow(
            image, part, format=name, quality=_JPEG_QUALITY, subsampling=0
        )
    if name == "WEBP":
        return lambda part: save_pillow(image, part, format=name, quality=_JPEG_QUALITY)
    return lambda part: save_pillow(image, part, format=name)


def save_pillow(image: Image.Image, part: Path, **options: Any) -> None:
    """`image.save`, by a file that is written to its end or fails."""
    with told_encoder(str(options["format"])), _Whole(io.FileIO(part, "w")) as file:
        image.save(file, **options)


def check_sides(path: Path, width: int, height: int) -> None:
    """Refuse an image that the format of a file has no room for.

    Raises:
        ConfigError: it is larger.

    >>> check_sides(Path("wide.webp"), 16383, 1)
    >>> check_sides(Path("tall.webp"), 1, 16384)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: `tall.webp` would have 1 x 16384 pixels, and WEBP holds at most \
16383 a side; use --format png.
    """
    form = Image.registered_extensions().get(path.suffix.lower(), "")
    largest = _LARGEST_SIDES.get(form)
    if largest is not None and max(width, height) > largest:
        raise ConfigError(
            f"`{path}` would have {width} x {height} pixels, and {form} holds at most {largest} "
            f"a side; use --format png."
        )


@contextmanager
def told_encoder(form: str) -> Iterator[None]:
    """What an encoder cannot do, in one line; trouble with its file stays what it is.

    Raises:
        ConfigError: it gave up.
    """
    try:
        yield
    except PatchkinError:
        raise
    except (RuntimeError, ValueError, struct.error) as error:
        raise ConfigError(f"it cannot be written as {form} ({error}); use --format png.") from error


class _Whole(io.BufferedWriter):
    """Has no descriptor: Pillow would write to it and take half a write, as a disk that fills up
    or is slow gives it, for a whole one.
    """

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def save_npy(path: Path, array: Array) -> None:
    """Write an array, whatever the name of the file."""
    with path.open("wb") as file:  # numpy would add .npy to a temporary name
        np.save(file, array, allow_pickle=False)
