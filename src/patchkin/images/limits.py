"""How many pixels an image may have: Pillow's limit, for every format, before it is allocated.

A damaged or crafted file of a few bytes can promise terabytes. The limit is Pillow's own
(`PIL.Image.MAX_IMAGE_PIXELS`, of which it allows twice as many before it refuses), so that a
program that has set it has set it here too. Processes that are started later have the limit of the
one that starts them, by a variable of the environment.
"""

from __future__ import annotations

import os

from PIL import Image

from patchkin.errors import ConfigError, DataError

VARIABLE = "PATCHKIN_MAX_PIXELS"
"""Of the environment: what `allow_pixels` was given."""
_allowed = [0]
"""The same, which Pillow is told, so that it does not warn of what was allowed."""


def allow_pixels(number: int | None) -> None:
    """Let images have so many pixels in this process and those that it starts; None: as before.

    Raises:
        ConfigError: it is not positive.
    """
    if number is None:
        return
    if number < 1:
        raise ConfigError(f"`--max-pixels` must be at least 1; got {number}.")
    os.environ[VARIABLE] = str(number)
    Image.MAX_IMAGE_PIXELS = _allowed[0] = number


def max_pixels() -> int | None:
    """Pixels that an image may have; None for any number."""
    limit = Image.MAX_IMAGE_PIXELS
    return None if limit is None else limit if limit == _allowed[0] else 2 * limit


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
            f"If the file is trusted: --max-pixels {width * height}, or in Python "
            f"`patchkin.images.limits.allow_pixels`."
        )


if os.environ.get(VARIABLE, "").isdecimal():
    allow_pixels(max(1, int(os.environ[VARIABLE])))
