"""HEIC and AVIF of 10 and 12 bits, of which Pillow keeps 8: all their levels, as 16 bits.

Black is 0 and white 65535, as in other files of 16 bits. Such a picture is written with 10 bits.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchkin.errors import DataError
from patchkin.images.heic import HEIC_SUFFIXES, is_heic, register_heif
from patchkin.images.limits import check_pixels
from patchkin.images.orientation import ORIENTATION_TAG, upright_array
from patchkin.images.picture import Array, Decoded, decoded_array

DEEP_SUFFIXES = (*HEIC_SUFFIXES, ".avif")
WRITTEN_BITS = 10
_HIGHEST = 65535
_AVIF_BRANDS = (b"avif", b"avis")
_HEAD_BYTES = 1 << 16
_NEEDS_IMAGECODECS = (
    "an AVIF of {bits} bits needs imagecodecs; run `pip install patchkin[tiff]`, or save it with 8 "
    "bits."
)


def bits_of(path: Path, head: bytes) -> int | None:
    """Of a HEIC or AVIF file that begins with these 12 bytes; None of another or damaged one.

    Raises:
        DataError: pillow-heif is needed and not installed.
    """
    if is_heic(head):
        register_heif()
        import pillow_heif

        with path.open("rb") as file:
            return int(pillow_heif.open_heif(file).info["bit_depth"])
    return _bits_of_avif(path) if is_avif(head) else None


def is_avif(head: bytes) -> bool:
    """Whether a file that begins with these 12 bytes is AVIF."""
    return head[4:8] == b"ftyp" and head[8:12] in _AVIF_BRANDS


def _bits_of_avif(path: Path) -> int | None:
    """By the configuration of its codec (AV1 in ISOBMFF, 2.3), which every file has."""
    with path.open("rb") as file:
        start = file.read(_HEAD_BYTES)
        places = start if b"av1C" in start else start + file.read()
    found = [part[2] for part in places.split(b"av1C")[1:] if len(part) > 2]
    return max((8 if not f & 64 else 12 if f & 32 else 10 for f in found), default=None)


def decode_deep(path: Path, head: bytes, page: int) -> Decoded | None:
    """A page of more than 8 bits, as uint16; None if it has no more.

    Raises:
        DataError: it is larger than allowed, or a library is not installed.
    """
    bits = bits_of(path, head)
    if bits is None or bits <= 8:
        return None
    stored, turned = _heic(path, page) if is_heic(head) else _avif(path, page, bits)
    array_HWC = stored if stored.ndim == 3 else stored[:, :, None]
    scaled = np.rint(array_HWC * (_HIGHEST / (2**bits - 1))).clip(0, _HIGHEST).astype(np.uint16)
    scaled = upright_array(scaled, turned)
    if scaled.shape[2] in (2, 4):
        return decoded_array(scaled[:, :, :-1], scaled[:, :, -1])
    return decoded_array(scaled)


def _heic(path: Path, page: int) -> tuple[Array, int]:
    """Which its library has turned already."""
    import pillow_heif

    with path.open("rb") as file:
        image = pillow_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False)[page]
        check_pixels(*image.size)
        return np.asarray(image), 1


def _avif(path: Path, page: int, bits: int) -> tuple[Array, int]:
    try:
        from imagecodecs import avif_decode
    except ImportError as error:
        raise DataError(_NEEDS_IMAGECODECS.format(bits=bits)) from error
    with Image.open(path) as image:
        check_pixels(*image.size)
        turned = image.getexif().get(ORIENTATION_TAG, 1)
    decoded: Array = avif_decode(path.read_bytes(), index=page)
    return decoded, int(turned) if turned in range(1, 9) else 1


def save_deep(
    path: Path,
    pages: Sequence[tuple[Array, Array | None]],
    *,
    quality: int,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    is_heic: bool,
) -> None:
    """Write uint16 pages, [C, H, W] of 1 or 3 channels with an alpha [H, W], with 10 bits.

    Args:
        path: of the file.
        pages: one, of an AVIF.
        quality: from 1 to 100.
        icc_profile: of HEIC only.
        exif: of HEIC only.
        is_heic: or AVIF.
    """
    arrays = [_with_alpha(*page) for page in pages]
    if not is_heic:
        from imagecodecs import avif_encode

        levels = np.rint(arrays[0] * ((2**WRITTEN_BITS - 1) / _HIGHEST)).astype(np.uint16)
        path.write_bytes(avif_encode(levels, bitspersample=WRITTEN_BITS, level=quality))
        return
    register_heif()
    import pillow_heif

    file: Any = pillow_heif.HeifFile()  # type: ignore[no-untyped-call]
    for array in arrays:
        mode = {2: "I;16", 3: "RGB;16", 4: "RGBA;16"}[array.shape[2] if array.ndim == 3 else 2]
        added = file.add_frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())
        if icc_profile is not None:
            added.info["icc_profile"] = icc_profile
            added.info["icc_profile_type"] = "prof"
    more: dict[str, Any] = {} if exif is None else {"exif": exif}
    file.save(path, format="HEIF", quality=quality, **more)


def _with_alpha(levels_CHW: Array, alpha_HW: Array | None) -> Array:
    """HW or HWC, contiguous: grey with alpha as colour, which both formats have."""
    if alpha_HW is None:
        array_HWC = levels_CHW.transpose(1, 2, 0)
        return np.ascontiguousarray(array_HWC[:, :, 0] if len(levels_CHW) == 1 else array_HWC)
    colours_CHW = np.broadcast_to(levels_CHW, (3, *levels_CHW.shape[1:]))
    return np.ascontiguousarray(np.concatenate([colours_CHW, alpha_HW[None]]).transpose(1, 2, 0))
