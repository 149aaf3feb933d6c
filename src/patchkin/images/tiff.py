"""TIFF beyond what Pillow decodes: 16 bits, float, and any number of channels (tifffile)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchkin.errors import ConfigError, DataError
from patchkin.images.faults import DECODING_ERRORS, reason
from patchkin.images.picture import Pixels, pixels_from_array

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins so is a TIFF, BigTIFF included."""
    return head.startswith(_TIFF_SIGNATURES)


def is_plain_tiff(path: Path) -> bool:
    """Whether Pillow decodes all there is: 8 bits or fewer, and not more channels than it knows."""
    try:
        with Image.open(path) as image:
            tags: Any = getattr(image, "tag_v2", {})
            bits = tags.get(258, (1,))
            if set(tags.get(339, (1,))) != {1}:  # signed or float
                return False
            return max(bits) <= 8 and not (image.mode == "L" and tags.get(277, 1) > 1)
    except DECODING_ERRORS:
        return False


def decode_tiff(path: Path) -> Pixels:
    """The first series of the file.

    Raises:
        DataError: without tifffile, and for a stack of planes.
    """
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise DataError(
            "16-bit, float and n-channel TIFF need tifffile; run `pip install patchkin[tiff]`."
        ) from error
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            return pixels_from_array(_channels_last(series.asarray(), series.axes))
    except tifffile.TiffFileError as error:
        raise DataError(f"{reason(error)}.") from error


def save_tiff(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array HW or HWC of any type.

    Raises:
        ConfigError: without tifffile.
    """
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Writing 16-bit, float and n-channel TIFF needs tifffile; "
            "run `pip install patchkin[tiff]`, or write .npy."
        ) from error
    if array.ndim == 2:
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        photometric = "rgb" if array.shape[2] == 3 else "minisblack"
        tifffile.imwrite(path, array, photometric=photometric, planarconfig="contig")


def _channels_last(array: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    """An array of a TIFF as HW or HWC. `axes` is tifffile's: S sample, C channel, Q unknown."""
    kept = [
        axis for axis, length in zip(axes, array.shape, strict=True) if length > 1 or axis in "YX"
    ]
    array = array.reshape(
        [n for n, axis in zip(array.shape, axes, strict=True) if n > 1 or axis in "YX"]
    )
    names = "".join(kept)
    if names == "YX" or (len(names) == 3 and names.endswith(("S", "C"))):
        return array
    if len(names) == 3 and names[0] in "SC":
        return np.moveaxis(array, 0, -1)
    if len(names) == 3 and names[0] in "QI":  # unlabelled: the channels are the shorter outer axis
        return array if array.shape[-1] < array.shape[0] else np.moveaxis(array, 0, -1)
    raise DataError(f"a stack with axes {axes} {array.shape}; save every plane as a file.")
