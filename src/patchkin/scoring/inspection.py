"""What a model takes for similar: maps of the embedded patches around chosen points.

For a tap l of the generator's encoder and a point p of an image (Jung, Kwon and Ye 2022, Fig. 9),

    map_l(x) = n(F_l(f_x)) . n(F_l(f_p))        for every place x of the tap's map,

the cosine of the angle between the patch at p and every other patch. Drawn for an input and for its
translation with the same p: where both agree, the translation has kept the relations among patches.

Shape suffixes: B images, C channels, H and W pixels or places, P points, M places in a row.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from patchkin.errors import ConfigError, check_same_shape
from patchkin.images import to_uint8
from patchkin.method import Method, translating_mode
from patchkin.networks import PatchMap
from patchkin.translation.translator import pad_to

Point: TypeAlias = tuple[int, int]
"""Row and column: y, x."""

_CHUNK_PLACES = 1 << 16
"""Patches embedded at once: 64 MiB with heads of width 256."""


@dataclass(frozen=True, kw_only=True)
class TapSimilarity:
    """The maps of one tap, for every point."""

    tap: int
    """Which layer of the generator."""
    field_pixels: int
    """Side of the square of the image that a patch depends on, norms apart."""
    origin: int
    """Row and column of the image's first pixel on the maps: 3 on a padded map, or 0."""
    pixels_per_place: int
    """Side of the square of the image that a place of the maps stands for."""
    places: tuple[Point, ...]
    """The points on the maps."""
    input_PHW: Tensor
    """Cosines in [-1, 1]; 1 at the point's own place."""
    output_PHW: Tensor
    """The same in the translation."""

    def agreement(self, index: int) -> float:
        """Correlation (Pearson) of the two maps of a point; NaN if one of them is flat.

        The point's own place is left out: it is 1 in both maps, whatever the model does.

        >>> map_PHW = torch.tensor([[[1.0, 0.2, 0.6, -0.3]]])
        >>> tap = TapSimilarity(tap=0, field_pixels=1, origin=0, pixels_per_place=1,
        ...     places=((0, 0),), input_PHW=map_PHW, output_PHW=-map_PHW)
        >>> round(tap.agreement(0), 6)
        -1.0
        """
        row, column = self.places[index]
        others_HW = torch.ones(self.input_PHW.shape[1:], dtype=torch.bool)
        others_HW[row, column] = False
        maps = torch.stack([self.input_PHW[index][others_HW], self.output_PHW[index][others_HW]])
        centred = maps.double() - maps.double().mean(dim=1, keepdim=True)
        lengths = centred.norm(dim=1)
        if maps.shape[1] < 2 or lengths.min() <= 1e-9 * math.sqrt(maps.shape[1]):
            return math.nan
        return float((centred[0] / lengths[0]) @ (centred[1] / lengths[1]))


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """An image, its translation, and their similarity maps."""

    points: tuple[Point, ...]
    input_CHW: Tensor
    output_CHW: Tensor
    taps: tuple[TapSimilarity, ...]


def parse_point(text: str) -> Point:
    """A point from the command line.

    Raises:
        ConfigError: the text is not two whole numbers.

    >>> parse_point("12,40")
    (12, 40)
    """
    parts = text.split(",")
    try:
        y, x = (int(part) for part in parts)
    except ValueError:
        raise ConfigError(
            f"A point is Y,X in pixels from the upper left, such as 12,40; got `{text}`."
        ) from None
    return y, x


