"""Files and pixels: the only place that knows image formats and integers.

`read_image` makes a `Picture` of a file and `to_tensor` an image in [-1, 1] of that; `write_image`
goes back to the encoding of the input. One file per format that Pillow does not hold whole.

Only `tensors` imports torch, and what comes from there is imported on first use: `to_values` and
`write_values` do the same with arrays, also where there is no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from patchkin.images.picture import (
    IMAGE_SUFFIXES,
    Array,
    Encoding,
    Picture,
    Pixels,
    Rounding,
    ValueRange,
    is_image_file,
)
from patchkin.images.ranges import OutputForm, Ranges, declared_ranges, output_form
from patchkin.images.read import read_image
from patchkin.images.values import to_levels, to_values
from patchkin.images.write import default_suffix, write_pillow, write_values

if TYPE_CHECKING:
    from patchkin.images.tensors import (
        image_grid,
        pillow_to_tensor,
        safe_levels,
        to_tensor,
        to_uint8,
        write_image,
    )

__all__ = [
    "IMAGE_SUFFIXES",
    "Array",
    "Encoding",
    "OutputForm",
    "Picture",
    "Pixels",
    "Ranges",
    "Rounding",
    "ValueRange",
    "declared_ranges",
    "default_suffix",
    "image_grid",
    "is_image_file",
    "output_form",
    "pillow_to_tensor",
    "read_image",
    "safe_levels",
    "to_levels",
    "to_tensor",
    "to_uint8",
    "to_values",
    "write_image",
    "write_pillow",
    "write_values",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("patchkin.images.tensors"), name)
    raise AttributeError(f"module `patchkin.images` has no attribute `{name}`")
