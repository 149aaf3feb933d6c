"""Animations in GIF, frame by frame: Pillow keeps all of them until the last is there.

Each frame is what Pillow makes of it alone, with its own colours. Frames that are equal stay apart.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

_HEAD_BYTES = 13
_HAS_COLOURS, _SIZE_OF_COLOURS = 0x80, 0x07
_IMAGE, _EXTENSION, _END = 0x2C, 0x21, b";"
_CONTROL = 0xF9
_CLEARED = 2
"""How a frame goes that shows what lies below the next one where that is transparent."""


def write_gif(path: Path, frames: Iterable[tuple[Image.Image, float]], *, loop: int | None) -> None:
    """Write frames of one size.

    Args:
        path: of the file.
        frames: each with its duration in milliseconds.
        loop: how often they are played again; 0 for ever, None not at all.
    """
    with path.open("wb") as file:
        for number, (parts, clears) in enumerate(_with_next(map(_frame, frames))):
            if number == 0:
                file.write(parts.screen)
                if loop is not None:
                    file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", loop) + b"\0")
            file.write(parts.control(_CLEARED if clears else 0))
            file.write(parts.image)
        file.write(_END)


class _Frame(NamedTuple):
    screen: bytes
    """Signature and size, for the head of a file."""
    hundredths: int
    """How long it is shown."""
    transparent: int | None
    """Which colour is."""
    image: bytes

    def control(self, disposal: int) -> bytes:
        """What stands before the image."""
        flags = disposal << 2 | (self.transparent is not None)
        colour = self.transparent or 0
        return struct.pack("<4BHBB", _EXTENSION, _CONTROL, 4, flags, self.hundredths, colour, 0)


def _frame(given: tuple[Image.Image, float]) -> _Frame:
    """A file of one frame, taken apart; its colours become those of the image."""
    image, duration = given
    buffer = io.BytesIO()
    image.save(buffer, format="GIF")
    data = buffer.getvalue()
    flags = data[10]
    size = flags & _SIZE_OF_COLOURS
    at = _HEAD_BYTES + (3 << (size + 1) if flags & _HAS_COLOURS else 0)
    colours = data[_HEAD_BYTES:at]
    transparent = None
    while data[at] != _IMAGE:
        if data[at + 1] == _CONTROL and data[at + 3] & 1:
            transparent = data[at + 6]
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    place, own = data[at : at + 9], data[at + 9]
    if not own & _HAS_COLOURS:
        own = own | _HAS_COLOURS | size
        place = place + bytes((own,)) + colours
    else:
        place = place + bytes((own,))
    screen = b"GIF89a" + data[6:10] + bytes((flags & 0x70, 0, 0))
    image_bytes = place + data[at + 10 :].removesuffix(_END)
    return _Frame(screen, min(round(duration / 10), 65535), transparent, image_bytes)


def _with_next(frames: Iterator[_Frame]) -> Iterator[tuple[_Frame, bool]]:
    """Each frame, and whether the one after it is transparent somewhere."""
    before: _Frame | None = None
    for frame in frames:
        if before is not None:
            yield before, frame.transparent is not None
        before = frame
    if before is not None:
        yield before, False
