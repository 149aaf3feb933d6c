"""How much translations change from frame to frame where the inputs do not. Imports no torch.

A pixel stands still between two frames in a row if none of its input's channels changes by more
than `STILL_LEVELS`. The flicker is the mean absolute difference of the two outputs over all
channels of all such pixels of all pairs of frames, in 8-bit levels; 0 is as steady as the input. It
says nothing of what moves, and a still pixel beside something that moves may change for a
reason: a network sees its surroundings too.

Shape suffixes: B frames, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from patchkin.images import Array, Ranges

STILL_LEVELS = 2.0
"""Most that a still pixel of the input changes by, in 8-bit levels: what encoders do to it."""
_HALF_RANGE = 127.5
"""Levels of a step of 1, as values go from -1 to 1."""


class FlickerScore(NamedTuple):
    """Of a clip."""

    flicker: float | None
    """In 8-bit levels; None where no pixel stood still."""
    still_share: float
    """Of the pixels of all pairs of frames."""

    def __str__(self) -> str:
        if self.flicker is None:
            return "no flicker: no pixel of the input stands still"
        return (
            f"flicker {self.flicker:.2f} of 255 levels where the input stands still "
            f"({self.still_share:.0%} of the pixels)"
        )


class Flicker:
    """Collects frames in order."""

    def __init__(self, still_levels: float = STILL_LEVELS) -> None:
        self._most = still_levels / _HALF_RANGE + 1e-6
        self._last: tuple[Array, Array] | None = None
        self._sum = 0.0
        self._numbers = 0
        self._still = 0
        self._pixels = 0

    def add(self, input_CHW: Array, output_CHW: Array) -> None:
        """A frame and its translation, in [-1, 1]; beside one of another size it begins anew."""
        output_CHW = np.clip(output_CHW, -1, 1)
        last, self._last = self._last, (input_CHW, output_CHW)
        if last is None or last[0].shape != input_CHW.shape:
            return
        still_HW = np.abs(input_CHW - last[0]).max(axis=0) <= self._most
        changes = np.abs(output_CHW - last[1])[:, still_HW]
        self._sum += float(changes.sum(dtype=np.float64)) * _HALF_RANGE
        self._numbers += changes.size
        self._still += int(still_HW.sum())
        self._pixels += still_HW.size

    @property
    def score(self) -> FlickerScore:
        """Of the frames so far.

        >>> flicker = Flicker()
        >>> for level in (0.0, 0.1, 0.0):
        ...     flicker.add(np.zeros((3, 4, 5)), np.full((3, 4, 5), level))
        >>> flicker.score
        FlickerScore(flicker=12.75, still_share=1.0)
        """
        return FlickerScore(
            round(self._sum / self._numbers, 4) if self._numbers else None,
            round(self._still / self._pixels, 4) if self._pixels else 0.0,
        )


class Watchable(Protocol):
    """What translates images as arrays."""

    @property
    def channels(self) -> tuple[int, int]:
        """Of the images it takes, and of those it gives."""

    @property
    def value_ranges(self) -> Ranges:
        """Of the images it takes, and of those it gives, in files of more than 8 bits."""

    def arrays(self, x_BCHW: Array, styles_BS: Array | None = None) -> Array:
        """Images in [-1, 1], translated."""


class WatchedTranslator:
    """A translator whose frames are compared as they come."""

    def __init__(self, translator: Watchable, flicker: Flicker) -> None:
        self._translator = translator
        self._flicker = flicker

    @property
    def channels(self) -> tuple[int, int]:
        """Of the images it takes, and of those it gives."""
        return self._translator.channels

    @property
    def value_ranges(self) -> Ranges:
        """Of the images it takes, and of those it gives, in files of more than 8 bits."""
        return self._translator.value_ranges

    def arrays(self, x_BCHW: Array, styles_BS: Array | None = None) -> Array:
        """Frames in [-1, 1], translated."""
        y_BCHW = self._translator.arrays(x_BCHW, styles_BS)
        for x_CHW, y_CHW in zip(x_BCHW, y_BCHW, strict=True):
            self._flicker.add(x_CHW, y_CHW)
        return y_BCHW
