"""Width and height of a file without decoding it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from patchkin.images.faults import DECODING_ERRORS

_TURNED = (5, 6, 7, 8)
"""Orientations of a camera that exchange width and height."""
_ORIENTATION = 0x0112


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height, upright, as the head of the file tells; None where it does not.

    What is not told here (a damaged file, a TIFF that Pillow does not know) is known when the file
    is decoded.
    """
    try:
        if path.suffix.lower() == ".npy":
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
            return (shape[1], shape[0]) if len(shape) in (2, 3) else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the number of pixels, which are not decoded
            with Image.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(_ORIENTATION) in _TURNED
                return (height, width) if turned else (width, height)
    except DECODING_ERRORS:
        return None
