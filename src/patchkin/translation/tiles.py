"""Large images in parts that overlap, so that memory is that of a part. Imports no torch.

Each part is translated by itself, and where parts overlap their translations fade into each other.
A norm that takes statistics over the image takes them over the part (`Method.tiling` says
`discouraged` then): colours may differ from part to part, and the overlap hides the seams alone.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from patchkin.errors import ConfigError
from patchkin.images import Array, Ranges
from patchkin.translation.files import ArrayTranslator


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """Squares that an image is divided into."""

    side: int
    """Of a part, in pixels."""
    overlap: int = 64
    """Pixels that neighbours share at least."""

    def __post_init__(self) -> None:
        if self.side < 16:
            raise ConfigError(f"`--tile` must be at least 16 pixels; got {self.side}.")
        if not 0 <= self.overlap <= self.side // 2:
            raise ConfigError(
                f"`--overlap` must be from 0 to half of --tile, {self.side // 2}; got "
                f"{self.overlap}."
            )

    def spans(self, length: int, grid: int = 1) -> list[slice]:
        """The parts of one axis, evenly apart.

        Args:
            length: of the axis.
            grid: pixels that a network reduces to one: parts begin at multiples of it, so that it
                reduces the same pixels as in the whole image. Sides become multiples too.

        >>> Tiles(side=16, overlap=4).spans(40)
        [slice(0, 16, None), slice(12, 28, None), slice(24, 40, None)]
        >>> Tiles(side=16, overlap=4).spans(9)
        [slice(0, 9, None)]
        >>> Tiles(side=18, overlap=4).spans(41, grid=8)
        [slice(0, 24, None), slice(8, 32, None), slice(24, 41, None)]
        """
        side = _raised(self.side, grid)
        if length <= side:
            return [slice(0, length)]
        step = max((side - self.overlap) // grid, 1) * grid
        last = _raised(length - side, grid)
        count = -(-last // step) + 1
        starts = [n * last // (count - 1) // grid * grid for n in range(count)]
        return [slice(start, min(start + side, length)) for start in starts]

    def weights(self, length: int, grid: int = 1, halo: int = 0) -> list[Array]:
        """How much each part counts along its own pixels; over all parts they add up to one.

        Args:
            length: of the axis.
            grid: see `spans`.
            halo: pixels at the border of a part for which the network lacks neighbours. Where the
                overlap has room for two, they count nothing.

        >>> Tiles(side=16, overlap=4).weights(28)[0].astype(float).round(1).tolist()[-6:]
        [1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
        >>> Tiles(side=16, overlap=4).weights(28, halo=1)[0].astype(float).round(1).tolist()[-6:]
        [1.0, 1.0, 1.0, 0.7, 0.3, 0.0]
        """
        spans = self.spans(length, grid)
        ramps = []
        for number, span in enumerate(spans):
            size = span.stop - span.start
            rising, falling = np.ones(size), np.ones(size)
            if number:
                rising = _ramp(size, spans[number - 1].stop - span.start, halo)
            if number < len(spans) - 1:
                falling = _ramp(size, span.stop - spans[number + 1].start, halo)[::-1]
            ramps.append(np.minimum(rising, falling))
        total = np.zeros(length)
        for span, ramp in zip(spans, ramps, strict=True):
            total[span] += ramp
        return [ramp / total[span] for span, ramp in zip(spans, ramps, strict=True)]

    def cores(self, length: int, grid: int = 1) -> list[slice]:
        """What each part has for itself, in the middle of it; together they are the axis.

        >>> Tiles(side=16, overlap=4).cores(40)
        [slice(0, 14, None), slice(14, 26, None), slice(26, 40, None)]
        """
        spans = self.spans(length, grid)
        between = [
            (before.stop + after.start) // 2 // grid * grid for before, after in pairwise(spans)
        ]
        return [slice(*ends) for ends in pairwise([0, *between, length])]

    def over(
        self, height: int, width: int, grid: int = 1, halo: int = 0
    ) -> Iterator[tuple[slice, slice, Array]]:
        """Rows, columns and weights [H, W] of every part."""
        across, along = self.spans(width, grid), self.weights(width, grid, halo)
        for rows, down in zip(
            self.spans(height, grid), self.weights(height, grid, halo), strict=True
        ):
            for columns, weight in zip(across, along, strict=True):
                yield rows, columns, down[:, None] * weight


def _raised(length: int, grid: int) -> int:
    """To a multiple."""
    return -(-length // grid) * grid


def _ramp(size: int, shared: int, halo: int) -> Array:
    """From nearly 0 to 1 over the pixels that are shared, then 1; from 0 behind a halo."""
    if shared < 1:
        return np.ones(size)
    halo = halo if shared >= 2 * halo else 0
    steps: Array = (np.arange(size) + 1 - halo) / (shared - 2 * halo + 1)
    return steps.clip(0, 1)


TileNorm = Literal["image", "tile"]
"""What norms that take statistics over an image take them over."""
Core = tuple[slice, slice, int, int]
"""Rows and columns of a part that no other part has for itself; height and width of the part as the
network gets it."""
Part = tuple[Callable[[], None], Core]
"""What to do for a part of an image."""


class TiledTranslator:
    """A translator that sees no more than a part of an image at a time."""

    def __init__(
        self,
        whole: ArrayTranslator,
        tiles: Tiles,
        *,
        grid: int = 1,
        halo: int = 0,
        together: Callable[[Sequence[Part]], None] | None = None,
    ) -> None:
        """See `Tiles.spans` and `Tiles.weights` for grid and halo.

        Args:
            whole: the model.
            tiles: parts of larger images.
            grid: places of parts are multiples of it.
            halo: how far the network sees.
            together: does all parts of an image, where they have something in common; one after the
                other unless given.
        """
        self._whole = whole
        self.tiles = tiles
        self._grid, self._halo = grid, halo
        self._together = together

    @property
    def channels(self) -> tuple[int, int]:
        """Of the images it takes, and of those it gives."""
        return self._whole.channels

    @property
    def value_ranges(self) -> Ranges:
        """Of the images it takes, and of those it gives, in files of more than 8 bits."""
        return self._whole.value_ranges

    def arrays(self, x_BCHW: Array, styles_BS: Array | None = None) -> Array:
        """Images of any size in [-1, 1], translated part by part."""
        height, width = x_BCHW.shape[-2:]
        if max(height, width) <= self.tiles.side:
            return self._whole.arrays(x_BCHW, styles_BS)
        y_BCHW: Array = np.zeros((len(x_BCHW), self.channels[1], height, width), x_BCHW.dtype)
        if self._together is None:
            for work, _ in self._parts(x_BCHW, styles_BS, y_BCHW):
                work()
            return y_BCHW
        for number in range(len(x_BCHW)):
            one = slice(number, number + 1)
            styles_1S = None if styles_BS is None else styles_BS[one]
            self._together(list(self._parts(x_BCHW[one], styles_1S, y_BCHW[one])))
        return y_BCHW

    def _parts(self, x_BCHW: Array, styles_BS: Array | None, y_BCHW: Array) -> Iterator[Part]:
        height, width = x_BCHW.shape[-2:]
        for rows, down, row_core in self._axis(height):
            for columns, along, column_core in self._axis(width):

                def work(
                    rows: slice = rows,
                    columns: slice = columns,
                    down: Array = down,
                    along: Array = along,
                ) -> None:
                    # A view: parts that wait for each other would keep copies of their inputs.
                    part_BCHW = self._whole.arrays(x_BCHW[..., rows, columns], styles_BS)
                    weight_HW = (down[:, None] * along).astype(y_BCHW.dtype)
                    y_BCHW[..., rows, columns] += part_BCHW * weight_HW

                (core_rows, tall), (core_columns, wide) = row_core, column_core
                yield work, (core_rows, core_columns, tall, wide)

    def _axis(self, length: int) -> list[tuple[slice, Array, tuple[slice, int]]]:
        """Spans, weights and cores of one axis."""
        spans = self.tiles.spans(length, self._grid)
        weights = self.tiles.weights(length, self._grid, self._halo)
        return list(zip(spans, weights, self._cores(length), strict=True))

    def _cores(self, length: int) -> list[tuple[slice, int]]:
        """Of one axis, in pixels of their parts, and how long these are for the network."""
        cores = []
        spans, ends = self.tiles.spans(length, self._grid), self.tiles.cores(length, self._grid)
        for span, core in zip(spans, ends, strict=True):
            stop = _raised(length, self._grid) if core.stop == length else core.stop
            sides = _raised(span.stop - span.start, self._grid)
            cores.append((slice(core.start - span.start, stop - span.start), sides))
        return cores
