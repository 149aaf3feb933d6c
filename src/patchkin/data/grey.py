"""Grey images and networks of three channels: the model would make colour of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from patchkin.images import Picture

logger = logging.getLogger(__name__)

GREY_NOTE = (
    "All training images are grey, in every domain: `train --channels 1` keeps them so; networks "
    "of 3 channels, the default, give colour."
)


class GreyWatch:
    """Reads images, and remembers whether there was another than a grey one.

    Args:
        read: what reads them.

    >>> from PIL import Image
    >>> from patchkin.images import Encoding
    >>> grey = Picture(Image.new("L", (4, 4)), Encoding(8, 1), "a.png")
    >>> watch = GreyWatch(lambda path, channels: grey)
    >>> watch.all_grey  # nothing was read yet
    False
    >>> watch(Path("a.png"), 3) is grey, watch.all_grey
    (True, True)
    """

    def __init__(self, read: Callable[[Path, int | None], Picture]) -> None:
        self._read = read
        self._channels: set[int] = set()

    def __call__(self, path: Path, channels: int | None) -> Picture:
        """As `read`."""
        picture = self._read(path, channels)
        self._channels.add(picture.encoding.channels)
        return picture

    @property
    def all_grey(self) -> bool:
        """Whether every image that was read has one channel in its file."""
        return self._channels == {1}

    def warn(self, channels: Iterable[int]) -> None:
        """Log it where networks for these channels make colour of grey images."""
        if self.all_grey and set(channels) == {3}:
            logger.warning("%s", GREY_NOTE)
