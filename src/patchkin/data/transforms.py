"""From a picture to a training view, step by step as in CycleGAN and CUT.

The steps run in one order, whatever `preprocess` is: resize, zoom, crop, round the sides to a
multiple of 4, mirror. Pillow images are resized by Pillow in 8 bits, which gives the published
pixels exactly; tensors (16-bit, float, n-channel; already in [-1, 1]) by torch with the same
filters in float.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch.nn.functional as nnf
from PIL import Image, ImageOps
from torch import Tensor

from patchkin.data.config import SIDE_MULTIPLE
from patchkin.errors import DataError

Filter: TypeAlias = Literal["bicubic", "bilinear"]
Pixels: TypeAlias = "Image.Image | Tensor"
"""A Pillow image of 8 bits, or a float tensor [C, H, W] in [-1, 1]."""

_PILLOW_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


class ViewDraws(Protocol):
    """The random choices of one view. A test passes its own to pin them."""

    def zoom(self) -> tuple[float, float]:
        """Factors on width and height."""
        ...

    def corner(self, width: int, height: int, crop_size: int) -> tuple[int, int]:
        """Left and top of a crop of an image of this width and height."""
        ...

    def patch(self, width: int, height: int, patch_size: int) -> tuple[int, int, int]:
        """Left and top of a grid of patches, and the index of a patch in it (any whole number)."""
        ...

    def coin(self) -> bool:
        """True with probability one half."""
        ...


class SeededViewDraws:
    """`ViewDraws` from a generator that belongs to one file in one epoch."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def zoom(self) -> tuple[float, float]:
        """Uniform in [0.8, 1], as in CUT."""
        x, y = self._generator.uniform(0.8, 1.0, size=2)
        return float(x), float(y)

    def corner(self, width: int, height: int, crop_size: int) -> tuple[int, int]:
        """Uniform over all places.

        Raises:
            DataError: if the image is smaller than the crop.
        """
        if width < crop_size or height < crop_size:
            raise DataError(
                f"{width} x {height} pixels are smaller than the crop of {crop_size}; choose a "
                "smaller `size`, or `preprocess` resize_and_crop."
            )
        return self._integer(width - crop_size), self._integer(height - crop_size)

    def patch(self, width: int, height: int, patch_size: int) -> tuple[int, int, int]:
        """Uniform over the free room and the patches."""
        across, down = width // patch_size, height // patch_size
        left = self._integer(width - across * patch_size)
        top = self._integer(height - down * patch_size)
        return left, top, self._integer(max(across * down - 1, 0))

    def coin(self) -> bool:
        """See `ViewDraws.coin`."""
        return bool(self._generator.random() < 0.5)

    def _integer(self, highest: int) -> int:
        return int(self._generator.integers(highest + 1))


def view(
    pixels: Pixels,
    draws: ViewDraws,
    *,
    preprocess: str,
    load_size: int,
    crop_size: int,
    flip: bool = True,
    resize_filter: Filter = "bicubic",
) -> Pixels:
    """One view of a picture.

    Args:
        pixels: Pillow image, or float tensor [C, H, W] in [-1, 1].
        draws: where every random choice comes from.
        preprocess: step names joined by `_and_`: resize, scale_width or scale_shortside; zoom;
            crop, patch or trim; or `none`.
        load_size: of the first step.
        crop_size: of zoom, crop, patch and trim, and the least height of scale_width.
        flip: whether to toss a coin for a mirrored view.
        resize_filter: of every resize.

    Raises:
        DataError: if the picture is smaller than the crop.
    """
    steps = preprocess.split("_and_")
    loaded = loaded_size(
        size_of(pixels), preprocess=preprocess, load_size=load_size, crop_size=crop_size
    )
    pixels = resized(pixels, *loaded, resize_filter)
    if "zoom" in steps:
        pixels = _zoom(pixels, draws.zoom(), crop_size, resize_filter)
    if "crop" in steps:
        pixels = _crop(pixels, crop_size, draws)
    if "patch" in steps:
        pixels = _patch(pixels, crop_size, draws)
    if "trim" in steps:
        pixels = _trim(pixels, crop_size, draws)
    pixels = rounded_sides(pixels, resize_filter)
    return mirrored(pixels) if flip and draws.coin() else pixels


