"""Levels of a file to values in [-1, 1], and back. NumPy alone: also what runs without torch.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchkin.errors import ConfigError, DataError
from patchkin.images.picture import Array, Encoding, Picture, Rounding, ValueRange, luma

Values = npt.NDArray[np.float32]


def to_values(picture: Picture, value_range: ValueRange | None = None) -> Values:
    """The pixels as float32 [C, H, W] in [-1, 1].

    8 bits follow the published code to the last bit: (x / 255 - 0.5) / 0.5.

    Args:
        picture: of `read_image`.
        value_range: what becomes -1 and 1, for 16-bit and float pictures (12-bit data in a 16-bit
            file: 0 and 4095); values beyond it are clipped. By default 0 and 65535 for 16 bits, and
            0 and 1 for float, where a value outside is an error: nobody can guess its scale.

    Raises:
        DataError: if float values leave [0, 1] and no `value_range` is given.

    >>> to_values(Picture(Image.new("L", (1, 1), 255), Encoding(8, 1))).tolist()
    [[[1.0]]]
    """
    pixels = picture.pixels
    if isinstance(pixels, Image.Image):
        return values_of_pillow(pixels)
    if pixels.dtype == np.uint8:
        return values_of_uint8(pixels)
    low, high = value_range or (0.0, 65535.0 if pixels.dtype == np.uint16 else 1.0)
    values_CHW = pixels.astype(np.float32)
    if value_range is None and pixels.dtype.kind == "f":
        lowest, highest = float(values_CHW.min()), float(values_CHW.max())
        if lowest < 0 or highest > 1:
            raise DataError(
                f"`{picture.name}` holds float values from {lowest:g} to {highest:g}; say which "
                "range they use with `value_range` (low high), or scale them to [0, 1]."
            )
    np.clip(values_CHW, np.float32(low), np.float32(high), out=values_CHW)
    values_CHW -= np.float32(low)
    values_CHW /= np.float32(high - low)
    return _centred(values_CHW)


def values_of_pillow(image: Image.Image) -> Values:
    """A Pillow image of mode L or RGB as float32 [C, H, W] in [-1, 1]."""
    array = np.asarray(image)
    return values_of_uint8(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def values_of_uint8(array_CHW: npt.NDArray[np.uint8]) -> Values:
    """In NumPy: the same bits as torch, and no thread pool to wake for one small image.

    Beside another busy process, waking them made a loader without workers up to 4 times slower.
    """
    values_CHW = array_CHW.astype(np.float32, order="C")
    values_CHW /= np.float32(255)
    return _centred(values_CHW)


def _centred(values_CHW: Values) -> Values:
    """[0, 1] to [-1, 1], in place."""
    values_CHW -= np.float32(0.5)
    values_CHW /= np.float32(0.5)
    return values_CHW


def to_levels(
    values_CHW: Array,
    encoding: Encoding,
    value_range: ValueRange | None = None,
    rounding: Rounding = "nearest",
) -> Array:
    """An image in [-1, 1] as a file of this encoding holds it, [C, H, W].

    Args:
        values_CHW: float32. One channel is repeated and three become luma if `encoding` says so.
        encoding: of the file.
        value_range: what -1 and 1 become, for 16 bits and float, as in `to_values`.
        rounding: of 8-bit files, see `to_uint8`.

    Raises:
        ConfigError: if the numbers of channels differ otherwise.

    >>> to_levels(np.float32([[[-1, 1]]]), Encoding(16, 1), (0.0, 4095.0)).tolist()
    [[[0, 4095]]]
    """
    if values_CHW.shape[0] != encoding.channels:
        values_CHW = _with_channels(values_CHW, encoding.channels)
    if encoding.bits == 8:
        return levels_8bit(values_CHW, rounding)
    low, high = value_range or (0.0, 65535.0 if encoding.bits == 16 else 1.0)
    # float64: float32 cannot tell neighbours apart after a scaling to 65535 and back
    scaled = (np.clip(values_CHW.astype(np.float64), -1, 1) + 1) / 2 * (high - low) + low
    if encoding.bits == 32:
        return scaled.astype(np.float32)
    return np.rint(scaled).clip(0, 65535).astype(np.uint16)


def levels_8bit(values: Array, rounding: Rounding = "nearest") -> npt.NDArray[np.uint8]:
    """As `images.to_uint8`, of an array.

    >>> levels_8bit(np.float32([-2.0, 0.0, 0.999])).tolist()
    [0, 128, 255]
    """
    scaled: npt.NDArray[Any] = (np.clip(values, np.float32(-1), np.float32(1)) + np.float32(1)) / 2
    scaled *= np.float32(255)
    return (np.rint(scaled) if rounding == "nearest" else scaled).astype(np.uint8)


def _with_channels(image_CHW: Array, channels: int) -> Array:
    if (image_CHW.shape[0], channels) == (1, 3):
        return np.repeat(image_CHW, 3, axis=0)
    if (image_CHW.shape[0], channels) == (3, 1):
        return luma(image_CHW)
    raise ConfigError(
        f"An image with {image_CHW.shape[0]} channels cannot be written with {channels}."
    )
