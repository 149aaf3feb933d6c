"""Pixels to tensors in [-1, 1] and back to the integers or floats of a file.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from patchkin.errors import DataError
from patchkin.images.picture import Picture, Rounding, ValueRange


def to_tensor(picture: Picture, value_range: ValueRange | None = None) -> Tensor:
    """The pixels as float32 [C, H, W] in [-1, 1].

    8 bits follow the published code to the last bit: (x / 255 - 0.5) / 0.5.

    Args:
        picture: of `read_image`.
        value_range: what becomes -1 and 1, for 16-bit and float pictures (12-bit data in a 16-bit
            file: 0 and 4095); values beyond it are clipped. By default 0 and 65535 for 16 bits, and
            0 and 1 for float, where a value outside is an error: nobody can guess its scale.

    Raises:
        DataError: if float values leave [0, 1] and no `value_range` is given.

    >>> from patchkin.images import Encoding
    >>> to_tensor(Picture(Image.new("L", (1, 1), 255), Encoding(8, 1))).tolist()
    [[[1.0]]]
    """
    pixels = picture.pixels
    if isinstance(pixels, Image.Image):
        return pillow_to_tensor(pixels)
    if pixels.dtype == torch.uint8:
        return _from_uint8(pixels.numpy())
    values = pixels.to(torch.float32)
    low, high = value_range or (0.0, 65535.0 if pixels.dtype == torch.uint16 else 1.0)
    if value_range is None and pixels.dtype.is_floating_point:
        lowest, highest = values.min().item(), values.max().item()
        if lowest < 0 or highest > 1:
            raise DataError(
                f"`{picture.name}` holds float values from {lowest:g} to {highest:g}; say which "
                "range they use with `value_range` (low high), or scale them to [0, 1]."
            )
    return values.clamp(low, high).sub_(low).div_(high - low).sub_(0.5).div_(0.5)


def pillow_to_tensor(image: Image.Image) -> Tensor:
    """A Pillow image of mode L or RGB as float32 [C, H, W] in [-1, 1]."""
    array = np.asarray(image)
    return _from_uint8(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def _from_uint8(array_CHW: npt.NDArray[np.uint8]) -> Tensor:
    """In NumPy: the same bits as torch, and no thread pool to wake for one small image.

    Beside another busy process, waking them made a loader without workers up to 4 times slower.
    """
    values_CHW = array_CHW.astype(np.float32, order="C")
    values_CHW /= np.float32(255)
    values_CHW -= np.float32(0.5)
    values_CHW /= np.float32(0.5)
    return torch.from_numpy(values_CHW)


def to_uint8(image_CHW: Tensor, rounding: Rounding = "nearest") -> Tensor:
    """An image in [-1, 1] as uint8 of the same shape; what lies outside is clipped.

    Args:
        image_CHW: float, any number of leading dimensions.
        rounding: `nearest` gives every 8-bit file back unchanged; `released` truncates, as the
            code behind the published numbers does, and darkens by half a step on average.

    >>> to_uint8(torch.tensor([-2.0, 0.0, 0.999])).tolist()
    [0, 128, 255]
    >>> to_uint8(torch.tensor([-2.0, 0.0, 0.999]), "released").tolist()
    [0, 127, 254]
    """
    scaled = (image_CHW.detach().float().clamp(-1, 1) + 1) / 2 * 255
    return (scaled.round() if rounding == "nearest" else scaled).to(torch.uint8)


def safe_levels(levels: Tensor) -> Tensor:
    """Levels 0 to 255 in [-1, 1], a quarter of a level up, so that `to_uint8` gives them back.

    Without it truncation moves 63 of the 256, whose float lies just below them.

    >>> levels = torch.arange(256)
    >>> bool((to_uint8(safe_levels(levels), "released") == levels).all())
    True
    >>> int((to_uint8(levels / 127.5 - 1, "released") != levels).sum())
    63
    """
    return (levels.float() + 0.25) / 127.5 - 1


def quantised(
    image_CHW: Tensor, bits: int, value_range: ValueRange | None, rounding: Rounding
) -> Tensor:
    """An image in [-1, 1] as a file of `bits` holds it: uint8, uint16 or float32 (32).

    >>> quantised(torch.tensor([-1.0, 1.0]), 16, (0.0, 4095.0), "nearest").tolist()
    [0, 4095]
    """
    if bits == 8:
        return to_uint8(image_CHW, rounding)
    low, high = value_range or (0.0, 65535.0 if bits == 16 else 1.0)
    # float64: float32 cannot tell neighbours apart after a scaling to 65535 and back
    values = (image_CHW.double().clamp(-1, 1) + 1) / 2 * (high - low) + low
    if bits == 32:
        return values.float()
    return values.round().clamp(0, 65535).to(torch.int32).to(torch.uint16)
