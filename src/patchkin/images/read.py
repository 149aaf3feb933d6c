"""Files to pictures: the format is told by the content, NPY by its suffix.

Palettes, CMYK and YCbCr become RGB, alpha stands beside the pixels, the orientation is applied. A
path may be that of a page (`images.pages`); that of a file with several means the first.
"""

from __future__ import annotations

import tokenize
from pathlib import Path

import numpy as np
from PIL import Image

from patchkin.errors import DataError
from patchkin.images.boxes import tell_pillow
from patchkin.images.deep import decode_deep
from patchkin.images.faults import DECODING_ERRORS, reason
from patchkin.images.heic import register_heic
from patchkin.images.limits import check_pixels
from patchkin.images.pages import split_page
from patchkin.images.picture import (
    Array,
    Decoded,
    Picture,
    decoded_array,
    encoding_of,
    pixels_from_array,
    upright,
    with_channels,
)
from patchkin.images.png16 import decode_16bit_png, is_16bit_png
from patchkin.images.pnm import decode_deep_pnm
from patchkin.images.tiff import decode_tiff, is_tiff

_HEAD_BYTES = 26


def read_image(path: str | Path, channels: int | None = None) -> Picture:
    """Decode a page completely.

    Args:
        path: of a file in any format of `IMAGE_SUFFIXES`, or of a page; TIFF needs
            `patchkin[tiff]`, HEIC `patchkin[heic]`.
        channels: number wanted. Grey is repeated where 3 are wanted, colour becomes luma where 1
            is. By default as in the file.

    Raises:
        DataError: if the file is missing, broken, or has another number of channels. One line.
    """
    path = Path(path)
    try:
        pixels, alpha = _decode(*split_page(path))
    except FileNotFoundError as error:
        raise DataError(f"`{path}` does not exist.") from error
    except DataError as error:
        raise DataError(f"`{path}`: cannot be decoded: {error}") from error
    except DECODING_ERRORS as error:
        raise DataError(f"`{path}`: cannot be decoded: {reason(error)}.") from error
    encoding = encoding_of(pixels)
    if channels is not None and channels != encoding.channels:
        pixels = with_channels(pixels, channels, str(path))
    return Picture(pixels, encoding, str(path), alpha)


def _decode(path: Path, page: int | None) -> Decoded:
    if path.suffix.lower() == ".npy":
        return decoded_array(_array_of_npy(path))
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise DataError("the file is empty.")
    if is_16bit_png(head):
        return decode_16bit_png(path)
    if is_tiff(head):
        return decode_tiff(path, page or 0)
    register_heic(head)
    deep = decode_deep(path, head, page or 0) or decode_deep_pnm(path, head)
    if deep is not None:
        return deep
    with Image.open(path) as image:
        check_pixels(*image.size)
        if page:
            image.seek(page)
        image.load()
        tell_pillow(image, path)
        return from_pillow(upright(image))


def _array_of_npy(path: Path) -> Array:
    """Mapped first: a header may promise more than the file holds, or than there is memory."""
    try:
        array: Array = np.lib.format.open_memmap(path, mode="r")
    except tokenize.TokenError as error:
        raise DataError("its header is damaged.") from error
    except ValueError as error:
        if "Python objects" in str(error):
            raise DataError(
                "an array of Python objects is not read (allow_pickle=False)."
            ) from error
        if "mmap length" in str(error):
            raise DataError("it is shorter than its header says.") from error
        raise
    if array.ndim in (2, 3):
        check_pixels(array.shape[1], array.shape[0])
    return np.array(array)


def from_pillow(image: Image.Image) -> Decoded:
    """A loaded Pillow image: its pixels and its alpha.

    Raises:
        DataError: it is of a mode that is not read.
    """
    mode = image.mode
    if mode.startswith("I;16"):
        return decoded_array(np.asarray(image).astype(np.uint16))
    if mode == "I":
        values = np.asarray(image)
        fits = values.min() >= 0 and values.max() <= 0xFFFF  # 16-bit PGM arrives as mode I
        return decoded_array(values.astype(np.uint16 if fits else np.float32))
    if mode == "F":
        return Decoded(pixels_from_array(np.asarray(image)))
    if mode in ("1", "L") and "transparency" not in image.info:
        return Decoded(image.convert("L"))
    has_alpha = mode in ("LA", "RGBA", "PA", "RGBa", "La") or "transparency" in image.info
    if mode in ("1", "L", "LA", "La"):
        with_alpha = image.convert("LA")
        return Decoded(image.convert("L"), _alpha_of(with_alpha))
    if mode in ("P", "PA", "RGBa") or has_alpha:
        image = image.convert("RGBA")
    return Decoded(image.convert("RGB"), _alpha_of(image) if has_alpha else None)


def _alpha_of(image: Image.Image) -> Array:
    return np.asarray(image.getchannel("A"))
