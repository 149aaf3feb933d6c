"""HEIC, AVIF and JPEG 2000 of more than 8 bits, of which Pillow keeps 8: all of them, as 16 bits.

Black is 0 and white 65535, as in other files of 16 bits. Such pictures are written with 10 bits to
HEIC and AVIF, and with 16, without loss, to JPEG 2000.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchkin.errors import DataError
from patchkin.images.boxes import (
    tell_pillow,
    with_avif_metadata,
    with_jp2_metadata,
    without_jp2_profile,
)
from patchkin.images.heic import HEIC_SUFFIXES, is_heic, register_heif
from patchkin.images.limits import check_pixels
from patchkin.images.orientation import ORIENTATION_TAG, upright_array
from patchkin.images.picture import Array, Decoded, decoded_array

JP2_SUFFIX = ".jp2"
DEEP_SUFFIXES = (*HEIC_SUFFIXES, ".avif", JP2_SUFFIX)
WRITTEN_BITS = 10
_HIGHEST = 65535
_AVIF_BRANDS = (b"ftypavif", b"ftypavis")
_HEAD_BYTES = 1 << 16
_JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_LUMA_CHROMA = 18
"""Of the colours that JPEG 2000 numbers."""
_NEEDS_IMAGECODECS = (
    "{what} of {bits} bits needs imagecodecs; run `pip install patchkin[tiff]`, or save it with 8 "
    "bits."
)


def bits_of(path: Path, head: bytes) -> int | None:
    """Of a HEIC, AVIF or JPEG 2000 file that begins so; None of another or a damaged one.

    Raises:
        DataError: pillow-heif is needed and not installed.
    """
    if is_heic(head) and not _holds_av1(path):
        register_heif()
        import pillow_heif

        with path.open("rb") as file:
            return int(pillow_heif.open_heif(file).info["bit_depth"])
    if head.startswith(_JP2_SIGNATURE):
        return _bits_of_jp2(path)
    return _bits_of_avif(path) if is_heic(head) or head[4:12] in _AVIF_BRANDS else None


def _holds_av1(path: Path) -> bool:
    """A brand that HEIC and AVIF share says nothing."""
    with path.open("rb") as file:
        start = file.read(_HEAD_BYTES)
    return b"av1C" in start and b"hvcC" not in start


def _bits_of_avif(path: Path) -> int | None:
    """By the configuration of its codec (AV1 in ISOBMFF, 2.3), which every file has."""
    with path.open("rb") as file:
        start = file.read(_HEAD_BYTES)
        places = start if b"av1C" in start else start + file.read()
    found = [part[2] for part in places.split(b"av1C")[1:] if len(part) > 2]
    return max((8 if not f & 64 else 12 if f & 32 else 10 for f in found), default=None)


def _bits_of_jp2(path: Path) -> int | None:
    """By its header box (ISO 15444-1, I.5.3.1); unequal channels (255) are left to Pillow."""
    with path.open("rb") as file:
        _, found, box = file.read(_HEAD_BYTES).partition(b"ihdr")
    if not found or len(box) < 11 or box[10] & 0x80:
        return None
    return box[10] + 1


def decode_deep(path: Path, head: bytes, page: int) -> Decoded | None:
    """A page of more than 8 bits, as uint16; None if it has no more.

    Raises:
        DataError: it is larger than allowed, or a library is not installed.
    """
    bits = bits_of(path, head)
    if bits is None or bits <= 8:
        return None
    if head.startswith(_JP2_SIGNATURE):
        stored, turned = _jp2(path, bits)
    elif is_heic(head) and not _holds_av1(path):
        stored, turned = _heic(path, page)
    else:
        stored, turned = _avif(path, page, bits)
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
        return np.array(image), 1  # a copy: pillow-heif 0.18 frees what a view would show


def _avif(path: Path, page: int, bits: int) -> tuple[Array, int]:
    try:
        from imagecodecs import avif_decode
    except ImportError as error:
        raise DataError(_NEEDS_IMAGECODECS.format(what="an AVIF", bits=bits)) from error
    with Image.open(path) as image:
        check_pixels(*image.size)
        turned = _turn(image)
    decoded: Array = avif_decode(path.read_bytes(), index=page)
    return decoded, turned


def _turn(image: Image.Image) -> int:
    turned = image.getexif().get(ORIENTATION_TAG, 1)
    return int(turned) if turned in range(1, 9) else 1


def _jp2(path: Path, bits: int) -> tuple[Array, int]:
    try:
        from imagecodecs import jpeg2k_decode
    except ImportError as error:
        needs = _NEEDS_IMAGECODECS.format(what="a JPEG 2000 file", bits=bits)
        raise DataError(needs) from error
    with Image.open(path) as image:
        check_pixels(*image.size)
        tell_pillow(image, path)
        turned = _turn(image)
    data = path.read_bytes()
    _, _, colour = data[:_HEAD_BYTES].partition(b"colr")
    if colour[:1] == b"\1" and int.from_bytes(colour[3:7], "big") == _LUMA_CHROMA:
        raise DataError(f"YCbCr of {bits} bits; save it as RGB.")
    decoded: Array = jpeg2k_decode(without_jp2_profile(data))  # which would apply a profile
    return decoded, turned


def save_deep(
    path: Path,
    pages: Sequence[tuple[Array, Array | None]],
    *,
    quality: int,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    suffix: str,
) -> None:
    """Write uint16 pages, [C, H, W] of 1 or 3 channels with an alpha [H, W].

    Args:
        path: of the file.
        pages: one, unless it is HEIC.
        quality: from 1 to 100.
        icc_profile: of the colours, or none.
        exif: without an orientation, or none.
        suffix: of `DEEP_SUFFIXES`.
    """
    arrays = [_with_alpha(*page) for page in pages]
    if suffix == JP2_SUFFIX:
        from imagecodecs import jpeg2k_encode

        plain = jpeg2k_encode(arrays[0], level=0, codecformat="jp2")
        path.write_bytes(with_jp2_metadata(bytes(plain), icc_profile, exif))
        return
    if suffix not in HEIC_SUFFIXES:
        from imagecodecs import avif_encode

        levels = np.rint(arrays[0] * ((2**WRITTEN_BITS - 1) / _HIGHEST)).astype(np.uint16)
        plain = avif_encode(levels, bitspersample=WRITTEN_BITS, level=quality)
        path.write_bytes(with_avif_metadata(bytes(plain), icc_profile, exif))
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
