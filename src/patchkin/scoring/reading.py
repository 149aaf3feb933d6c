"""Images as they are scored: whole files, halves of side-by-side pairs, masks.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol as Interface

import torch.nn.functional as nnf
from PIL import Image
from torch import Tensor

from patchkin.data.datasets import finished, transformable
from patchkin.data.paired import Side, half_of
from patchkin.data.transforms import resized
from patchkin.images import Picture, ValueRange, read_image
from patchkin.sides import Sides, height_width


class Read(Interface):
    """How a file becomes an image."""

    def __call__(
        self, path: Path, channels: int, *, size: Sides | None, value_range: ValueRange | None
    ) -> Tensor:
        """See `load_at`."""
        ...


def load_at(
    path: Path, channels: int, *, size: Sides | None, value_range: ValueRange | None
) -> Tensor:
    """An image as it is scored, [C, H, W] in [-1, 1].

    Args:
        path: the file.
        channels: of the image.
        size: that it is brought to; None: as it is.
        value_range: what becomes -1 and 1 in 16-bit and float files, see `images.to_tensor`.

    Raises:
        DataError: it cannot be read.
    """
    return _at(read_image(path, channels), size, value_range)


@dataclass(frozen=True, slots=True)
class Half:
    """Reads one half of a file that shows a pair side by side, as `load_at`."""

    side: Side

    def __call__(
        self, path: Path, channels: int, *, size: Sides | None, value_range: ValueRange | None
    ) -> Tensor:
        """See `load_at`."""
        return _at(self.picture(path, channels), size, value_range)

    def picture(self, path: Path, channels: int) -> Picture:
        """The half as it is in the file.

        Raises:
            DataError: it cannot be read.
        """
        return half_of(read_image(path, channels), self.side, path)


def load_mask(path: Path, size: Sides | None) -> Tensor:
    """A mask [H, W], bool, true where it is white; brought to a size by nearest neighbours, because
    between two labels there is none.

    Raises:
        DataError: it cannot be read.
    """
    picture = read_image(path, 1)
    if size is not None and isinstance(picture.pixels, Image.Image):
        height, width = height_width(size)
        nearest = picture.pixels.resize((width, height), Image.Resampling.NEAREST)
        picture = replace(picture, pixels=nearest)
    mask_CHW = finished(transformable(picture, None))
    if size is not None and tuple(mask_CHW.shape[1:]) != height_width(size):
        mask_CHW = nnf.interpolate(mask_CHW[None], height_width(size), mode="nearest-exact")[0]
    return mask_CHW[0] > 0


def _at(picture: Picture, size: Sides | None, value_range: ValueRange | None) -> Tensor:
    pixels = transformable(picture, value_range)
    if size is None:
        return finished(pixels)
    height, width = height_width(size)
    return finished(resized(pixels, width, height))
