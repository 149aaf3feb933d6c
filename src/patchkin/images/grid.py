"""Images in rows and columns, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from patchkin.errors import ConfigError
from patchkin.images.tensors import to_uint8

_LINE_PIXELS = 12


def image_grid(
    rows: Sequence[Sequence[Tensor]], captions: Sequence[str] = (), *, gap_pixels: int = 2
) -> Image.Image:
    """Images in rows and columns on white, of any sizes, for people to look at.

    Args:
        rows: images [C, H, W] in [-1, 1]; two channels show the first, more than three the first
            three.
        captions: one per column, above it; in several lines where the column is narrow.
        gap_pixels: between images.

    >>> import torch
    >>> image_grid([[torch.zeros(3, 4, 6), torch.zeros(1, 2, 2)], [torch.zeros(3, 3, 3)]]).size
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


def _tile(image_CHW: Tensor) -> Image.Image:
    channels = 3 if image_CHW.shape[0] >= 3 else 1
    array_HWC = to_uint8(image_CHW[:channels].cpu()).permute(1, 2, 0).numpy()
    return Image.fromarray(array_HWC[:, :, 0] if channels == 1 else array_HWC).convert("RGB")
