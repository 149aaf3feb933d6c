"""TIFF by tifffile: every page whole, with all its channels, as its axes and colours say.

| axes                                        | become                                        |
|---------------------------------------------|-----------------------------------------------|
| Y X                                         | pixels                                        |
| S samples (interleaved or planar), C channel | channels; a sample that is alpha, the alpha  |
| all others: Z, T, pages without a name      | pages                                         |

Strips and tiles that are not in the file have the nodata value if the file declares one (GDAL), and
are an error otherwise: nobody said that they are black.

Reduced copies of an image (pyramids, thumbnails) are no pages. Pixels are upright, zero is black,
palettes, CMYK and YCbCr are RGB.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchkin.errors import ConfigError, DataError
from patchkin.images.faults import reason
from patchkin.images.limits import check_pixels
from patchkin.images.orientation import ORIENTATION_TAG, upright_array
from patchkin.images.picture import Array, Decoded, decoded_array
from patchkin.images.tiff_colour import to_grey_or_rgb

TIFF_SUFFIXES = (".tif", ".tiff")
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_CHANNELS = 64
_NODATA_TAG = 42113
_JPEG, _END_OF_JPEG = 7, b"\xff\xd9"
_PADDING_BYTES = 16
"""That may follow it."""
_NEEDS_TIFFFILE = (
    "This TIFF needs tifffile and imagecodecs; run `pip install patchkin[tiff]`, or save it "
    "uncompressed with 8 bits."
)


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins so is a TIFF, BigTIFF included."""
    return head.startswith(_TIFF_SIGNATURES)


def num_tiff_pages(path: Path) -> int:
    """How many pages it has.

    Raises:
        DataError: it is damaged.
    """
    try:
        with open_tiff(path) as file:
            return sum(series.num_pages for series in page_series(file))
    except ModuleNotFoundError:
        with Image.open(path) as image:
            return int(getattr(image, "n_frames", 1))


def decode_tiff(path: Path, page: int = 0) -> Decoded:
    """A page of a file.

    Raises:
        DataError: it is damaged, or of a kind that is not read; or something is not installed.
    """
    try:
        with open_tiff(path) as file:
            for series in page_series(file):
                if page < series.num_pages:
                    return series.decode(page)
                page -= series.num_pages
            raise DataError("it has no such page.")
    except ModuleNotFoundError:
        return _plain_tiff(path)
    except ValueError as error:
        if "imagecodecs" in str(error):
            return _plain_tiff(path)
        raise


def _plain_tiff(path: Path) -> Decoded:
    """By Pillow, where that loses nothing: one page of 8 bits without other channels than colour.

    Raises:
        DataError: it would.
    """
    with Image.open(path) as image:
        tags: Any = getattr(image, "tag_v2", {})
        whole = (
            image.mode in ("L", "RGB")
            and getattr(image, "n_frames", 1) == 1
            and set(tags.get(258, (1,))) == {8}
            and set(tags.get(339, (1,))) == {1}
            and tags.get(277, 1) == len(image.mode.replace("RGB", "123"))
        )
        if not whole:
            raise DataError(_NEEDS_TIFFFILE)
        image.load()
        return decoded_array(np.asarray(image))


@contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """A `tifffile.TiffFile`.

    Raises:
        ModuleNotFoundError: tifffile is not installed.
        DataError: it is no TIFF.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as file:
            _check_chain(file)
            yield file
    except tifffile.TiffFileError as error:
        raise DataError(f"{reason(error)}.") from error


def _check_chain(file: Any) -> None:
    """Each page says where the next one is; tifffile would follow a circle without end.

    Raises:
        DataError: there is one.
    """
    handle, form = file.filehandle, file.tiff
    seen: set[int] = set()
    offset = int(file.pages.first.offset)
    with contextlib.suppress(struct.error):  # it ends early, which tifffile tells
        while 0 < offset < handle.size:
            if offset in seen:
                raise DataError("its pages lead in a circle: it is damaged.")
            seen.add(offset)
            handle.seek(offset)
            (tags,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
            handle.seek(offset + form.tagnosize + tags * form.tagsize)
            (offset,) = struct.unpack(form.offsetformat, handle.read(form.offsetsize))


class PageSeries(NamedTuple):
    """Pages of one size and type: a series of tifffile."""

    series: Any
    page_axes: str
    """Those that count pages, slowest first."""
    num_pages: int

    def decode(self, page: int) -> Decoded:
        """A page; the first has the number 0.

        Raises:
            DataError: as `decode_tiff`.
        """
        keyframe = self.series.keyframe
        _check_promises(self.series)
        array = _planes(self.series, self.page_axes, page)
        array_HWC, alpha_HW = to_grey_or_rgb(array, keyframe)
        turned = orientation_of(keyframe)
        if alpha_HW is not None:
            alpha_HW = upright_array(alpha_HW, turned)
        return decoded_array(upright_array(array_HWC, turned), alpha_HW)


def page_series(file: Any) -> list[PageSeries]:
    """The pages of an open file, without reduced copies and masks.

    Raises:
        DataError: it has none.
    """
    found: list[PageSeries] = []
    for series in file.series:
        axes = series.axes
        if series.keyframe.is_reduced and found:
            continue
        if "Y" not in axes or "X" not in axes or len(set(axes)) != len(axes):
            raise DataError(f"a TIFF with the axes {axes} {series.shape}; save it as images.")
        page_axes = "".join(axis for axis in axes if axis not in "YXSC")
        sizes = dict(zip(axes, series.shape, strict=True))
        found.append(PageSeries(series, page_axes, math.prod(sizes[axis] for axis in page_axes)))
    if not found:
        raise DataError("it has no image.")
    return found


def orientation_of(page: Any) -> int:
    """Of a page of tifffile; 1 if it says none."""
    tag = page.tags.get(ORIENTATION_TAG)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _check_promises(series: Any) -> None:
    """Refuse what the file cannot hold, before anything is allocated."""
    keyframe = series.keyframe
    check_pixels(keyframe.imagewidth, keyframe.imagelength * keyframe.imagedepth)
    sizes = dict(zip(series.axes, series.shape, strict=True))
    channels = sizes.get("S", 1) * sizes.get("C", 1)
    if channels > _MAX_CHANNELS:
        raise DataError(f"it has {channels} channels; at most {_MAX_CHANNELS} are read.")


def _ends_of_jpeg(page: Any) -> Iterator[bool]:
    """Whether each part that is there ends as JPEG does; libjpeg makes up what is missing."""
    handle = page.parent.filehandle
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset and count:
            handle.seek(offset + max(0, count - _PADDING_BYTES))
            yield _END_OF_JPEG in handle.read(min(count, _PADDING_BYTES))


def num_missing(page: Any) -> int:
    """How many strips or tiles of a page of tifffile are not in the file."""
    return sum(0 in part for part in zip(page.dataoffsets, page.databytecounts, strict=False))


def declares_nodata(keyframe: Any) -> bool:
    """Whether a page says what stands where there is no data, as sparse GeoTIFFs of GDAL do."""
    return _NODATA_TAG in keyframe.tags


def _check_whole(page: Any, file_size: int) -> None:
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset + count > file_size:
            raise DataError("the file ends before its pixels do: it is truncated.")
    keyframe = page.keyframe
    held = page.databytecounts
    missing = num_missing(page)
    if missing and not declares_nodata(keyframe):
        parts = "tiles" if keyframe.is_tiled else "strips"
        raise DataError(
            f"{missing} of its {len(held)} {parts} are missing. It is damaged, or a sparse GeoTIFF "
            "that declares no nodata value: write it with all its pixels."
        )
    if keyframe.compression == 1:
        short = not missing and sum(held) < keyframe.nbytes * keyframe.bitspersample / (
            8 * keyframe.dtype.itemsize
        )
    else:
        short = len(held) < math.prod(keyframe.chunked) or (
            keyframe.compression == _JPEG and not all(_ends_of_jpeg(page))
        )
    if short:
        raise DataError("it has fewer pixels than it promises: it is damaged.")


def _planes(series: Any, page_axes: str, page: int) -> Array:
    """A page as an array HWC (S fastest, of every C), of the values as they are stored."""
    axes, keyframe = series.axes, series.keyframe
    outer = axes.removesuffix(keyframe.axes)
    sizes = dict(zip(axes, series.shape, strict=True))
    at = dict(
        zip(
            page_axes,
            np.unravel_index(page, [sizes[axis] for axis in page_axes]) if page_axes else (),
            strict=True,
        )
    )
    stored_apart = (
        axes == outer + keyframe.axes
        and not set(keyframe.axes) & set(page_axes)
        and len(series.pages) == math.prod(sizes[axis] for axis in outer)
    )
    if not stored_apart:  # in one piece
        whole = _whole(series)
        part = whole[tuple(at.get(axis, slice(None)) for axis in axes)]
        return _channels_last(part, "".join(axis for axis in axes if axis not in page_axes))
    planes = []
    for channel in range(sizes.get("C", 1) if "C" in outer else 1):
        place = [channel if axis == "C" else int(at[axis]) for axis in outer]
        number = int(np.ravel_multi_index(place, [sizes[axis] for axis in outer])) if outer else 0
        stored = series.pages[number]
        if stored is None:
            raise DataError("a page that its description promises is missing.")
        _check_whole(stored, series.keyframe.parent.filehandle.size)
        planes.append(_channels_last(stored.asarray(), keyframe.axes))
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def _whole(series: Any) -> Array:
    if series.dataoffset is not None:
        handle = series.keyframe.parent.filehandle
        if series.dataoffset + series.size * series.dtype.itemsize > handle.size:
            raise DataError("the file ends before its pixels do: it is truncated.")
        whole: Array = series.asarray(out="memmap")
        return whole
    for stored in series.pages:
        _check_whole(stored, series.keyframe.parent.filehandle.size)
    whole = series.asarray()
    return whole


def _channels_last(array: Array, axes: str) -> Array:
    """Axes of Y, X, and perhaps S and C, as HWC."""
    array = np.transpose(array, [axes.index(axis) for axis in "YXCS" if axis in axes])
    return array.reshape(*array.shape[:2], -1)


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
        extra = array.shape[2] - (3 if photometric == "rgb" else 1)
        tifffile.imwrite(
            path,
            array,
            photometric=photometric,
            planarconfig="contig",
            extrasamples=["unspecified"] * extra,
        )
