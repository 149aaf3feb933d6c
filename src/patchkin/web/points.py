"""What a point relates to, tap by tap: Figure 9 of Jung, Kwon and Ye 2022, on pictures.

`scoring.inspection` has the mathematics. Maps of input and output share one scale: dark is least
similar, yellow most.

Shape suffixes: C channels, H and W pixels or places.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from patchkin.errors import ConfigError
from patchkin.images import Array, to_uint8, write_pillow
from patchkin.scoring.inspection import Inspection, TapSimilarity, similarity_maps
from patchkin.translation.enlarging import reduced
from patchkin.translation.translator import Translator
from patchkin.web.translating import Made

MOST_PIXELS = 512 * 512
"""Of an image that is looked at; larger ones are reduced first."""
_COLOUR_SHARE = 0.72
_DRAWN_SIDE = 512


@dataclass(frozen=True)
class TapPictures:
    """The maps of a tap, over input and output."""

    tap: int
    before: Path
    after: Path
    agreement: float
    """Of the two maps (Pearson); NaN where one is flat."""
    field_pixels: int
    """Side of what a patch of this tap sees, in pixels of the image that was looked at."""


@dataclass(frozen=True)
class Related:
    """All taps of a point."""

    point: tuple[float, float]
    """As a share of height and width."""
    size: tuple[int, int]
    """Width and height that was looked at."""
    taps: tuple[TapPictures, ...]


def related(
    translator: Translator, made: Made, point: tuple[float, float], folder: Path
) -> Related:
    """What a point relates to in an image and in its translation.

    Args:
        translator: that made it, from A to B, with its projection head.
        made: an image and its translation.
        point: y and x as a share of height and width, from 0 to 1.
        folder: for the pictures.

    Raises:
        ConfigError: the model compares no patches, or translates from B to A.
        CheckpointError: its file lacks the head.
        DataError: a file cannot be read.
    """
    if translator.direction != "AtoB":
        raise ConfigError("Patches are compared from A to B only: choose that direction.")
    input_CHW, _ = translator.read(made.source)
    output_CHW, _ = translator.read(made.target, channels=translator.channels[1], like="output")
    input_CHW, output_CHW = _small(input_CHW), _small(output_CHW)
    height, width = input_CHW.shape[-2:]
    y = min(int(point[0] * height), height - 1)
    x = min(int(point[1] * width), width - 1)
    found = similarity_maps(translator.method, input_CHW, [(y, x)], output_CHW=output_CHW)
    taps = tuple(_pictures(found, tap, folder) for tap in found.taps)
    return Related(point, (width, height), taps)


def _small(image_CHW: Tensor) -> Tensor:
    height, width = image_CHW.shape[-2:]
    if height * width <= MOST_PIXELS:
        return image_CHW
    share = (MOST_PIXELS / (height * width)) ** 0.5
    return reduced(image_CHW[None], max(1, int(min(height, width) * share)))[0]


def _pictures(found: Inspection, tap: TapSimilarity, folder: Path) -> TapPictures:
    lowest = min(float(tap.input_PHW.min()), float(tap.output_PHW.min()), 1 - 1e-3)
    files = []
    for name, image_CHW, map_HW in (
        ("before", found.input_CHW, tap.input_PHW[0]),
        ("after", found.output_CHW, tap.output_PHW[0]),
    ):
        file = folder / f"tap{tap.tap}-{name}.png"
        write_pillow(file, _overlay(image_CHW, map_HW, tap, lowest, found.points[0]), synced=False)
        files.append(file)
    return TapPictures(tap.tap, files[0], files[1], tap.agreement(0), tap.field_pixels)


def _overlay(
    image_CHW: Tensor, map_HW: Tensor, tap: TapSimilarity, lowest: float, point: tuple[int, int]
) -> Image.Image:
    """The map in colours over a grey image, with the point and what its patch sees."""
    height, width = image_CHW.shape[-2:]
    map_HW = over_image(map_HW, tap, height, width)
    colours_HWC = _viridis((map_HW.float().numpy() - lowest) / (1 - lowest))
    grey_HW = to_uint8(image_CHW[: 3 if len(image_CHW) >= 3 else 1]).float().mean(dim=0).numpy()
    mixed_HWC = _COLOUR_SHARE * colours_HWC + (1 - _COLOUR_SHARE) * grey_HW[..., None]
    picture = Image.fromarray(mixed_HWC.round().clip(0, 255).astype(np.uint8))
    scale = max(1, round(_DRAWN_SIDE / max(height, width)))
    picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    _draw_point(picture, tap, point, scale)
    return picture


def over_image(map_HW: Tensor, tap: TapSimilarity, height: int, width: int) -> Tensor:
    """A map with a value for every pixel of the image.

    >>> tap = TapSimilarity(tap=4, field_pixels=9, origin=0, pixels_per_place=2, places=((0, 0),),
    ...                     input_PHW=torch.zeros(1, 1, 2), output_PHW=torch.zeros(1, 1, 2))
    >>> over_image(torch.tensor([[0.25, 0.5]]), tap, 1, 3)
    tensor([[0.2500, 0.2500, 0.5000]])
    """
    rows = (torch.arange(height) // tap.pixels_per_place) + tap.origin
    columns = (torch.arange(width) // tap.pixels_per_place) + tap.origin
    rows, columns = rows.clamp(max=map_HW.shape[0] - 1), columns.clamp(max=map_HW.shape[1] - 1)
    return map_HW[rows][:, columns]


def _viridis(share_HW: Array) -> Array:
    from matplotlib import colormaps

    colours_HWC: Array = colormaps["viridis"](np.clip(share_HW, 0, 1))[..., :3] * 255
    return colours_HWC


def _draw_point(
    picture: Image.Image, tap: TapSimilarity, point: tuple[int, int], scale: int
) -> None:
    draw = ImageDraw.Draw(picture)
    y, x = ((place + 0.5) * scale for place in point)
    arm, half = max(picture.size) / 40, tap.field_pixels * scale / 2
    for colour, width in (("black", 5), ("white", 2)):
        draw.line((x - arm, y, x + arm, y), colour, width)
        draw.line((x, y - arm, x, y + arm), colour, width)
        if half > arm:
            draw.rectangle((x - half, y - half, x + half, y + half), outline=colour, width=width)
