"""Files and pixels: the only place that knows image formats and integers."""

from patchkin.images.read import (
    IMAGE_SUFFIXES,
    Encoding,
    Picture,
    Pixels,
    Rounding,
    ValueRange,
    default_suffix,
    image_grid,
    is_image_file,
    pillow_to_tensor,
    read_image,
    safe_levels,
    to_tensor,
    to_uint8,
    write_image,
    write_pillow,
)

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
