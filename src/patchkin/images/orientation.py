"""Images turned as their file says (EXIF and TIFF, tag 274).

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import numpy as np

from patchkin.images.picture import Array

ORIENTATION_TAG = 274
TURNED = (5, 6, 7, 8)
"""Orientations that exchange width and height."""


def upright_array(array: Array, orientation: int) -> Array:
    """An array HW or HWC, stored with an orientation from 1 to 8, as it is to be seen.

    >>> upright_array(np.array([[1, 2], [3, 4]]), 6).tolist()  # stored turned to the left
    [[3, 1], [4, 2]]
    """
    if orientation in TURNED:
        array = np.swapaxes(array, 0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array
