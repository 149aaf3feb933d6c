"""Frames that are made one after another, as Pillow's writers of animations take them."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image


class Frames(Image.Image):
    """An image whose `seek` makes the next frame. There is no way back, and one frame at a time."""

    def __init__(self, images: Iterator[Image.Image], number: int) -> None:
        super().__init__()
        self.n_frames = number
        self.is_animated = number > 1
        self._images = images
        self._at = 0
        self._show(next(images))

    def seek(self, frame: int) -> None:
        """Show a frame; one before this is asked for only when all is done."""
        if frame >= self.n_frames:
            raise EOFError
        while self._at < frame:
            self._show(next(self._images))
            self._at += 1

    def tell(self) -> int:
        """The frame that is shown."""
        return self._at

    def _show(self, image: Image.Image) -> None:
        self.im = image.im
        self._mode, self._size = image.mode, image.size
        self.palette, self.info = image.palette, image.info
