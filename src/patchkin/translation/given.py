"""Images as users hand them to a translator, and the same kind back.

| given                                       | back                                          |
|---------------------------------------------|-----------------------------------------------|
| path of a file (of its first page)          | Pillow image, or array where Pillow has none  |
| Pillow image                                | Pillow image, upright, with its alpha         |
| array [H, W] or [H, W, C]                   | array of its type; [H, W, C] for colour       |
| tensor [C, H, W] or [B, C, H, W] in [-1, 1] | tensor                                        |
| list or tuple of these                      | list                                          |

Pixels become values by the rules for files (`images`): 8 bits are 0 to 255, uint16 0 to 65535 and
floats 0 to 1, unless the model declares other ranges. Needs no torch but for tensors.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchkin.errors import ConfigError, DataError, ShapeError
from patchkin.images import (
    Array,
    Encoding,
    OutputForm,
    Picture,
    Ranges,
    output_form,
    read_image,
    to_levels,
    to_values,
)
from patchkin.images.picture import encoding_of, pixels_from_array, upright, with_channels
from patchkin.images.read import from_pillow

logger = logging.getLogger(__name__)

KINDS = (
    "a path, a Pillow image, a NumPy array [H, W] or [H, W, C], a tensor [C, H, W] or "
    "[B, C, H, W] in [-1, 1], or a list of these"
)
_ARRAY = "The array"
_PILLOW_MODES = {("uint8", 1): "L", ("uint8", 3): "RGB", ("uint16", 1): "I;16", ("float32", 1): "F"}


@dataclass(frozen=True)
class Given:
    """An image that was handed over: what the model takes, and the way back."""

    values_CHW: Array
    """float32 in [-1, 1], with the channels that the model takes."""
    back: Callable[[Array], Any]
    """The model's output, [C, H, W] in [-1, 1], as the kind that was given."""


def given_image(image: Any, *, channels: int, value_ranges: Ranges = (None, None)) -> Given:
    """An image other than a tensor.

    Args:
        image: path, Pillow image or array.
        channels: that the model takes; grey is repeated where 3 are wanted, colour becomes luma
            where 1 is.
        value_ranges: of the model's inputs and outputs, beyond 8 bits.

    Raises:
        ShapeError: an array of another shape.
        DataError: another kind of thing, or an image that cannot be read or does not fit.

    >>> grey = given_image(np.full((2, 3), 255, np.uint8), channels=3)
    >>> grey.values_CHW.shape, grey.back(grey.values_CHW[:1]).tolist()
    ((3, 2, 3), [[255, 255, 255], [255, 255, 255]])
    """
    finish: Callable[[Array, Picture], Any]
    if isinstance(image, (str, os.PathLike)):
        picture, finish = read_image(Path(image)), _pillow_or_array
    elif isinstance(image, Image.Image):
        picture, finish = _picture_of_pillow(image), _pillow
    elif isinstance(image, np.ndarray):
        picture = _picture_of_array(image)
        finish = _flat if image.ndim == 2 else _interleaved
    else:
        raise DataError(f"A translator takes {KINDS}; got {_type_name(image)}.")
    values_CHW = _values(picture, channels, value_ranges)

    def back(values_CHW: Array) -> Any:
        if not np.isfinite(values_CHW).all():
            raise DataError(f"{picture.name} has a translation that holds NaN or infinity.")
        form = output_form(picture.encoding, values_CHW.shape[0], value_ranges)
        if form.note:
            logger.warning("%s: %s", picture.name, form.note)
        return finish(_levels(values_CHW, form), picture)

    return Given(values_CHW, back)


def check_tensor(shape: tuple[int, ...], channels: int, *, is_float: bool, dtype: object) -> None:
    """Refuse a tensor that is no image, or one of levels.

    Raises:
        ShapeError: it is neither [C, H, W] nor [B, C, H, W] with the channels of the model.
        DataError: it holds no floats.

    >>> check_tensor((8, 8, 3), 3, is_float=True, dtype="float32")
    Traceback (most recent call last):
    patchkin.errors.ShapeError: A tensor must be [3, H, W] or [B, 3, H, W] in [-1, 1]; got
    (8, 8, 3).
    """
    if len(shape) not in (3, 4) or shape[-3] != channels or 0 in shape:
        raise ShapeError(
            f"A tensor must be [{channels}, H, W] or [B, {channels}, H, W] in [-1, 1]; got {shape}."
        )
    if not is_float:
        raise DataError(
            f"A tensor must hold floats in [-1, 1]; got {dtype}. Levels of 8 or 16 bits are taken "
            "as a NumPy array [H, W, C]."
        )


