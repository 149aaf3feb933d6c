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
from patchkin.sides import Sides, height_width, in_pixels

Filter: TypeAlias = Literal["bicubic", "bilinear"]
Pixels: TypeAlias = "Image.Image | Tensor"
"""A Pillow image of 8 bits, or a float tensor [C, H, W] in [-1, 1]."""

_PILLOW_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
SMALLER_ADVICE = "choose a smaller --size, or --data.preprocess resize_and_crop"


class ViewDraws(Protocol):
    """The random choices of one view. A test passes its own to pin them."""

    def zoom(self) -> tuple[float, float]:
        """Factors on width and height."""
        ...

    def corner(self, width: int, height: int, crop_size: Sides) -> tuple[int, int]:
        """Left and top of a crop of an image of this width and height."""
        ...

    def patch(self, width: int, height: int, patch_size: Sides) -> tuple[int, int, int]:
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

    def corner(self, width: int, height: int, crop_size: Sides) -> tuple[int, int]:
        """Uniform over all places.

        Raises:
            DataError: if the image is smaller than the crop.
        """
        crop_height, crop_width = height_width(crop_size)
        if width < crop_width or height < crop_height:
            raise DataError(
                f"{width} x {height} pixels are smaller than the crop of {in_pixels(crop_size)}; "
                f"{SMALLER_ADVICE}."
            )
        return self._integer(width - crop_width), self._integer(height - crop_height)

    def patch(self, width: int, height: int, patch_size: Sides) -> tuple[int, int, int]:
        """Uniform over the free room and the patches."""
        patch_height, patch_width = height_width(patch_size)
        across, down = width // patch_width, height // patch_height
        left = self._integer(width - across * patch_width)
        top = self._integer(height - down * patch_height)
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
    load_size: Sides,
    crop_size: Sides,
    flip: bool = True,
    resize_filter: Filter = "bicubic",
) -> Pixels:
    """One view of a picture.

    Args:
        pixels: Pillow image, or float tensor [C, H, W] in [-1, 1].
        draws: where every random choice comes from.
        preprocess: step names joined by `_and_`: resize, scale_width, scale_shortside or shortside;
            zoom; crop, patch or trim; or `none`.
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
    size: tuple[int, int], *, preprocess: str, load_size: Sides, crop_size: Sides
) -> tuple[int, int]:
    """Width and height after the first step of `view`, which draws nothing: resize, scale_width,
    scale_shortside or shortside. Of its own result it is the same.

    >>> loaded_size((640, 480), preprocess="scale_width", load_size=320, crop_size=256)
    (320, 256)
    >>> loaded_size((1024, 512), preprocess="scale_shortside", load_size=256, crop_size=256)
    (1024, 512)
    >>> loaded_size((1024, 512), preprocess="shortside", load_size=256, crop_size=256)
    (512, 256)
    """
    steps, (width, height) = preprocess.split("_and_"), size
    load_height, load_width = height_width(load_size)
    crop_height, _ = height_width(crop_size)
    if "resize" in steps:
        return load_width, load_height
    if "scale_width" in steps and not (width == load_width and height >= crop_height):
        return load_width, int(max(load_width * height / width, crop_height))
    scale = max(load_width / width, load_height / height)  # of a square: to the shorter side
    if "scale_shortside" in steps and scale > 1:  # only ever enlarges
        return round(width * scale), round(height * scale)
    if "shortside" in steps and scale != 1:  # the longer side is cut, as torchvision's Resize does
        across = load_width / width >= load_height / height
        return (
            load_width if across else int(load_height * width / height),
            int(load_width * height / width) if across else load_height,
        )
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
        return _pillow_resized(pixels, width, height, _PILLOW_FILTERS[resize_filter])
    scaled_BCHW = nnf.interpolate(
        pixels[None], (height, width), mode=resize_filter, align_corners=False, antialias=True
    )
    return scaled_BCHW[0].clamp(-1, 1)


def _pillow_resized(
    image: Image.Image, width: int, height: int, resample: Image.Resampling
) -> Image.Image:
    """The same levels with every Pillow: it rounds between its two passes, whose order counts.

    Pillow 13 begins with the columns where that drops more than twice as many rows as the other
    pass drops columns; 12.0 and those before always begin with the rows, which differs by one level
    in a fifth of the pixels. Asked for one pass at a time, all do the same.
    """
    if image.height > height and image.height - height > 2 * (image.width - width):
        image = image.resize((image.width, height), resample)
    return image.resize((width, height), resample)


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


def _box(pixels: Pixels, left: int, top: int, sides: tuple[int, int]) -> Pixels:
    """What of a crop of this height and width lies inside; for Pillow, black where it does not."""
    height, width = sides
    if isinstance(pixels, Image.Image):
        return pixels.crop((left, top, left + width, top + height))
    return pixels[:, top : top + height, left : left + width]


def _zoom(
    pixels: Pixels, factors: tuple[float, float], crop_size: Sides, resize_filter: Filter
) -> Pixels:
    crop_height, crop_width = height_width(crop_size)
    width, height = (
        round(max(least, side * factor))
        for least, side, factor in zip(
            (crop_width, crop_height), size_of(pixels), factors, strict=True
        )
    )
    return resized(pixels, width, height, resize_filter)


def _crop(pixels: Pixels, crop_size: Sides, draws: ViewDraws) -> Pixels:
    width, height = size_of(pixels)
    crop_height, crop_width = height_width(crop_size)
    left, top = draws.corner(width, height, crop_size)
    if width <= crop_width and height <= crop_height:
        return pixels  # as released, also where a pinned corner would lie outside
    return _box(pixels, left, top, (crop_height, crop_width))


def _patch(pixels: Pixels, patch_size: Sides, draws: ViewDraws) -> Pixels:
    """A patch of a grid that is counted column by column (SinCUT)."""
    width, height = size_of(pixels)
    patch_height, patch_width = height_width(patch_size)
    across, down = width // patch_width, height // patch_height
    if not across * down:
        raise DataError(f"{width} x {height} pixels hold no patch of {in_pixels(patch_size)}.")
    left, top, index = draws.patch(width, height, patch_size)
    column, row = divmod(index % (across * down), down)
    corner = left + column * patch_width, top + row * patch_height
    return _box(pixels, *corner, (patch_height, patch_width))


def _trim(pixels: Pixels, crop_size: Sides, draws: ViewDraws) -> Pixels:
    """A crop that leaves a side shorter than itself as it is."""
    width, height = size_of(pixels)
    crop_height, crop_width = height_width(crop_size)
    left, top = draws.corner(max(width, crop_width), max(height, crop_height), crop_size)
    return _box(pixels, left, top, (min(height, crop_height), min(width, crop_width)))
