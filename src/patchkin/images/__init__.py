"""Files and pixels: the only place that knows image formats and integers.

`read_image` makes a `Picture` of a file and `to_tensor` an image in [-1, 1] of that; `write_image`
goes back to the encoding of the input. One file per format that Pillow does not hold whole.
"""

from patchkin.images.grid import image_grid
from patchkin.images.picture import (
    IMAGE_SUFFIXES,
    Encoding,
    Picture,
    Pixels,
    Rounding,
    ValueRange,
    is_image_file,
)
from patchkin.images.read import read_image
from patchkin.images.tensors import pillow_to_tensor, safe_levels, to_tensor, to_uint8
from patchkin.images.write import default_suffix, write_image, write_pillow

__all__ = [
    "IMAGE_SUFFIXES",
    "Encoding",
    "Picture",
    "Pixels",
    "Rounding",
    "ValueRange",
    "default_suffix",
    "image_grid",
    "is_image_file",
    "pillow_to_tensor",
    "read_image",
    "safe_levels",
    "to_tensor",
    "to_uint8",
    "write_image",
    "write_pillow",
]
