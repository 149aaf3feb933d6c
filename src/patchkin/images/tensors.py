"""Pictures as tensors and back: the only file of this package that knows torch.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from patchkin.images.grid import grid_of
from patchkin.images.picture import Array, Encoding, Picture, Rounding, ValueRange
from patchkin.images.values import to_values, values_of_pillow
from patchkin.images.write import write_values


def to_tensor(picture: Picture, value_range: ValueRange | None = None) -> Tensor:
    """The pixels as float32 [C, H, W] in [-1, 1]; see `images.values.to_values`.

    Raises:
        DataError: as `to_values`.

    >>> from patchkin.images import Encoding
    >>> to_tensor(Picture(Image.new("L", (1, 1), 255), Encoding(8, 1))).tolist()
    [[[1.0]]]
    """
    return torch.from_numpy(to_values(picture, value_range))


def pillow_to_tensor(image: Image.Image) -> Tensor:
    """A Pillow image of mode L or RGB as float32 [C, H, W] in [-1, 1]."""
    return torch.from_numpy(values_of_pillow(image))


def to_array(image: Tensor) -> Array:
    """A float image of any device as float32."""
    array: Array = image.detach().float().cpu().numpy()
    return array


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


def write_image(
    path: str | Path,
    image_CHW: Tensor,
    encoding: Encoding,
    *,
    value_range: ValueRange | None = None,
    rounding: Rounding = "nearest",
) -> None:
    """Write an image in [-1, 1], on any device; see `images.write.write_values`.

    Raises:
        ConfigError, StorageError: as `write_values`.
    """
    array_CHW = to_array(image_CHW)
    write_values(path, array_CHW, encoding, value_range=value_range, rounding=rounding)


def image_grid(
    rows: Sequence[Sequence[Tensor]], captions: Sequence[str] = (), *, gap_pixels: int = 2
) -> Image.Image:
    """Images in rows and columns on white, of any sizes, for people to look at.

    Args:
        rows: images [C, H, W] in [-1, 1]; two channels show the first, more than three the first
            three.
        captions: one per column, above it; in several lines where the column is narrow.
        gap_pixels: between images.

    Raises:
        ConfigError: if there is no image.

    >>> image_grid([[torch.zeros(3, 4, 6), torch.zeros(1, 2, 2)], [torch.zeros(3, 3, 3)]]).size
    (10, 9)
    """
    arrays = [[to_array(image_CHW) for image_CHW in row] for row in rows]
    return grid_of(arrays, captions, gap_pixels=gap_pixels)