def check_styles(styles_BS: Any, images: int) -> None:
    """Refuse other than one style for each image of a list.

    Raises:
        ShapeError: there are more or fewer.
    """
    if len(styles_BS) != images:
        raise ShapeError(
            f"`styles_BS` must have one style for each of {images} images; got {len(styles_BS)}."
        )


def _type_name(thing: object) -> str:
    return f"`{type(thing).__module__}.{type(thing).__qualname__}`".replace("`builtins.", "`")


def _picture_of_pillow(image: Image.Image) -> Picture:
    image.load()
    pixels, alpha = from_pillow(upright(image))
    return Picture(pixels, encoding_of(pixels), "The Pillow image", alpha)


def _picture_of_array(array: Array) -> Picture:
    if array.ndim not in (2, 3) or 0 in array.shape:
        hint = " Give several as a list." if array.ndim == 4 else ""
        raise ShapeError(f"An array must be [H, W] or [H, W, C]; got {array.shape}.{hint}")
    try:
        pixels = pixels_from_array(array)
    except DataError as error:
        raise type(error)(f"The array cannot be taken: {error}") from error
    return Picture(pixels, encoding_of(pixels), _ARRAY)


def _values(picture: Picture, channels: int, value_ranges: Ranges) -> Array:
    pixels, own = picture.pixels, picture.encoding.channels
    if own != channels:
        if {own, channels} != {1, 3} and isinstance(pixels, np.ndarray) and picture.name == _ARRAY:
            grey = "[H, W] or " if channels == 1 else ""
            shape = (*picture.size[::-1], own)
            raise ShapeError(f"An array must be {grey}[H, W, {channels}]; got {shape}.")
        pixels = with_channels(pixels, channels, picture.name)
    taken = Picture(pixels, encoding_of(pixels), picture.name)
    if value_ranges[0] is None and isinstance(pixels, np.ndarray):
        usual = taken.encoding.default_range
        lowest, highest = float(pixels.min()), float(pixels.max())
        if usual is None or not usual[0] <= lowest <= highest <= usual[1]:
            raise DataError(
                f"{picture.name} holds {pixels.dtype} values from {lowest:g} to {highest:g}, and "
                "the model declares no range for them. Scale floats to [0, 1], or load the model "
                "with value_ranges=((low, high), (low, high)), of its inputs and outputs."
            )
    return to_values(taken, value_ranges[0])


def _levels(values_CHW: Array, form: OutputForm) -> Array:
    return to_levels(values_CHW, form.encoding, form.value_range)


def _interleaved(levels_CHW: Array, _: Picture) -> Array:
    return np.ascontiguousarray(levels_CHW.transpose(1, 2, 0))


def _flat(levels_CHW: Array, picture: Picture) -> Array:
    return levels_CHW[0] if levels_CHW.shape[0] == 1 else _interleaved(levels_CHW, picture)


def _as_pillow(levels_CHW: Array, picture: Picture) -> Image.Image | None:
    mode = _PILLOW_MODES.get((levels_CHW.dtype.name, levels_CHW.shape[0]))
    if mode is None:
        return None
    image = Image.fromarray(_flat(levels_CHW, picture))
    if picture.alpha is not None and mode in ("L", "RGB"):
        image.putalpha(Image.fromarray(picture.alpha))
    return image


def _pillow_or_array(levels_CHW: Array, picture: Picture) -> Image.Image | Array:
    image = _as_pillow(levels_CHW, picture)
    return _interleaved(levels_CHW, picture) if image is None else image


def _pillow(levels_CHW: Array, picture: Picture) -> Image.Image:
    image = _as_pillow(levels_CHW, picture)
    if image is None:
        form = Encoding.of(levels_CHW.dtype, levels_CHW.shape[0])
        raise ConfigError(
            f"Pillow has no image of {form.channels} channels of {form.dtype}, which the "
            "translation is. Give a NumPy array instead."
        )
    return image