def loaded_size(
    size: tuple[int, int], *, preprocess: str, load_size: int, crop_size: int
) -> tuple[int, int]:
    """Width and height after the first step of `view`, which draws nothing: resize, scale_width or
    scale_shortside. Of its own result it is the same.

    >>> loaded_size((640, 480), preprocess="scale_width", load_size=320, crop_size=256)
    (320, 256)
    """
    steps, (width, height) = preprocess.split("_and_"), size
    if "resize" in steps:
        return load_size, load_size
    if "scale_width" in steps and not (width == load_size and height >= crop_size):
        return load_size, int(max(load_size * height / width, crop_size))
    shortside = min(width, height)
    if "scale_shortside" in steps and shortside < load_size:  # only ever enlarges
        scale = load_size / shortside
        return round(width * scale), round(height * scale)
    return width, height


def size_of(pixels: Pixels) -> tuple[int, int]:
    """Width and height."""
    if isinstance(pixels, Image.Image):
        return pixels.size
    return pixels.shape[2], pixels.shape[1]


def resized(pixels: Pixels, width: int, height: int, resize_filter: Filter = "bicubic") -> Pixels:
    """Antialiased; a tensor is clipped to [-1, 1] where the bicubic filter overshoots, as 8 bits
    are by nature.
    """
    if size_of(pixels) == (width, height):
        return pixels
    if isinstance(pixels, Image.Image):
        return pixels.resize((width, height), _PILLOW_FILTERS[resize_filter])
    scaled_BCHW = nnf.interpolate(
        pixels[None], (height, width), mode=resize_filter, align_corners=False, antialias=True
    )
    return scaled_BCHW[0].clamp(-1, 1)


def mirrored(pixels: Pixels) -> Pixels:
    """Left and right exchanged."""
    return ImageOps.mirror(pixels) if isinstance(pixels, Image.Image) else pixels.flip(-1)


def rounded_sides(pixels: Pixels, resize_filter: Filter = "bicubic") -> Pixels:
    """Resized to the nearest multiple of 4 per side, halves to the even multiple.

    CUT does this always, CycleGAN only for `none`.
    """
    width, height = (
        max(SIDE_MULTIPLE, round(side / SIDE_MULTIPLE) * SIDE_MULTIPLE) for side in size_of(pixels)
    )
    return resized(pixels, width, height, resize_filter)


def _box(pixels: Pixels, left: int, top: int, side: int) -> Pixels:
    """What of a square lies inside the picture; for Pillow, black where it does not."""
    if isinstance(pixels, Image.Image):
        return pixels.crop((left, top, left + side, top + side))
    return pixels[:, top : top + side, left : left + side]


def _zoom(
    pixels: Pixels, factors: tuple[float, float], crop_size: int, resize_filter: Filter
) -> Pixels:
    width, height = (
        round(max(crop_size, side * factor))
        for side, factor in zip(size_of(pixels), factors, strict=True)
    )
    return resized(pixels, width, height, resize_filter)


def _crop(pixels: Pixels, crop_size: int, draws: ViewDraws) -> Pixels:
    width, height = size_of(pixels)
    left, top = draws.corner(width, height, crop_size)
    if width <= crop_size and height <= crop_size:
        return pixels  # as released, also where a pinned corner would lie outside
    return _box(pixels, left, top, crop_size)


def _patch(pixels: Pixels, patch_size: int, draws: ViewDraws) -> Pixels:
    """A patch of a grid that is counted column by column (SinCUT)."""
    width, height = size_of(pixels)
    across, down = width // patch_size, height // patch_size
    if not across * down:
        raise DataError(f"{width} x {height} pixels hold no patch of {patch_size}.")
    left, top, index = draws.patch(width, height, patch_size)
    column, row = divmod(index % (across * down), down)
    return _box(pixels, left + column * patch_size, top + row * patch_size, patch_size)


def _trim(pixels: Pixels, crop_size: int, draws: ViewDraws) -> Pixels:
    """A crop that leaves a side shorter than itself as it is."""
    width, height = size_of(pixels)
    side_x, side_y = min(width, crop_size), min(height, crop_size)
    left, top = draws.corner(max(width, crop_size), max(height, crop_size), crop_size)
    if isinstance(pixels, Image.Image):
        return pixels.crop((left, top, left + side_x, top + side_y))
    return pixels[:, top : top + side_y, left : left + side_x]
