"""Files to pictures: the format is told by the content, NPY by its suffix.

Palettes, CMYK and YCbCr become RGB, the alpha channel is dropped, the EXIF orientation is applied.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from patchkin.errors import DataError
from patchkin.images.faults import DECODING_ERRORS, reason
from patchkin.images.picture import (
    Picture,
    Pixels,
    encoding_of,
    pixels_from_array,
    upright,
    with_channels,
)
from patchkin.images.png16 import decode_16bit_png, is_16bit_png
from patchkin.images.tiff import decode_tiff, is_plain_tiff, is_tiff


def read_image(path: str | Path, channels: int | None = None) -> Picture:
    """Decode a file completely.

    Args:
        path: any format of `IMAGE_SUFFIXES`; 16-bit, float and n-channel TIFF need tifffile.
        channels: number wanted. Grey is repeated where 3 are wanted, colour becomes luma where 1
            is. By default as in the file.

    Raises:
        DataError: if the file is missing, broken, or has another number of channels. One line.
    """
    path = Path(path)
    try:
        pixels = _decode(path)
    except FileNotFoundError as error:
        raise DataError(f"`{path}` does not exist.") from error
    except DataError as error:
        raise DataError(f"`{path}`: cannot be decoded: {error}") from error
    except DECODING_ERRORS as error:
        raise DataError(f"`{path}`: cannot be decoded: {reason(error)}.") from error
    encoding = encoding_of(pixels)
    if channels is not None and channels != encoding.channels:
        pixels = with_channels(pixels, channels, str(path))
    return Picture(pixels, encoding, str(path))


def _decode(path: Path) -> Pixels:
    if path.suffix.lower() == ".npy":
        return pixels_from_array(np.load(path, allow_pickle=False))
    with path.open("rb") as file:
        head = file.read(26)
    if not head:
        raise DataError("the file is empty.")
    if is_16bit_png(head):
        return decode_16bit_png(path)
    if is_tiff(head) and not is_plain_tiff(path):
        return decode_tiff(path)
    with Image.open(path) as image:
        image.load()
        return _from_pillow(upright(image))


def _from_pillow(image: Image.Image) -> Pixels:
    mode = image.mode
    if mode.startswith("I;16"):
        return pixels_from_array(np.asarray(image).astype(np.uint16))
    if mode == "I":
        values = np.asarray(image)
        fits = values.min() >= 0 and values.max() <= 0xFFFF  # 16-bit PGM arrives as mode I
        return pixels_from_array(values.astype(np.uint16 if fits else np.float32))
    if mode == "F":
        return pixels_from_array(np.asarray(image))
    if mode in ("1", "L", "LA"):
        return image.convert("L")
    if mode in ("P", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
