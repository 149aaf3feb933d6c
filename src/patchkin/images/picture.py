"""A decoded file: its pixels, and how the file stores them.

8-bit pictures stay Pillow images until they become values, because the published pipelines resize
them with Pillow in 8 bits and results depend on it. Everything else (16-bit, float, other numbers
of channels than 1 and 3) is a CHW array.

| in the file                                   | pixels of the `Picture`          |
|-----------------------------------------------|----------------------------------|
| 8 bits, grey or colour, any Pillow format     | Pillow image of mode L or RGB    |
| 8 bits, 2 or more than 3 channels (TIFF, NPY) | uint8 array                      |
| 16-bit PNG, PGM or TIFF, uint16 NPY           | uint16 array                     |
| int16, int32, uint32, float TIFF or NPY       | array of that type               |

Alpha is kept beside the pixels. A file of several pages is several pictures (`images.pages`).

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from patchkin.errors import DataError
from patchkin.images.faults import DECODING_ERRORS
from patchkin.images.heic import HEIC_SUFFIXES, reads_heic

Array: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = "Image.Image | Array"
ValueRange: TypeAlias = tuple[float, float]
Rounding: TypeAlias = Literal["released", "nearest"]
Kind: TypeAlias = Literal["unsigned", "signed", "float"]
Bits: TypeAlias = Literal[8, 16, 32, 64]

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "npy", "pbm"),
        *("pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
) | (set(HEIC_SUFFIXES) if reads_heic() else set())
"""Files that count as images, lower case; a name is compared without regard to case. HEIC counts
where pillow-heif is installed."""

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's conversion to L
_MAX_NPY_CHANNELS = 64  # a longer last axis is a width: the array is CHW


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a file stores its pixels; a translation has the type of its input.

    >>> Encoding(16, 1).dtype, Encoding(32, 3).dtype, Encoding(16, 1, "signed").dtype
    (dtype('uint16'), dtype('float32'), dtype('int16'))
    """

    bits: Bits
    """Per channel."""
    channels: int
    """Without alpha."""
    kind: Kind | None = None
    """Of numbers; None becomes unsigned integers for 8 and 16 bits, float for more."""

    def __post_init__(self) -> None:
        if self.kind is None:
            object.__setattr__(self, "kind", "unsigned" if self.bits <= 16 else "float")

    @classmethod
    def of(cls, dtype: np.dtype[Any], channels: int) -> Encoding:
        """The encoding of an array of this type.

        >>> Encoding.of(np.dtype("float32"), 5) == Encoding(32, 5)
        True
        """
        kinds: dict[str, Kind] = {"u": "unsigned", "i": "signed", "f": "float"}
        bits: Any = 8 * dtype.itemsize
        return cls(bits, channels, kinds[dtype.kind])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an array of the pixels."""
        names = {"unsigned": "uint", "signed": "int", "float": "float"}
        return np.dtype(f"{names[str(self.kind)]}{self.bits}")

    @property
    def default_range(self) -> ValueRange | None:
        """What becomes -1 and 1 unless it is declared; None where nobody can guess it.

        >>> Encoding(16, 1).default_range, Encoding(16, 1, "signed").default_range
        ((0.0, 65535.0), None)
        """
        if self.kind == "float":
            return 0.0, 1.0
        return (0.0, 2.0**self.bits - 1) if self.kind == "unsigned" and self.bits <= 16 else None


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded file."""

    pixels: Pixels
    """Pillow image (L or RGB), or CHW array."""
    encoding: Encoding
    """Of the file, before channels were added or removed."""
    name: str = "the image"
    """For messages."""
    alpha: Array | None = None
    """HW, of the type of the file's pixels; not premultiplied. None where there is none."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels.size
        return self.pixels.shape[2], self.pixels.shape[1]


def is_image_file(path: Path) -> bool:
    """Whether the name is that of an image; hidden files (`._a.jpg` of macOS archives) are not.

    >>> is_image_file(Path("a.JPG")), is_image_file(Path("._a.jpg")), is_image_file(Path("a.txt"))
    (True, False, False)
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def encoding_of(pixels: Pixels) -> Encoding:
    """What a file must store to hold these pixels without loss.

    >>> encoding_of(np.zeros((5, 2, 2), np.uint16))
    Encoding(bits=16, channels=5, kind='unsigned')
    """
    if isinstance(pixels, Image.Image):
        return Encoding(8, 1 if pixels.mode == "L" else 3)
    return Encoding.of(pixels.dtype, pixels.shape[0])


