"""How many pixels an image may have: Pillow's limit, for every format, before it is allocated.

A damaged or crafted file of a few bytes can promise terabytes. The limit is Pillow's own
(`PIL.Image.MAX_IMAGE_PIXELS`, of which it allows twice as many before it refuses), so that a
program that has set it has set it here too.
"""

from __future__ import annotations

from PIL import Image

from patchkin.errors import ConfigError, DataError


def allow_pixels(number: int) -> None:
    """Let images of this process have so many pixels.

    Raises:
        ConfigError: it is not positive.
    """
    if number < 1:
        raise ConfigError(f"`--max-pixels` must be at least 1; got {number}.")
    Image.MAX_IMAGE_PIXELS = (number + 1) // 2


def max_pixels() -> int | None:
    """Pixels that an image may have; None for any number."""
    limit = Image.MAX_IMAGE_PIXELS
    return None if limit is None else 2 * limit


def check_pixels(width: int, height: int) -> None:
    """Refuse what is beyond the limit.

    Raises:
        DataError: it is.

    >>> check_pixels(4096, 4096)
    """
    limit = max_pixels()
    if limit is not None and width * height > limit:
        raise DataError(
            f"it has {width} x {height} = {width * height} pixels, more than the limit of {limit}. "
            f"If the file is trusted: `translate --max-pixels {width * height}`, or in Python "
            f"`patchkin.images.limits.allow_pixels`."
        )
