"""Images in rows and columns, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from patchkin.errors import ConfigError
from patchkin.images.picture import Array
from patchkin.images.values import levels_8bit

_LINE_PIXELS = 12


def grid_of(
    rows: Sequence[Sequence[Array]], captions: Sequence[str] = (), *, gap_pixels: int = 2
) -> Image.Image:
    """As `images.image_grid`, of arrays [C, H, W] in [-1, 1].

    Raises:
        ConfigError: if there is no image.

    >>> grid_of([[np.zeros((3, 4, 6)), np.zeros((1, 2, 2))], [np.zeros((3, 3, 3))]]).size
    (10, 9)
    """
    tiles = [[_tile(image) for image in row] for row in rows]
    if not any(tiles):
        raise ConfigError("A grid needs at least one image.")
    num_columns = max(map(len, tiles))
    columns = [[row[i] for row in tiles if i < len(row)] for i in range(num_columns)]
    widths = [max(tile.width for tile in column) for column in columns]
    heights = [max((tile.height for tile in row), default=0) for row in tiles]
    font = ImageFont.load_default()
    texts = [_wrapped(text, width, font) for text, width in zip(captions, widths, strict=False)]
    top = 2 + _LINE_PIXELS * max(text.count("\n") + 1 for text in texts) if texts else 0
    size = (
        sum(widths) + gap_pixels * (num_columns - 1),
        top + sum(heights) + gap_pixels * (len(tiles) - 1),
    )
    grid = Image.new("RGB", size, "white")
    lefts = [sum(widths[:i]) + gap_pixels * i for i in range(num_columns)]
    for left, text in zip(lefts, texts, strict=False):
        ImageDraw.Draw(grid).text((left + 1, 1), text, fill="black", font=font, spacing=2)
    for row, height in zip(tiles, heights, strict=True):
        for left, tile in zip(lefts, row, strict=False):
            grid.paste(tile, (left, top))
        top += height + gap_pixels
    return grid


def _wrapped(caption: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The caption in lines of at most `width` pixels; a longer word has a line of its own."""
    lines: list[str] = []
    for word in caption.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width - 1:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _tile(image_CHW: Array) -> Image.Image:
    channels = 3 if image_CHW.shape[0] >= 3 else 1
    array_HWC = np.ascontiguousarray(levels_8bit(image_CHW[:channels]).transpose(1, 2, 0))
    return Image.fromarray(array_HWC[:, :, 0] if channels == 1 else array_HWC).convert("RGB")