def pixels_from_array(array: Array) -> Pixels:
    """A decoded array, HW or HWC, as a Pillow image where one can hold it, else as a CHW array.

    Args:
        array: bool (0 and 255), integers of 8 to 32 bits, or float.

    Raises:
        DataError: if it has another type or shape, or floats that are not finite.

    >>> pixels_from_array(np.zeros((2, 4), np.uint16)).shape
    (1, 2, 4)
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(f"an array of shape {array.shape}; expected HW or HWC.")
    if array.shape[2] > _MAX_NPY_CHANNELS:
        raise DataError(f"an array of shape {array.shape}; expected HWC. Is it CHW? Transpose it.")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind not in "iuf" or (array.dtype.kind in "iu" and array.dtype.itemsize > 4):
        raise DataError(
            f"values of type {array.dtype}; expected integers of at most 32 bits, or float."
        )
    elif array.dtype.itemsize > 8:
        raise DataError(f"values of type {array.dtype}; expected float of at most 64 bits.")
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("holds values that are not numbers (NaN or infinite).")
    if array.dtype == np.uint8 and array.shape[2] in (1, 3):
        return Image.fromarray(
            np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array)
        )
    native = array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(native.transpose(2, 0, 1))


class Decoded(NamedTuple):
    """What a decoder makes of a page."""

    pixels: Pixels
    alpha: Array | None = None
    """HW."""


def decoded_array(array: Array, alpha_HW: Array | None = None) -> Decoded:
    """A decoded array, HW or HWC, and its alpha.

    Raises:
        DataError: as `pixels_from_array`.
    """
    if alpha_HW is not None:
        alpha_HW = np.ascontiguousarray(alpha_HW.astype(alpha_HW.dtype.newbyteorder("=")))
    return Decoded(pixels_from_array(array), alpha_HW)


def without_premultiplied(array_HWC: Array, alpha_HW: Array) -> Array:
    """Colours that were multiplied by alpha, as they were before.

    >>> without_premultiplied(np.uint8([[[50, 0]]]), np.uint8([[100]])).tolist()
    [[[128, 0]]]
    """
    if array_HWC.dtype.kind != "u":
        raise DataError(f"premultiplied colours of type {array_HWC.dtype}; save them plain.")
    highest = np.iinfo(array_HWC.dtype).max
    alpha_HW1 = alpha_HW[:, :, None].astype(np.float64)
    divided = array_HWC * float(highest) / np.where(alpha_HW1 > 0, alpha_HW1, highest)
    return np.rint(divided).clip(0, highest).astype(array_HWC.dtype)


def upright(image: Image.Image) -> Image.Image:
    """The image turned as the camera's EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except DECODING_ERRORS:
        return image  # the pixels are whole, only the camera's notes are not


def with_channels(pixels: Pixels, channels: int, name: str) -> Pixels:
    """The pixels of a file with 1 or 3 channels: grey repeated, or colour as luma.

    Raises:
        DataError: for any other pair of numbers; `name` is the file's.

    >>> with_channels(Image.new("RGB", (1, 1), (255, 0, 0)), 1, "a.png").getpixel((0, 0))
    76
    """
    if isinstance(pixels, Image.Image):
        if channels in (1, 3):
            return pixels.convert("L" if channels == 1 else "RGB")
    elif (pixels.shape[0], channels) == (1, 3):
        return np.repeat(pixels, 3, axis=0)
    elif (pixels.shape[0], channels) == (3, 1):
        grey = luma(pixels.astype(np.promote_types(pixels.dtype, np.float32)))
        return (grey if pixels.dtype.kind == "f" else np.rint(grey)).astype(pixels.dtype)
    raise DataError(
        f"`{name}` has {encoding_of(pixels).channels} channels, {channels} are wanted; "
        "set the channels of this domain, or convert the files."
    )


def luma(image_CHW: Array) -> Array:
    """Grey [1, H, W] of a float RGB image, by the weights of ITU-R 601.

    >>> bool(luma(np.float32([1, 0, 0])[:, None, None])[0, 0, 0] == np.float32(0.299))
    True
    """
    weights = np.array(LUMA, image_CHW.dtype)[:, None, None]
    grey: Array = (image_CHW * weights).sum(axis=0, keepdims=True)
    return grey
