"""Files and pixels: the only place that knows image formats and integers.

8-bit pictures stay Pillow images until `to_tensor`, because the published pipelines resize them
with Pillow in 8 bits and results depend on it. Everything else (16-bit, float, other numbers of
channels than 1 and 3) is a CHW tensor.

| in the file                                   | pixels of the `Picture`          |
|-----------------------------------------------|----------------------------------|
| 8 bits, grey or colour, any Pillow format     | Pillow image of mode L or RGB    |
| 16-bit PNG, PGM or TIFF, uint16 NPY           | uint16 tensor                    |
| float TIFF or NPY                             | float32 tensor                   |
| 8 bits, 2 or more than 3 channels (TIFF, NPY) | uint8 tensor                     |

Palettes, CMYK and YCbCr become RGB, the alpha channel is dropped, the EXIF orientation is applied.
Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from patchkin.errors import ConfigError, DataError
from patchkin.storage.atomic import new_file

Pixels: TypeAlias = "Image.Image | Tensor"
ValueRange: TypeAlias = tuple[float, float]
Rounding: TypeAlias = Literal["released", "nearest"]

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "gif", "jp2", "jpeg", "jpg", "npy", "pbm"),
        *("pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
"""Files that count as images, lower case; a name is compared without regard to case."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's conversion to L
_JPEG_QUALITY = 95
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_FILTER_UP = 2
_PNG_ALPHA_TYPES = (4, 6)
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_NPY_CHANNELS = 64  # a longer last axis is a width: the array is CHW
_DECODING_ERRORS = (  # what Pillow, NumPy, torchvision and tifffile raise on damaged files
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a file stores its pixels; an output keeps the encoding of its input."""

    bits: Literal[8, 16, 32]
    """Per channel; 8 and 16 are unsigned integers, 32 is float."""
    channels: int
    """Without alpha."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded file."""

    pixels: Pixels
    """Pillow image (L or RGB), or CHW tensor (uint8, uint16 or float32)."""
    encoding: Encoding
    """Of the file, before channels were added or removed."""
    name: str = "the image"
    """For messages."""

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


# Reading


def read_image(path: str | Path, channels: int | None = None) -> Picture:
    """Decode a file completely.

    Args:
        path: any format of `IMAGE_SUFFIXES`; 16-bit, float and n-channel TIFF need tifffile.
        channels: number wanted. Grey is repeated where 3 are wanted, colour becomes luma where 1
            is. By default as in the file.

    Raises:
        DataError: if the file is missing, broken, or has another number of channels. One line.
    """
    path = Path(path)
    try:
        pixels = _decode(path)
    except FileNotFoundError as error:
        raise DataError(f"`{path}` does not exist.") from error
    except DataError as error:
        raise DataError(f"`{path}`: cannot be decoded: {error}") from error
    except _DECODING_ERRORS as error:
        raise DataError(f"`{path}`: cannot be decoded: {_reason(error)}.") from error
    encoding = _encoding(pixels)
    if channels is not None and channels != encoding.channels:
        pixels = _with_channels(pixels, channels, str(path))
    return Picture(pixels, encoding, str(path))


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")


def _decode(path: Path) -> Pixels:
    if path.suffix.lower() == ".npy":
        return _from_array(np.load(path, allow_pickle=False))
    with path.open("rb") as file:
        head = file.read(26)
    if not head:
        raise DataError("the file is empty.")
    if head.startswith(_PNG_SIGNATURE) and head[24:25] == b"\x10":
        return _decode_16bit_png(path)  # Pillow would reduce colour to 8 bits without a word
    if head.startswith(_TIFF_SIGNATURES) and not _is_plain_tiff(path):
        return _decode_tiff(path)
    with Image.open(path) as image:
        image.load()
        return _from_pillow(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DECODING_ERRORS:
        return image  # the pixels are whole, only the camera's notes are not


def _from_pillow(image: Image.Image) -> Pixels:
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_array(np.asarray(image).astype(np.uint16))
    if mode == "I":
        values = np.asarray(image)
        fits = values.min() >= 0 and values.max() <= 0xFFFF  # 16-bit PGM arrives as mode I
        return _from_array(values.astype(np.uint16 if fits else np.float32))
    if mode == "F":
        return _from_array(np.asarray(image))
    if mode in ("1", "L", "LA"):
        return image.convert("L")
    if mode in ("P", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _decode_16bit_png(path: Path) -> Pixels:
    """Pillow decodes the high and the low bytes as two 8-bit files of the same colour type.

    PNG's filters predict a byte from the same byte of neighbouring pixels, so the halves are
    independent; the filter of a row holds for both.
    """
    chunks = _png_chunks(path.read_bytes())
    header = chunks[b"IHDR"]
    width, height, _, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if interlace:
        raise DataError("an interlaced 16-bit PNG; save it without interlacing.")
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    halves = []
    for first in (1, 2):  # behind the filter type of the row
        half = np.concatenate([rows[:, :1], rows[:, first::2]], axis=1)
        body = {b"IHDR": header, b"IDAT": zlib.compress(half.tobytes(), 0)}
        if b"eXIf" in chunks:
            body = {b"IHDR": header, b"eXIf": chunks[b"eXIf"], b"IDAT": body[b"IDAT"]}
        with Image.open(io.BytesIO(_png_bytes(body))) as image:
            image.load()
            halves.append(np.asarray(_upright(image)).astype(np.uint16))
    array = halves[0] * np.uint16(256) + halves[1]
    return _from_array(array[:, :, :-1] if colour_type in _PNG_ALPHA_TYPES else array)


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
    """Content by kind; chunks of one kind are joined."""
    chunks: dict[bytes, bytes] = {}
    at = len(_PNG_SIGNATURE)
    while b"IEND" not in chunks:
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(kind + content) != checksum:
            raise DataError(f"its {kind.decode('latin-1')} chunk is damaged.")
        chunks[kind] = chunks.get(kind, b"") + content
        at += 12 + length
    return chunks


def _png_bytes(chunks: dict[bytes, bytes]) -> bytes:
    parts = [_PNG_SIGNATURE]
    for kind, content in {**chunks, b"IEND": b""}.items():
        checksum = zlib.crc32(kind + content)
        parts.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))
    return b"".join(parts)


def _is_plain_tiff(path: Path) -> bool:
    """Whether Pillow decodes all there is: 8 bits or fewer, and not more channels than it knows."""
    try:
        with Image.open(path) as image:
            tags: Any = getattr(image, "tag_v2", {})
            bits = tags.get(258, (1,))
            return max(bits) <= 8 and not (image.mode == "L" and tags.get(277, 1) > 1)
    except _DECODING_ERRORS:
        return False


def _decode_tiff(path: Path) -> Pixels:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise DataError(
            "16-bit, float and n-channel TIFF need tifffile; run `pip install patchkin[tiff]`."
        ) from error
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            return _from_array(_channels_last(series.asarray(), series.axes))
    except tifffile.TiffFileError as error:
        raise DataError(f"{_reason(error)}.") from error


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


def _from_array(array: npt.NDArray[Any]) -> Pixels:
    """HW or HWC, as a Pillow image where one can hold it."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(f"an array of shape {array.shape}; expected HW or HWC.")
    if array.shape[2] > _MAX_NPY_CHANNELS:
        raise DataError(f"an array of shape {array.shape}; expected HWC. Is it CHW? Transpose it.")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError("holds values that are not numbers (NaN or infinite).")
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype not in (np.uint8, np.uint16):
        raise DataError(f"values of type {array.dtype}; expected uint8, uint16 or float.")
    if array.dtype == np.uint8 and array.shape[2] in (1, 3):
        return Image.fromarray(
            np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array)
        )
    native = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(np.ascontiguousarray(native.transpose(2, 0, 1)))


def _encoding(pixels: Pixels) -> Encoding:
    if isinstance(pixels, Image.Image):
        return Encoding(8, 1 if pixels.mode == "L" else 3)
    bits: dict[torch.dtype, Literal[8, 16, 32]] = {torch.uint8: 8, torch.uint16: 16}
    return Encoding(bits.get(pixels.dtype, 32), pixels.shape[0])


def _with_channels(pixels: Pixels, channels: int, name: str) -> Pixels:
    if isinstance(pixels, Image.Image) and channels in (1, 3):
        return pixels.convert("L" if channels == 1 else "RGB")
    if isinstance(pixels, Tensor) and (pixels.shape[0], channels) == (1, 3):
        return pixels.expand(3, -1, -1)
    if isinstance(pixels, Tensor) and (pixels.shape[0], channels) == (3, 1):
        return _luma(pixels.float()).round().to(pixels.dtype)
    raise DataError(
        f"`{name}` has {_encoding(pixels).channels} channels, {channels} are wanted; "
        "set the channels of this domain, or convert the files."
    )


def _luma(image_CHW: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, dtype=image_CHW.dtype, device=image_CHW.device)
    return (image_CHW * weights[:, None, None]).sum(dim=0, keepdim=True)


def to_tensor(picture: Picture, value_range: ValueRange | None = None) -> Tensor:
    """The pixels as float32 [C, H, W] in [-1, 1].

    8 bits follow the published code to the last bit: (x / 255 - 0.5) / 0.5.

    Args:
        picture: of `read_image`.
        value_range: what becomes -1 and 1, for 16-bit and float pictures (12-bit data in a 16-bit
            file: 0 and 4095); values beyond it are clipped. By default 0 and 65535 for 16 bits, and
            0 and 1 for float, where a value outside is an error: nobody can guess its scale.

    Raises:
        DataError: if float values leave [0, 1] and no `value_range` is given.

    >>> to_tensor(Picture(Image.new("L", (1, 1), 255), Encoding(8, 1))).tolist()
    [[[1.0]]]
    """
    pixels = picture.pixels
    if isinstance(pixels, Image.Image):
        return pillow_to_tensor(pixels)
    if pixels.dtype == torch.uint8:
        return _from_uint8(pixels.numpy())
    values = pixels.to(torch.float32)
    low, high = value_range or (0.0, 65535.0 if pixels.dtype == torch.uint16 else 1.0)
    if value_range is None and pixels.dtype.is_floating_point:
        lowest, highest = values.min().item(), values.max().item()
        if lowest < 0 or highest > 1:
            raise DataError(
                f"`{picture.name}` holds float values from {lowest:g} to {highest:g}; say which "
                "range they use with `value_range` (low high), or scale them to [0, 1]."
            )
    return values.clamp(low, high).sub_(low).div_(high - low).sub_(0.5).div_(0.5)


def pillow_to_tensor(image: Image.Image) -> Tensor:
    """A Pillow image of mode L or RGB as float32 [C, H, W] in [-1, 1]."""
    array = np.asarray(image)
    return _from_uint8(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def _from_uint8(array_CHW: npt.NDArray[np.uint8]) -> Tensor:
    """In NumPy: the same bits as torch, and no thread pool to wake for one small image.

    Beside another busy process, waking them made a loader without workers up to 4 times slower.
    """
    values_CHW = array_CHW.astype(np.float32, order="C")
    values_CHW /= np.float32(255)
    values_CHW -= np.float32(0.5)
    values_CHW /= np.float32(0.5)
    return torch.from_numpy(values_CHW)


# Writing


def to_uint8(image_CHW: Tensor, rounding: Rounding = "nearest") -> Tensor:
    """An image in [-1, 1] as uint8 of the same shape; what lies outside is clipped.

    Args:
        image_CHW: float, any number of leading dimensions.
        rounding: `nearest` gives every 8-bit file back unchanged; `released` truncates, as the
            code behind the published numbers does, and darkens by half a step on average.

    >>> to_uint8(torch.tensor([-2.0, 0.0, 0.999])).tolist()
    [0, 128, 255]
    >>> to_uint8(torch.tensor([-2.0, 0.0, 0.999]), "released").tolist()
    [0, 127, 254]
    """
    scaled = (image_CHW.detach().float().clamp(-1, 1) + 1) / 2 * 255
    return (scaled.round() if rounding == "nearest" else scaled).to(torch.uint8)


def safe_levels(levels: Tensor) -> Tensor:
    """Levels 0 to 255 in [-1, 1], a quarter of a level up, so that `to_uint8` gives them back.

    Without it truncation moves 63 of the 256, whose float lies just below them.

    >>> levels = torch.arange(256)
    >>> bool((to_uint8(safe_levels(levels), "released") == levels).all())
    True
    >>> int((to_uint8(levels / 127.5 - 1, "released") != levels).sum())
    63
    """
    return (levels.float() + 0.25) / 127.5 - 1


def default_suffix(encoding: Encoding) -> str:
    """The suffix of a file that keeps this encoding without loss.

    >>> default_suffix(Encoding(16, 3)), default_suffix(Encoding(8, 5))
    ('.png', '.tif')
    """
    return ".png" if encoding.bits < 32 and encoding.channels in (1, 3) else ".tif"


def write_image(
    path: str | Path,
    image_CHW: Tensor,
    encoding: Encoding,
    *,
    value_range: ValueRange | None = None,
    rounding: Rounding = "nearest",
) -> None:
    """Write an image in [-1, 1] in the format of the suffix; the file appears whole or not at all.

    Args:
        path: .png holds 8 and 16 bits, .tif (needs tifffile beyond 8 bits and 3 channels) and
            .npy everything, the other formats 8 bits.
        image_CHW: on any device. One channel is repeated and three become luma if `encoding` says
            so, hence a grey input to a colour model stays a grey file.
        encoding: usually that of the input.
        value_range: what -1 and 1 become, for 16 bits and float, as in `to_tensor`.
        rounding: of 8-bit files, see `to_uint8`.

    Raises:
        ConfigError: if the format cannot hold the encoding.
        StorageError: if the file cannot be written.
    """
    path = Path(path)
    image_CHW = image_CHW.detach().float().cpu()
    if image_CHW.shape[0] != encoding.channels:
        image_CHW = _with_channels_float(image_CHW, encoding.channels)
    array_HWC = _quantised(image_CHW, encoding.bits, value_range, rounding).permute(1, 2, 0).numpy()
    if encoding.channels == 1:
        array_HWC = array_HWC[:, :, 0]
    _write_atomically(path, _writer(path.suffix.lower(), array_HWC, encoding))


def write_pillow(path: str | Path, image: Image.Image, *, synced: bool = True) -> None:
    """Write a Pillow image (a preview, a grid) atomically, in the format of the suffix.

    Args:
        path: of the file.
        image: what to write.
        synced: as `storage.atomic.write_bytes`.

    Raises:
        StorageError: if the file cannot be written.
    """
    path = Path(path)
    form = _pillow_format(path.suffix)
    _write_atomically(path, lambda part: image.save(part, format=form), synced=synced)


def _with_channels_float(image_CHW: Tensor, channels: int) -> Tensor:
    if (image_CHW.shape[0], channels) == (1, 3):
        return image_CHW.expand(3, -1, -1)
    if (image_CHW.shape[0], channels) == (3, 1):
        return _luma(image_CHW)
    raise ConfigError(
        f"An image with {image_CHW.shape[0]} channels cannot be written with {channels}."
    )


def _quantised(
    image_CHW: Tensor, bits: int, value_range: ValueRange | None, rounding: Rounding
) -> Tensor:
    if bits == 8:
        return to_uint8(image_CHW, rounding)
    low, high = value_range or (0.0, 65535.0 if bits == 16 else 1.0)
    # float64: float32 cannot tell neighbours apart after a scaling to 65535 and back
    values = (image_CHW.double().clamp(-1, 1) + 1) / 2 * (high - low) + low
    if bits == 32:
        return values.float()
    return values.round().clamp(0, 65535).to(torch.int32).to(torch.uint16)


def _pillow_format(suffix: str) -> str:
    known = Image.registered_extensions()
    if suffix.lower() not in known:
        raise ConfigError(f"`{suffix}` is no image format that can be written; use .png.")
    return known[suffix.lower()]


def _writer(suffix: str, array: npt.NDArray[Any], encoding: Encoding) -> Callable[[Path], None]:
    plain = encoding.bits == 8 and encoding.channels in (1, 3)
    if suffix == ".npy":
        return lambda part: _save_npy(part, array)
    if suffix in (".tif", ".tiff") and not plain:
        return lambda part: _save_tiff(part, array)
    if suffix == ".png" and encoding.bits == 16 and encoding.channels in (1, 3):
        return lambda part: _save_16bit_png(part, array)
    if not plain:
        raise ConfigError(
            f"`{suffix}` cannot hold {encoding.channels} channels of {encoding.bits} bits; "
            f"use {default_suffix(encoding)} or .npy."
        )
    image, name = Image.fromarray(np.ascontiguousarray(array)), _pillow_format(suffix)
    if name == "JPEG":
        return lambda part: image.save(part, format=name, quality=_JPEG_QUALITY, subsampling=0)
    if name == "WEBP":
        return lambda part: image.save(part, format=name, quality=_JPEG_QUALITY)
    return lambda part: image.save(part, format=name)


def _save_npy(path: Path, array: npt.NDArray[Any]) -> None:
    with path.open("wb") as file:  # numpy would add .npy to a temporary name
        np.save(file, array, allow_pickle=False)


def _save_tiff(path: Path, array: npt.NDArray[Any]) -> None:
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


def _save_16bit_png(path: Path, array: npt.NDArray[np.uint16]) -> None:
    """Pillow writes no 16-bit colour. Rows are stored as differences to the one above."""
    height, width = array.shape[:2]
    rows = np.frombuffer(array.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    differences = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    filtered = np.concatenate([np.full((height, 1), _PNG_FILTER_UP, np.uint8), differences], axis=1)
    colour_type = 0 if array.ndim == 2 else 2
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    content = zlib.compress(filtered.tobytes(), 6)
    path.write_bytes(_png_bytes({b"IHDR": header, b"IDAT": content}))


def _write_atomically(path: Path, write: Callable[[Path], object], *, synced: bool = True) -> None:
    with new_file(path, synced=synced) as part:
        write(part)


# Previews


def image_grid(
    rows: Sequence[Sequence[Tensor]], captions: Sequence[str] = (), *, gap_pixels: int = 2
) -> Image.Image:
    """Images in rows and columns on white, of any sizes, for people to look at.

    Args:
        rows: images [C, H, W] in [-1, 1]; two channels show the first, more than three the first
            three.
        captions: one per column, above it; in several lines where the column is narrow.
        gap_pixels: between images.

    >>> image_grid([[torch.zeros(3, 4, 6), torch.zeros(1, 2, 2)], [torch.zeros(3, 3, 3)]]).size
    (10, 9)
    """
    tiles = [[_tile(image) for image in row] for row in rows]
    if not any(tiles):
        raise ConfigError("A grid needs at least one image.")
    num_columns = max(map(len, tiles))
    columns = [[row[i] for row in tiles if i < len(row)] for i in range(num_columns)]
    widths = [max(tile.width for tile in column) for column in columns]
    heights = [max((tile.height for tile in row), default=0) for row in tiles]
    font = ImageFont.load_default()
    texts = [_wrapped(text, width, font) for text, width in zip(captions, widths, strict=False)]
    top = 2 + _LINE_PIXELS * max(text.count("\n") + 1 for text in texts) if texts else 0
    size = (
        sum(widths) + gap_pixels * (num_columns - 1),
        top + sum(heights) + gap_pixels * (len(tiles) - 1),
    )
    grid = Image.new("RGB", size, "white")
    lefts = [sum(widths[:i]) + gap_pixels * i for i in range(num_columns)]
    for left, text in zip(lefts, texts, strict=False):
        ImageDraw.Draw(grid).text((left + 1, 1), text, fill="black", font=font, spacing=2)
    for row, height in zip(tiles, heights, strict=True):
        for left, tile in zip(lefts, row, strict=False):
            grid.paste(tile, (left, top))
        top += height + gap_pixels
    return grid


_LINE_PIXELS = 12


def _wrapped(caption: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The caption in lines of at most `width` pixels; a longer word has a line of its own."""
    lines: list[str] = []
    for word in caption.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width - 1:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _tile(image_CHW: Tensor) -> Image.Image:
    channels = 3 if image_CHW.shape[0] >= 3 else 1
    array_HWC = to_uint8(image_CHW[:channels].cpu()).permute(1, 2, 0).numpy()
    return Image.fromarray(array_HWC[:, :, 0] if channels == 1 else array_HWC).convert("RGB")
