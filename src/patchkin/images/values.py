"""Levels of a file to values in [-1, 1], and back. NumPy alone: also what runs without torch.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchkin.errors import ConfigError, DataError
from patchkin.images.picture import (
    Array,
    Encoding,
    Picture,
    Rounding,
    ValueRange,
    encoding_of,
    luma,
)

_CHUNK_NUMBERS = 2**24
"""That are scaled at a time: the steps between take several times the memory of what is given."""
Values = npt.NDArray[np.float32]


def to_values(picture: Picture, value_range: ValueRange | None = None) -> Values:
    """The pixels as float32 [C, H, W] in [-1, 1].

    8 bits follow the published code to the last bit: (x / 255 - 0.5) / 0.5.

    Args:
        picture: of `read_image`.
        value_range: what becomes -1 and 1, for pictures of more than 8 bits (12-bit data in a
            16-bit file: 0 and 4095); values beyond it are clipped. By default 0 and 65535 for
            uint16, and 0 and 1 for float, where a value outside is an error, as int16, int32 and
            uint32 are: nobody can guess their scale.

    Raises:
        DataError: no `value_range` is given where it is needed.

    >>> to_values(Picture(Image.new("L", (1, 1), 255), Encoding(8, 1))).tolist()
    [[[1.0]]]
    """
    pixels = picture.pixels
    if isinstance(pixels, Image.Image):
        return values_of_pillow(pixels)
    if pixels.dtype == np.uint8:
        return values_of_uint8(pixels)
    low, high = value_range or _default_range(picture.name, pixels)
    if not np.can_cast(pixels.dtype, np.float32):  # float32 cannot tell their neighbours apart
        wide_CHW = (np.clip(pixels.astype(np.float64), low, high) - low) / (high - low)
        return _centred(wide_CHW.astype(np.float32))
    values_CHW = pixels.astype(np.float32)
    np.clip(values_CHW, np.float32(low), np.float32(high), out=values_CHW)
    values_CHW -= np.float32(low)
    values_CHW /= np.float32(high - low)
    return _centred(values_CHW)


def _default_range(name: str, pixels: Array) -> ValueRange:
    usual = encoding_of(pixels).default_range
    if usual is not None and pixels.dtype.kind == "u":
        return usual
    lowest, highest = float(pixels.min()), float(pixels.max())
    if usual is not None and usual[0] <= lowest and highest <= usual[1]:
        return usual
    kind = "float" if pixels.dtype.kind == "f" else pixels.dtype
    instead = ", or scale them to [0, 1]" if pixels.dtype.kind == "f" else ""
    raise DataError(
        f"`{name}` holds {kind} values from {lowest:g} to {highest:g}; say which range they use "
        f"with `value_range` (low high){instead}."
    )


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
        value_range: what -1 and 1 become, beyond 8 bits, as in `to_values`.
        rounding: of 8-bit files, see `to_uint8`.

    Raises:
        ConfigError: if the numbers of channels differ otherwise, or a type such as int16 comes
            without a range.

    >>> to_levels(np.float32([[[-1, 1]]]), Encoding(16, 1), (0.0, 4095.0)).tolist()
    [[[0, 4095]]]
    """
    rows = max(_CHUNK_NUMBERS // max(values_CHW[:, :1].size, 1), 1)
    if values_CHW.shape[1] > rows:
        levels_CHW = np.empty((encoding.channels, *values_CHW.shape[1:]), encoding.dtype)
        for start in range(0, values_CHW.shape[1], rows):
            part = slice(start, start + rows)
            levels_CHW[:, part] = to_levels(values_CHW[:, part], encoding, value_range, rounding)
        return levels_CHW
    if values_CHW.shape[0] != encoding.channels:
        values_CHW = _with_channels(values_CHW, encoding.channels)
    dtype = encoding.dtype
    if dtype == np.uint8:
        return levels_8bit(values_CHW, rounding)
    value_range = value_range or encoding.default_range
    if value_range is None:
        raise ConfigError(f"Values of type {dtype} are written with a `value_range` only.")
    low, high = value_range
    # float64: float32 cannot tell neighbours apart after a scaling to 65535 and back
    scaled = (np.clip(values_CHW.astype(np.float64), -1, 1) + 1) / 2 * (high - low) + low
    if dtype.kind == "f":
        return scaled.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(scaled).clip(limits.min, limits.max).astype(dtype)


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
