"""PPM and PGM of more than 8 bits: Pillow keeps 8 of colour, and writes none of them.

Shape suffixes: H and W pixels, C channels.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from patchkin.errors import DataError
from patchkin.images.limits import check_pixels
from patchkin.images.picture import Array, Decoded, decoded_array

PNM_SUFFIXES = (".pgm", ".pnm", ".ppm")
_HIGHEST = 65535
_GAP = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"P([2356])" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)\s")
_CHANNELS = {b"2": 1, b"3": 3, b"5": 1, b"6": 3}
_IN_WORDS = (b"2", b"3")


def decode_deep_pnm(path: Path, head: bytes) -> Decoded | None:
    """The first image as uint16, white 65535; None if the file is of 8 bits, or of another kind.

    Raises:
        DataError: it is damaged, or larger than allowed.
    """
    if not (head[:1] == b"P" and head[1:2] in _CHANNELS):
        return None
    data = path.read_bytes()
    header = _HEADER.match(data)
    if header is None:
        return None
    kind, (width, height, white) = header[1], map(int, header.groups()[1:])
    if not 255 < white <= _HIGHEST:
        return None
    check_pixels(width, height)
    shape = (height, width, _CHANNELS[kind])
    body, number = data[header.end() :], height * width * _CHANNELS[kind]
    if kind in _IN_WORDS:
        words = re.sub(rb"#[^\n]*", b"", body).split()[:number]
        values = np.array(words, dtype=np.int64)
    else:
        held = min(number, len(body) // 2)
        values = np.frombuffer(body, dtype=">u2", count=held).astype(np.int64)
    if len(values) < number:
        raise DataError("the file ends before its pixels do: it is truncated.")
    if values.min() < 0 or values.max() > white:
        raise DataError(f"a value is beyond {white}, which it calls white.")
    scaled = np.rint(values * (_HIGHEST / white)).astype(np.uint16)
    return decoded_array(scaled.reshape(shape))


def save_deep_pnm(path: Path, levels_CHW: Array) -> None:
    """Write uint16 of 1 or 3 channels."""
    channels, height, width = levels_CHW.shape
    header = f"P{5 if channels == 1 else 6}\n{width} {height}\n{_HIGHEST}\n".encode("ascii")
    path.write_bytes(header + levels_CHW.transpose(1, 2, 0).astype(">u2").tobytes())
