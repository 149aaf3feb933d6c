"""Samples of a TIFF as grey, RGB or channels, with zero as black, and its alpha apart.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from patchkin.errors import DataError
from patchkin.images.picture import Array, without_premultiplied

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _MASK, _CMYK, _YCBCR = range(7)
_COLOURS = {_MIN_IS_WHITE: 1, _MIN_IS_BLACK: 1, _RGB: 3, _PALETTE: 1, _MASK: 1, _CMYK: 4, _YCBCR: 3}
"""Photometric interpretation -> samples of the colour; what follows is extra."""
_ASSOCIATED, _UNASSOCIATED = 1, 2
_RGB_DECODERS = (6, 7, 33003, 33004, 33005, 34712, 34927, 50001, 50002)
"""Compressions (JPEG, JPEG 2000, WebP, JPEG XL) whose decoders turn YCbCr into RGB themselves."""


def to_grey_or_rgb(array_HWC: Array, page: Any) -> tuple[Array, Array | None]:
    """The samples of a page of tifffile as what they mean.

    Args:
        array_HWC: as stored.
        page: of tifffile; tells the meaning.

    Returns:
        Channels HWC, and alpha HW (not premultiplied) if there is one.

    Raises:
        DataError: the colours are of a kind that is not read.
    """
    photometric = int(page.photometric)
    if photometric not in _COLOURS:
        name = getattr(page.photometric, "name", photometric)
        raise DataError(f"a TIFF with colours of the kind {name}; save it as grey or RGB.")
    if array_HWC.dtype == np.bool_:
        array_HWC = array_HWC.astype(np.uint8) * np.uint8(255)
        bits = 8
    else:
        bits = int(page.bitspersample)
    if photometric == _PALETTE and array_HWC.shape[2] == 1:
        return _through_palette(array_HWC[:, :, 0], page.colormap), None
    colours = _COLOURS[photometric]
    alpha_HW, premultiplied = None, False
    if page.samplesperpixel > colours and array_HWC.shape[2] == page.samplesperpixel:
        kinds = [int(kind) for kind in page.extrasamples]
        places = [place for place, kind in enumerate(kinds) if kind in (1, 2)]
        if places:
            premultiplied = kinds[places[0]] == _ASSOCIATED
            alpha_HW = array_HWC[:, :, colours + places[0]]
            array_HWC = np.delete(array_HWC, colours + places[0], axis=2)
    array_HWC = _with_black_zero(array_HWC, photometric, bits)
    array_HWC = _in_8_bits(array_HWC, bits)
    if alpha_HW is not None:
        alpha_HW = _in_8_bits(alpha_HW, bits)
    if photometric == _CMYK:
        array_HWC = _converted(array_HWC, 4, _rgb_of_cmyk)
    if photometric == _YCBCR and int(page.compression) not in _RGB_DECODERS:
        array_HWC = _converted(array_HWC, 3, _rgb_of_ycbcr)
    if alpha_HW is not None and premultiplied:
        array_HWC = without_premultiplied(array_HWC, alpha_HW)
    return array_HWC, alpha_HW


def _with_black_zero(array: Array, photometric: int, bits: int) -> Array:
    if photometric != _MIN_IS_WHITE:
        return array
    if array.dtype.kind != "u":
        raise DataError(
            f"a TIFF of {array.dtype} where the lowest value is white; nobody can tell which value "
            "is black. Save it with the lowest value as black."
        )
    inverted: Array = array.dtype.type(2**bits - 1) - array
    return inverted


def _in_8_bits(array: Array, bits: int) -> Array:
    """Less than 8 bits spread over 8; others as they are, so that 12 bits are 0 to 4095."""
    if bits >= 8:
        return array
    highest = 2**bits - 1
    spread: Array = (array.astype(np.uint16) * 255 + highest // 2) // highest
    return spread.astype(np.uint8)


def _through_palette(index_HW: Array, palette: Array) -> Array:
    """Palettes have 16 bits, of which programs use the upper 8."""
    colours = (palette >> 8).astype(np.uint8).T
    if index_HW.max() >= len(colours):
        raise DataError("its palette lacks colours that its pixels use.")
    rgb_HWC: Array = colours[index_HW]
    return rgb_HWC


def _converted(array_HWC: Array, colours: int, convert: Callable[[Array], Array]) -> Array:
    """The first channels converted; those that follow as they are."""
    if array_HWC.shape[2] < colours:
        raise DataError(f"it has {array_HWC.shape[2]} of the {colours} samples of its colour.")
    rest = array_HWC[:, :, colours:]
    return np.concatenate([convert(array_HWC[:, :, :colours]), rest], axis=2)


def _rgb_of_cmyk(cmyk_HWC: Array) -> Array:
    if cmyk_HWC.dtype == np.uint8:
        return _rgb_by_pillow("CMYK", cmyk_HWC)
    if cmyk_HWC.dtype.kind != "u":
        raise DataError(f"CMYK of type {cmyk_HWC.dtype}; expected 8 or 16 bits.")
    highest = float(np.iinfo(cmyk_HWC.dtype).max)
    light = highest - cmyk_HWC.astype(np.float64)
    return np.rint(light[:, :, :3] * light[:, :, 3:] / highest).astype(cmyk_HWC.dtype)


def _rgb_of_ycbcr(ycbcr_HWC: Array) -> Array:
    if ycbcr_HWC.dtype != np.uint8:
        raise DataError(f"YCbCr of type {ycbcr_HWC.dtype}; expected 8 bits. Save it as RGB.")
    return _rgb_by_pillow("YCbCr", ycbcr_HWC)


def _rgb_by_pillow(mode: str, array_HWC: Array) -> Array:
    height, width = array_HWC.shape[:2]
    image = Image.frombytes(mode, (width, height), np.ascontiguousarray(array_HWC).tobytes())
    return np.asarray(image.convert("RGB"))
