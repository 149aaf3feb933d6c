"""Large images in parts that overlap, so that memory is that of a part. Imports no torch.

Each part is translated by itself, and where parts overlap their translations fade into each other.
A norm that takes statistics over the image takes them over the part (`Method.tiling` says
`discouraged` then): colours may differ from part to part, and the overlap hides the seams alone.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from patchkin.errors import ConfigError
from patchkin.images import Array, Ranges
from patchkin.translation.files import ArrayTranslator

Tiling = Literal["supported", "discouraged", "internal"]


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

    def spans(self, length: int) -> list[slice]:
        """The parts of one axis, evenly apart.

        >>> Tiles(side=16, overlap=4).spans(40)
        [slice(0, 16, None), slice(12, 28, None), slice(24, 40, None)]
        >>> Tiles(side=16, overlap=4).spans(9)
        [slice(0, 9, None)]
        """
        if length <= self.side:
            return [slice(0, length)]
        count = -(-(length - self.overlap) // (self.side - self.overlap))
        starts = [round(n * (length - self.side) / (count - 1)) for n in range(count)]
        return [slice(start, start + self.side) for start in starts]

    def weights(self, length: int) -> list[Array]:
        """How much each part counts along its own pixels; over all parts they add up to one.

        >>> Tiles(side=16, overlap=4).weights(28)[0].astype(float).round(1).tolist()[-6:]
        [1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
        """
        spans = self.spans(length)
        ramps = []
        for number, span in enumerate(spans):
            size = span.stop - span.start
            rising, falling = np.ones(size), np.ones(size)
            if number:
                rising = _ramp(size, spans[number - 1].stop - span.start)
            if number < len(spans) - 1:
                falling = _ramp(size, span.stop - spans[number + 1].start)[::-1]
            ramps.append(np.minimum(rising, falling))
        total = np.zeros(length)
        for span, ramp in zip(spans, ramps, strict=True):
            total[span] += ramp
        return [
            (ramp / total[span]).astype(np.float32) for span, ramp in zip(spans, ramps, strict=True)
        ]

    def over(self, height: int, width: int) -> Iterator[tuple[slice, slice, Array]]:
        """Rows, columns and weights [H, W] of every part."""
        columns = list(zip(self.spans(width), self.weights(width), strict=True))
        for rows, down in zip(self.spans(height), self.weights(height), strict=True):
            for across, along in columns:
                yield rows, across, down[:, None] * along


def _ramp(size: int, shared: int) -> Array:
    """From nearly 0 to 1 over the pixels that are shared, then 1."""
    steps: Array = np.arange(1, size + 1) / (max(shared, 0) + 1)
    return np.minimum(steps, 1)


class Tileable(ArrayTranslator, Protocol):
    """A translator that says whether its images may be divided."""

    @property
    def tiling(self) -> Tiling:
        """See `Method.tiling`."""


class TiledTranslator:
    """A translator that sees no more than a part of an image at a time."""

    def __init__(self, whole: Tileable, tiles: Tiles) -> None:
        self._whole = whole
        self.tiles = tiles

    @property
    def channels(self) -> tuple[int, int]:
        """Of the images it takes, and of those it gives."""
        return self._whole.channels

    @property
    def value_ranges(self) -> Ranges:
        """Of the images it takes, and of those it gives, in files of more than 8 bits."""
        return self._whole.value_ranges

    @property
    def warning(self) -> str:
        """What is not as in the whole image; empty if nothing."""
        if self._whole.tiling != "discouraged":
            return ""
        return (
            "this model's norms take statistics over the image, and with --tile over each part: "
            "colours may differ from part to part. --resize keeps the image whole"
        )

    def arrays(self, x_BCHW: Array, styles_BS: Array | None = None) -> Array:
        """Images of any size in [-1, 1], translated part by part."""
        height, width = x_BCHW.shape[-2:]
        if max(height, width) <= self.tiles.side:
            return self._whole.arrays(x_BCHW, styles_BS)
        shape = (len(x_BCHW), self.channels[1], height, width)
        y_BCHW: Array = np.zeros(shape, np.float32)
        for rows, columns, weight_HW in self.tiles.over(height, width):
            part_BCHW = np.ascontiguousarray(x_BCHW[..., rows, columns])
            y_BCHW[..., rows, columns] += self._whole.arrays(part_BCHW, styles_BS) * weight_HW
        return y_BCHW
