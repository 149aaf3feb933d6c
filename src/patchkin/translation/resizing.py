"""Whether large images are translated at a smaller size. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from patchkin.errors import ConfigError

Enlarging: TypeAlias = Literal["plain", "joint"]
RADIUS = 4
"""Of the windows of `joint`, in pixels of the small images."""
EPSILON = 0.01
"""Variance of the input, in [-1, 1], below which a window counts as flat (0.05 squared, in units
from 0 to 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resizing:
    """Images whose shorter side is longer than `side` are translated at that size."""

    side: int
    """In pixels."""
    enlarging: Enlarging = "joint"
    """How the translation is put back."""

    def __post_init__(self) -> None:
        if self.side < 8:
            raise ConfigError(f"`--resize` must be at least 8 pixels; got {self.side}.")