def similarity_maps(
    method: Method,
    input_CHW: Tensor,
    points: Sequence[Point],
    *,
    taps: Sequence[int] | None = None,
    output_CHW: Tensor | None = None,
) -> Inspection:
    """Similarity maps of an image and of its translation.

    Memory grows with points times places, not with the width of the head.

    Args:
        method: with its trained generator and head, on any device, in any precision.
        input_CHW: an image of the source domain in [-1, 1], of any size.
        points: y, x in pixels.
        taps: some of the method's; by default all.
        output_CHW: instead of the method's own translation; as large as the input.

    Returns:
        Maps on the CPU. Sizes that the generator does not take are padded for it, and the maps
        cropped to the image.

    Raises:
        ConfigError: a point is outside the image, there is none, the method compares no patches,
            or it has no such tap.
        ShapeError: if the output is of another size than the input.

    >>> from patchkin.methods.cut import Cut, CutConfig
    >>> from patchkin.networks import ResNetConfig
    >>> small = Cut(CutConfig(generator=ResNetConfig(ngf=2, blocks=6), head_width=4))
    >>> found = similarity_maps(small, torch.rand(3, 21, 30), [(20, 29)], taps=[0, 16])
    >>> [(tuple(tap.input_PHW.shape), tap.places) for tap in found.taps]
    [((1, 27, 36), ((23, 32),)), ((1, 6, 8), ((5, 7),))]
    """
    height, width = input_CHW.shape[-2:]
    points = _checked_points(points, height, width)
    parameter = next(method.parameters())
    with translating_mode(method):
        x_BCHW = _prepared(method, input_CHW).to(parameter.device, parameter.dtype)
        of_input = method.patch_maps(x_BCHW)
        if output_CHW is None:
            y_BCHW = method.translate(x_BCHW)
            output_CHW = y_BCHW[0, :, :height, :width].cpu()
        else:
            check_same_shape(input_HW=input_CHW[0], output_HW=output_CHW[0])
            y_BCHW = _prepared(method, output_CHW).to(x_BCHW)
        of_output = method.patch_maps(y_BCHW, translated=True)
        padded = (x_BCHW.shape[2], x_BCHW.shape[3])
        found = tuple(
            _tap_similarity(before, after, points, (height, width), padded)
            for before, after in _chosen(of_input, of_output, taps)
        )
    return Inspection(points=points, input_CHW=input_CHW, output_CHW=output_CHW, taps=found)


def _checked_points(points: Sequence[Point], height: int, width: int) -> tuple[Point, ...]:
    inside = f"y from 0 to {height - 1} and x from 0 to {width - 1}"
    if not points:
        raise ConfigError(f"There is no point to compare with: give one with {inside}.")
    for y, x in points:
        if not (0 <= y < height and 0 <= x < width):
            raise ConfigError(
                f"The point {y},{x} is outside the image of {height} x {width} pixels "
                f"(height x width): points have {inside}."
            )
    return tuple((int(y), int(x)) for y, x in points)


def _prepared(method: Method, image_CHW: Tensor) -> Tensor:
    return pad_to(image_CHW.unsqueeze(0), method.multiple_of, minimum=method.min_size)


def _chosen(
    of_input: list[PatchMap], of_output: list[PatchMap], taps: Sequence[int] | None
) -> Iterator[tuple[PatchMap, PatchMap]]:
    known = [patch_map.tap for patch_map in of_input]
    for tap in taps or ():
        if tap not in known:
            raise ConfigError(
                f"This model compares no patches at tap {tap}; its taps are "
                f"{', '.join(map(str, known))}."
            )
    for pair in zip(of_input, of_output, strict=True):
        if taps is None or pair[0].tap in taps:
            yield pair


