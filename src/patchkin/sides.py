"""The size of images: one number for squares, else height and width."""

from __future__ import annotations

from typing import TypeAlias

Sides: TypeAlias = int | tuple[int, int]
"""The side of a square in pixels, or height and width."""


def height_width(sides: Sides) -> tuple[int, int]:
    """Both sides.

    >>> height_width(256), height_width((128, 256))
    ((256, 256), (128, 256))
    """
    return (sides, sides) if isinstance(sides, int) else sides


def simplest(height: int, width: int) -> Sides:
    """One number for a square.

    >>> simplest(256, 256), simplest(128, 256)
    (256, (128, 256))
    """
    return height if height == width else (height, width)


def in_pixels(sides: Sides) -> str:
    """In words, width first as people say it.

    >>> in_pixels(256), in_pixels((128, 256))
    ('256', '256 x 128')
    """
    return str(sides) if isinstance(sides, int) else f"{sides[1]} x {sides[0]}"
