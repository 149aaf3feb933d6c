"""Files that promise far more than they hold."""

from __future__ import annotations

import struct
import zlib
from functools import cache

import numpy as np


@cache
def png_bomb(side: int = 40000, bits: int = 8) -> bytes:
    """Some 0.3 MB of rows of zeros, packed by 1000: gigabytes of pixels."""
    header = struct.pack(">IIBBBBB", side, side, bits, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    packed = packer.compress(bytes(300 * 2**20)) + packer.flush()
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks
    )


def tiff_bomb(side: int = 1_100_000) -> bytes:
    """A header of three channels: 3.3 TiB."""
    entries = [
        *((256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 2)),
        *((273, 4, 8), (277, 3, 3), (278, 4, side), (279, 4, 100)),
    ]
    body = b"".join(struct.pack("<HHII", code, kind, 1, value) for code, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


def npy_bomb(side: int = 10**7) -> bytes:
    """A header of 10^7 x 10^7."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({side}, {side}), }}".encode()
    header += b" " * (117 - len(header)) + b"\n"
    return np.lib.format.magic(1, 0) + struct.pack("<H", len(header)) + header + bytes(100)


BOMBS = {"bomb.png": png_bomb, "bomb.tif": tiff_bomb, "bomb.npy": npy_bomb}
