"""Width and height of a file without decoding it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from patchkin.errors import DataError
from patchkin.images.boxes import tell_pillow
from patchkin.images.faults import DECODING_ERRORS
from patchkin.images.heic import register_heic
from patchkin.images.orientation import ORIENTATION_TAG, TURNED
from patchkin.images.pages import file_of
from patchkin.images.video import is_video_file, video_size


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height, upright, as the head of the file tells; None where it does not.

    What is not told here (a damaged file, a TIFF that Pillow does not know) is known when the file
    is decoded.
    """
    path = file_of(path)
    if is_video_file(path):
        return video_size(path)
    try:
        if path.suffix.lower() == ".npy":
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
            return (shape[1], shape[0]) if len(shape) in (2, 3) else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the number of pixels, which are not decoded
            with path.open("rb") as opened:
                register_heic(opened.read(16))
            with Image.open(path) as image:
                tell_pillow(image, path)
                width, height = image.size
                turned = image.getexif().get(ORIENTATION_TAG) in TURNED
                return (height, width) if turned else (width, height)
    except (DataError, *DECODING_ERRORS):
        return None
