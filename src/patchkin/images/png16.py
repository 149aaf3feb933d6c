"""16-bit PNG: Pillow reduces its colour to 8 bits without a word, and writes none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchkin.errors import DataError
from patchkin.images.picture import Pixels, pixels_from_array, upright

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_FILTER_UP = 2
_PNG_ALPHA_TYPES = (4, 6)


def is_16bit_png(head: bytes) -> bool:
    """Whether a file that begins with these 26 bytes is a PNG of 16 bits."""
    return head.startswith(_PNG_SIGNATURE) and head[24:25] == b"\x10"


def decode_16bit_png(path: Path) -> Pixels:
    """Pillow decodes the high and the low bytes as two 8-bit files of the same colour type.

    PNG's filters predict a byte from the same byte of neighbouring pixels, so the halves are
    independent; the filter of a row holds for both.
    """
    chunks = _png_chunks(path.read_bytes())
    header = chunks[b"IHDR"]
    width, height, _, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if interlace:
        raise DataError("an interlaced 16-bit PNG; save it without interlacing.")
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    halves = []
    for first in (1, 2):  # behind the filter type of the row
        half = np.concatenate([rows[:, :1], rows[:, first::2]], axis=1)
        body = {b"IHDR": header, b"IDAT": zlib.compress(half.tobytes(), 0)}
        if b"eXIf" in chunks:
            body = {b"IHDR": header, b"eXIf": chunks[b"eXIf"], b"IDAT": body[b"IDAT"]}
        with Image.open(io.BytesIO(_png_bytes(body))) as image:
            image.load()
            halves.append(np.asarray(upright(image)).astype(np.uint16))
    array = halves[0] * np.uint16(256) + halves[1]
    return pixels_from_array(array[:, :, :-1] if colour_type in _PNG_ALPHA_TYPES else array)


def save_16bit_png(path: Path, array: npt.NDArray[np.uint16]) -> None:
    """Pillow writes no 16-bit colour. Rows are stored as differences to the one above."""
    height, width = array.shape[:2]
    rows = np.frombuffer(array.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    differences = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    filtered = np.concatenate([np.full((height, 1), _PNG_FILTER_UP, np.uint8), differences], axis=1)
    colour_type = 0 if array.ndim == 2 else 2
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    content = zlib.compress(filtered.tobytes(), 6)
    path.write_bytes(_png_bytes({b"IHDR": header, b"IDAT": content}))


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
    """Content by kind; chunks of one kind are joined."""
    chunks: dict[bytes, bytes] = {}
    at = len(_PNG_SIGNATURE)
    while b"IEND" not in chunks:
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(kind + content) != checksum:
            raise DataError(f"its {kind.decode('latin-1')} chunk is damaged.")
        chunks[kind] = chunks.get(kind, b"") + content
        at += 12 + length
    return chunks


def _png_bytes(chunks: dict[bytes, bytes]) -> bytes:
    parts = [_PNG_SIGNATURE]
    for kind, content in {**chunks, b"IEND": b""}.items():
        checksum = zlib.crc32(kind + content)
        parts.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))
    return b"".join(parts)
