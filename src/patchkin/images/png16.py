"""16-bit PNG: Pillow reduces its colour to 8 bits without a word, and writes none."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchkin.errors import DataError
from patchkin.images.faults import DECODING_ERRORS
from patchkin.images.limits import check_pixels
from patchkin.images.orientation import ORIENTATION_TAG, upright_array
from patchkin.images.picture import Decoded, decoded_array

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_FILTER_UP = 2
_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}
"""Colour type -> samples of a pixel."""
_ALPHA_TYPES = (4, 6)
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
"""Of interlaced files (Adam7): first column and row, steps to the next; the seventh follows."""
_WHOLE, _SEVENTH = (0, 0, 1, 1), (0, 1, 1, 2)


def is_16bit_png(head: bytes) -> bool:
    """Whether a file that begins with these 26 bytes is a PNG of 16 bits."""
    return head.startswith(_PNG_SIGNATURE) and head[24:25] == b"\x10"


def decode_16bit_png(path: Path) -> Decoded:
    """By imagecodecs where it is installed, which is three times as fast; else by Pillow.

    Raises:
        DataError: it is damaged, or promises more pixels than are allowed.
    """
    data = path.read_bytes()
    chunks = _png_chunks(data)
    width, height, _, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if colour_type not in _SAMPLES:
        raise DataError(f"it says colour type {colour_type}, which 16 bits do not have.")
    if int.from_bytes(chunks.get(b"acTL", b"")[:4], "big") > 1:
        raise DataError("an animated PNG of 16 bits; save its frames as files.")
    check_pixels(width, height)
    if importlib.util.find_spec("imagecodecs") is not None and b"tRNS" not in chunks:
        import imagecodecs

        array = imagecodecs.png_decode(data)
    else:
        array = _of_halves(chunks[b"IDAT"], width, height, colour_type, interlace)
    array = upright_array(array, _orientation(chunks.get(b"eXIf")))
    if colour_type in _ALPHA_TYPES:
        return decoded_array(array[:, :, :-1], array[:, :, -1])
    return decoded_array(array, _keyed(array, chunks.get(b"tRNS")))


def _orientation(notes: bytes | None) -> int:
    exif = Image.Exif()
    with contextlib.suppress(*DECODING_ERRORS):  # only the camera's notes are damaged
        exif.load(b"Exif\0\0" + (notes or b""))
    return int(exif.get(ORIENTATION_TAG, 1))


def _of_halves(
    packed: bytes, width: int, height: int, colour_type: int, interlace: int
) -> npt.NDArray[np.uint16]:
    """Pillow decodes the high and the low bytes as two 8-bit files of the same colour type.

    PNG's filters predict a byte from the same byte of neighbouring pixels, so the halves are
    independent; the filter of a row holds for both.
    """
    lines = _pass_lines(width, height, 2 * _SAMPLES[colour_type], interlaced=bool(interlace))
    content = _unpacked(packed, sum(rows * length for rows, length in lines))
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, interlace)
    high, low = (_half(content, lines, first, header) for first in (1, 2))
    return high.astype(np.uint16) * np.uint16(256) + low


def _pass_lines(
    width: int, height: int, pixel_bytes: int, *, interlaced: bool
) -> list[tuple[int, int]]:
    """Rows of each pass, and bytes of each row with its filter type."""
    lines = []
    for left, top, across, down in (*_PASSES, _SEVENTH) if interlaced else (_WHOLE,):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            lines.append((rows, 1 + columns * pixel_bytes))
    return lines


def _unpacked(packed: bytes, length: int) -> npt.NDArray[np.uint8]:
    """So many bytes and no more, whatever they were packed from."""
    unpacked = zlib.decompressobj().decompress(packed, length)
    if len(unpacked) < length:
        raise DataError("its pixels end early: it is truncated.")
    return np.frombuffer(unpacked, np.uint8)


def _half(
    content: npt.NDArray[np.uint8],
    lines: list[tuple[int, int]],
    first: int,
    header: bytes,
) -> npt.NDArray[np.uint8]:
    """Every second byte of the pixels, from `first` (behind the filter type of the row)."""
    parts, at = [], 0
    for rows, length in lines:
        stored = content[at : at + rows * length].reshape(rows, length)
        half = np.empty((rows, 1 + (length - 1) // 2), np.uint8)
        half[:, 0], half[:, 1:] = stored[:, 0], stored[:, first::2]
        parts.append(half.tobytes())
        at += rows * length
    packed = zlib.compress(b"".join(parts), 0)
    with Image.open(io.BytesIO(_png_bytes({b"IHDR": header, b"IDAT": packed}))) as image:
        image.load()
        return np.asarray(image)


def _keyed(array: npt.NDArray[np.uint16], key: bytes | None) -> npt.NDArray[np.uint16] | None:
    """Alpha of a file that names one colour as transparent."""
    samples = 1 if array.ndim == 2 else array.shape[2]
    if key is None or len(key) != 2 * samples:
        return None
    hit = array.reshape(*array.shape[:2], samples) == np.frombuffer(key, ">u2")
    return np.where(hit.all(axis=2), 0, 65535).astype(np.uint16)


def save_16bit_png(
    path: Path, array: npt.NDArray[np.uint16], more: dict[bytes, bytes] | None = None
) -> None:
    """Pillow writes no 16-bit colour. Rows are stored as differences to the one above.

    Args:
        path: of the file.
        array: HW, or HWC of 2 (grey and alpha), 3 or 4 (colour and alpha) channels.
        more: chunks that come before the pixels.
    """
    height, width = array.shape[:2]
    rows = np.frombuffer(array.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    differences = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    filtered = np.concatenate([np.full((height, 1), _PNG_FILTER_UP, np.uint8), differences], axis=1)
    samples = 1 if array.ndim == 2 else array.shape[2]
    colour_type = next(kind for kind, number in _SAMPLES.items() if number == samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    content = zlib.compress(filtered.tobytes(), 6)
    path.write_bytes(_png_bytes({b"IHDR": header, **(more or {}), b"IDAT": content}))


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
    """Content by kind; chunks of one kind are joined."""
    parts: dict[bytes, list[bytes]] = {}
    at = len(_PNG_SIGNATURE)
    while b"IEND" not in parts:
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(content, zlib.crc32(kind)) != checksum:
            raise DataError(f"its {kind.decode('latin-1')} chunk is damaged.")
        parts.setdefault(kind, []).append(content)
        at += 12 + length
    return {kind: b"".join(contents) for kind, contents in parts.items()}


def _png_bytes(chunks: dict[bytes, bytes]) -> bytes:
    parts = [_PNG_SIGNATURE]
    for kind, content in {**chunks, b"IEND": b""}.items():
        checksum = zlib.crc32(content, zlib.crc32(kind))
        parts += [struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)]
    return b"".join(parts)