def _tap_similarity(
    before: PatchMap,
    after: PatchMap,
    points: tuple[Point, ...],
    image: tuple[int, int],
    padded: tuple[int, int],
) -> TapSimilarity:
    """The maps of a tap. `image` and `padded` are heights and widths, before and after padding."""
    size = before.feature_BCHW.shape[2:]
    if before.origin:
        places = [(y + before.origin, x + before.origin) for y, x in points]
        rows, columns = (length + 2 * before.origin for length in image)
        pixels_per_place = 1
    else:
        places = [(y * size[0] // padded[0], x * size[1] // padded[1]) for y, x in points]
        rows, columns = (-(-n * m // p) for n, m, p in zip(image, size, padded, strict=True))
        pixels_per_place = round(padded[0] / size[0])
    return TapSimilarity(
        tap=before.tap,
        field_pixels=before.field_pixels,
        origin=before.origin,
        pixels_per_place=pixels_per_place,
        places=tuple(places),
        input_PHW=_similarity(before, places)[:, :rows, :columns],
        output_PHW=_similarity(after, places)[:, :rows, :columns],
    )


def _similarity(patch_map: PatchMap, places: list[Point]) -> Tensor:
    """Cosines of the embedded patches at `places` with all others, [P, H, W]."""
    height, width = patch_map.feature_BCHW.shape[2:]
    features_CM = patch_map.feature_BCHW[0].flatten(1)
    positions = torch.tensor([y * width + x for y, x in places], device=features_CM.device)
    queries_PD = patch_map.embed(features_CM[:, positions].mT)
    cosines = [
        queries_PD @ patch_map.embed(chunk_CM.mT).mT
        for chunk_CM in torch.split(features_CM, _CHUNK_PLACES, dim=1)
    ]
    return torch.cat(cosines, dim=1).clamp(-1, 1).view(-1, height, width).cpu()


# Pictures

_COLOURS = "viridis"  # equal steps of similarity look equally large, also without colour vision
_PANEL_INCHES = 1.9
_DOTS_PER_INCH = 110
_COLUMNS = ("input", "similar to +\nin the input", "similar to +\nin the output", "output")


def draw(inspection: Inspection, index: int = 0) -> Image.Image:
    """A picture of the maps of one point.

    A row per tap: the input and the output with the point and the square that a patch of this tap
    sees, and between them both maps on one colour scale.

    Args:
        inspection: of `similarity_maps`.
        index: which of its points.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = inspection.input_CHW.shape[-2:]
    panel = (_PANEL_INCHES * min(1.0, width / height), _PANEL_INCHES * min(1.0, height / width))
    size = (4 * panel[0] + 1.9, len(inspection.taps) * (panel[1] + 0.24) + 0.9)
    figure = Figure(figsize=(max(size[0], 6.5), size[1]), layout="constrained")
    FigureCanvasAgg(figure)
    y, x = inspection.points[index]
    figure.suptitle(
        f"Patches like the one at y {y}, x {x}\n", fontsize=11, fontweight="bold", x=0.02, ha="left"
    )
    figure.text(
        0.02,
        1 - 0.3 / size[1],
        "colour: cosine of the embedded patches, one scale per row; square: what a patch sees;"
        " r: correlation of the two maps",
        fontsize=7.5,
        va="top",
    )
    grid = figure.subplots(len(inspection.taps), 4, squeeze=False)
    for row, tap in zip(grid, inspection.taps, strict=True):
        _draw_row(figure, row, inspection, tap, index)
    for axes, title in zip(grid[0], _COLUMNS, strict=True):
        axes.set_title(title, fontsize=8.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_DOTS_PER_INCH, format="png")
    return Image.open(buffer).convert("RGB")


def _draw_row(
    figure: Any, row: Any, inspection: Inspection, tap: TapSimilarity, index: int
) -> None:
    before_HW, after_HW = tap.input_PHW[index], tap.output_PHW[index]
    lowest = min(float(before_HW.min()), float(after_HW.min()), 1 - 1e-3)
    drawn = None
    for axes, map_HW in ((row[1], before_HW), (row[2], after_HW)):
        drawn = axes.imshow(
            map_HW.float().numpy(), cmap=_COLOURS, vmin=lowest, vmax=1, extent=_extent(tap, map_HW)
        )
    for axes, image_CHW in ((row[0], inspection.input_CHW), (row[3], inspection.output_CHW)):
        axes.imshow(_shown(image_CHW))
        _draw_field(axes, tap, index)
    height, width = inspection.input_CHW.shape[-2:]
    for axes in row:
        _draw_point(axes, inspection.points[index])
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    padding = "\n(padded)" if tap.origin else ""
    places = f"{before_HW.shape[0]} x {before_HW.shape[1]}{padding}"
    row[0].set_ylabel(
        f"tap {tap.tap}\nsees {tap.field_pixels} px\nmap {places}",
        fontsize=8,
        rotation=0,
        ha="right",
        va="center",
        labelpad=8,
    )
    row[2].set_xlabel(f"r = {tap.agreement(index):.2f}", fontsize=7.5, labelpad=2)
    bar = figure.colorbar(drawn, ax=row, fraction=0.03, pad=0.01, aspect=14)
    bar.ax.tick_params(labelsize=7)


def _extent(tap: TapSimilarity, map_HW: Tensor) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of a map in pixels of the image."""
    start = -tap.origin * tap.pixels_per_place - 0.5
    height, width = (length * tap.pixels_per_place for length in map_HW.shape)
    return start, start + width, start + height, start


def _shown(image_CHW: Tensor) -> npt.NDArray[np.uint8]:
    """Colours of an image: of the first three channels, or of the first one."""
    channels = 3 if image_CHW.shape[0] >= 3 else 1
    array_HWC: npt.NDArray[np.uint8] = to_uint8(image_CHW[:channels]).permute(1, 2, 0).numpy()
    return array_HWC.repeat(3 // channels, axis=2)


def _draw_point(axes: Any, point: Point) -> None:
    for colour, width in (("black", 2.6), ("white", 1.2)):
        axes.plot(point[1], point[0], "+", color=colour, markersize=8, markeredgewidth=width)


def _draw_field(axes: Any, tap: TapSimilarity, index: int) -> None:
    """The square that the patch depends on, around the pixel at the middle of its kernels."""
    from matplotlib.patches import Rectangle

    y, x = ((place - tap.origin) * tap.pixels_per_place for place in tap.places[index])
    side = tap.field_pixels
    corner = (x - side / 2, y - side / 2)
    for colour, width in (("black", 2.2), ("white", 1.0)):
        axes.add_patch(Rectangle(corner, side, side, fill=False, color=colour, linewidth=width))
