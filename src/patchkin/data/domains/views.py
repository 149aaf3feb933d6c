"""Views of an image as StarGAN v2 trains and tests on them.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchkin.data.datasets import finished, transformable
from patchkin.data.transforms import Pixels, mirrored, resized, size_of
from patchkin.images import ValueRange, read_image

CROP_AREA = (0.8, 1.0)
"""Share of the picture that a crop keeps (StarGAN v2)."""
CROP_RATIO = (0.9, 1.1)
"""Width over height of a crop (StarGAN v2)."""
_CROP_ATTEMPTS = 10


def domain_view(
    pixels: Pixels,
    rng: np.random.Generator,
    *,
    size: int,
    crop_probability: float = 0.5,
    flip: bool = True,
) -> Pixels:
    """StarGAN v2's training view: sometimes a crop; resized to a square; mirrored or not.

    A crop keeps 80 to 100 % of the area, its width over height is from 0.9 to 1.1, evenly in the
    logarithm. Resizing is bilinear and does not keep the ratio of the sides.

    Args:
        pixels: Pillow image, or float tensor [C, H, W] in [-1, 1].
        rng: where every random choice comes from.
        size: side of the view.
        crop_probability: of a crop; else the whole picture.
        flip: whether to toss a coin for a mirrored view.
    """
    crops, mirrors = rng.random(2)
    if crops < crop_probability:
        pixels = _cut(pixels, *crop_box(*size_of(pixels), rng))
    pixels = resized(pixels, size, size, "bilinear")
    return mirrored(pixels) if flip and mirrors < 0.5 else pixels


def crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random crop of an image of this width and height.

    If none of 10 shapes fits, as in a long strip, the largest crop in the middle whose ratio is
    allowed.
    """
    low, high = CROP_RATIO
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    ratio = min(max(width / height, low), high)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def _cut(pixels: Pixels, left: int, top: int, width: int, height: int) -> Pixels:
    if isinstance(pixels, Image.Image):
        return pixels.crop((left, top, left + width, top + height))
    return pixels[:, top : top + height, left : left + width]


class Images(Protocol):
    """Images [C, H, W] one at a time: a tensor of them, or files that are read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class ImagesInFiles:
    """`Images` of some files, each read anew as `domain_image`."""

    paths: Sequence[Path]
    size: int
    channels: int = 3
    value_range: ValueRange | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Tensor:
        return domain_image(
            self.paths[index],
            size=self.size,
            channels=self.channels,
            value_range=self.value_range,
        )


def domain_image(
    path: Path, *, size: int, channels: int = 3, value_range: ValueRange | None = None
) -> Tensor:
    """A whole image as [C, size, size], without crop or flip: StarGAN v2's test view.

    Raises:
        DataError: if the file cannot be used.
    """
    pixels = transformable(read_image(path, channels), value_range)
    return finished(resized(pixels, size, size, "bilinear"))


def domain_images(
    paths: Iterable[Path], *, size: int, channels: int = 3, value_range: ValueRange | None = None
) -> Tensor:
    """Whole images as [B, C, size, size], in order: each as `domain_image`.

    Raises:
        DataError: if a file cannot be used.
    """
    return torch.stack(
        [
            domain_image(path, size=size, channels=channels, value_range=value_range)
            for path in paths
        ]
    )
