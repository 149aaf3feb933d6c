"""Files of any kind as a browser shows them: 8 bits, in colour, no larger than a screen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from patchkin.images import ValueRange, read_image, to_values, write_pillow
from patchkin.images.picture import Picture

SIDE = 1024
"""Pixels of the longer side at most."""
_SMALL = 384
"""Below this, pixels are drawn as squares."""


def shown_picture(picture: Picture, value_range: ValueRange | None) -> Image.Image:
    """A picture to look at.

    Args:
        picture: as it was decoded; alpha is left out.
        value_range: what is black and white, beyond 8 bits; those of the type unless given.

    >>> from patchkin.images.picture import encoding_of
    >>> deep = np.full((1, 2, 4), 0xFFFF, np.uint16)
    >>> shown = shown_picture(Picture(deep, encoding_of(deep), "deep"), None)
    >>> shown.size, shown.getpixel((0, 0))
    ((768, 384), (255, 255, 255))
    """
    if isinstance(picture.pixels, Image.Image):
        image = picture.pixels.convert("RGB")
    else:
        values_CHW = to_values(picture, value_range)
        channels = 3 if values_CHW.shape[0] >= 3 else 1
        levels_CHW = ((values_CHW[:channels] + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        levels_HWC = levels_CHW.transpose(1, 2, 0).repeat(3 // channels, axis=2)
        image = Image.fromarray(np.ascontiguousarray(levels_HWC))
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    scale = round(2 * _SMALL / max(image.size)) if max(image.size) < _SMALL else 1
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def show(file: Path, target: Path, value_range: ValueRange | None = None) -> Path:
    """A PNG of a file, for the page.

    Raises:
        DataError: it cannot be read.
    """
    write_pillow(target, shown_picture(read_image(file), value_range), synced=False)
    return target
