"""Fewer bits than the files have room for: 12 bits stored in 16, read as 16, are nearly black."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from patchkin.errors import DataError
from patchkin.images import Picture, ValueRange, read_image

logger = logging.getLogger(__name__)

_LOOKED_AT = 16
_FULL_BITS = 16


@dataclass(frozen=True, slots=True)
class UsedValues:
    """The values that occur in files of more than 8 bits."""

    low: float
    high: float
    unsigned_16: bool
    """Whether all are uint16, the only type whose range is assumed."""

    @property
    def unused_bits(self) -> int:
        """How many of 16 bits are never set.

        >>> UsedValues(0, 4095, True).unused_bits, UsedValues(0, 65535, True).unused_bits
        (4, 0)
        """
        return _FULL_BITS - int(self.high).bit_length() if self.unsigned_16 else 0

    def note(self, *folders: str) -> str:
        """One line with the range to give; empty where the files use their bits.

        >>> print(UsedValues(3, 4000, True).note("trainA"))
        trainA has 16-bit files whose values end at 4000, as of 12 bits: read as 16 bits they are
        nearly black. Give --data.value-range 0 4095.
        """
        if self.unused_bits == 0:
            return ""
        bits = _FULL_BITS - self.unused_bits
        several = len(folders) > 1
        told = (
            f"{', '.join(folders[:-1])} and {folders[-1]} have" if several else folders[0] + " has"
        )
        return (
            f"{told} 16-bit files whose values end at {int(self.high)}, as of {bits} bits: "
            "read as 16 bits they are nearly black. "
            f"Give --data.value-range 0 {2**bits - 1}."
        )


def used_values(pictures: Sequence[Picture]) -> UsedValues | None:
    """Of pictures with more than 8 bits; None if there are none, or they are all black."""
    arrays = [
        picture.pixels
        for picture in pictures
        if not isinstance(picture.pixels, Image.Image) and picture.encoding.bits > 8
    ]
    if not arrays:
        return None
    low, high = min(a.min() for a in arrays), max(a.max() for a in arrays)
    if low == high == 0:
        return None
    return UsedValues(float(low), float(high), all(a.dtype == np.uint16 for a in arrays))


def merged(values: Sequence[UsedValues | None]) -> UsedValues | None:
    """Of all files of a folder."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return UsedValues(
        min(value.low for value in there),
        max(value.high for value in there),
        all(value.unsigned_16 for value in there),
    )


def warn_of_depth(paths: Sequence[Path], value_range: ValueRange | None) -> None:
    """Log what to say of a domain's files before training, if anything.

    Some files, evenly over the list, stand for all.
    """
    if value_range is not None or not paths:
        return
    step = max(1, len(paths) // _LOOKED_AT)
    pictures = []
    for path in paths[::step][:_LOOKED_AT]:
        try:
            pictures.append(read_image(path))
        except DataError:  # counted elsewhere
            continue
    used = used_values(pictures)
    note = "" if used is None else used.note(f"`{paths[0].parent}`")
    if note:
        logger.warning("%s", note)
