"""Pages to a TIFF that is laid out as another: axes, compression, tags.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from patchkin.errors import ConfigError
from patchkin.images.faults import DECODING_ERRORS
from patchkin.images.ome import fitted_ome
from patchkin.images.picture import Array
from patchkin.images.tiff_layout import TiffLayout

_NONE, _LZW, _JPEG, _DEFLATE, _PACKBITS, _LZMA, _ZSTD = 1, 5, 7, 8, 32773, 34925, 50000
_SAME_FAMILY = {32946: _DEFLATE, 6: _JPEG}
_WRITTEN = (_NONE, _LZW, _JPEG, _DEFLATE, _PACKBITS, _LZMA, _ZSTD)
_PREDICTED = (_LZW, _DEFLATE, _LZMA, _ZSTD)
_IMAGEJ_TYPES = ("uint8", "uint16", "float32")
_BIG = 2**32 - 2**25


def write_tiff_pages(
    path: Path,
    pages: Iterable[tuple[Array, Array | None]],
    number: int,
    layout: TiffLayout | None,
    *,
    icc_profile: bytes | None,
    dpi: tuple[float, float] | None,
    quality: int,
) -> list[str]:
    """Write a file page by page, so that one of them is in memory.

    Args:
        path: of it.
        pages: each [C, H, W] with its alpha [H, W], of one type; sizes may differ only where the
            layout has a plain axis. Where the first has alpha and another none, that is opaque.
        number: of the pages.
        layout: of the input, if that is a TIFF.
        icc_profile: colour profile, or None.
        dpi: resolution, where the layout has none.
        quality: of JPEG in TIFF.

    Returns:
        What of the input's layout could not be kept, one line each.

    Raises:
        ConfigError: tifffile is not installed.
    """
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Writing TIFF needs tifffile; run `pip install patchkin[tiff]`, or use --format png."
        ) from error
    notes: list[str] = []
    following = iter(pages)
    first_CHW, first_alpha_HW = next(following)
    pages = chain([(first_CHW, first_alpha_HW)], following)
    channels, dtype = first_CHW.shape[0], first_CHW.dtype
    with_alpha = first_alpha_HW is not None
    kind = "plain" if layout is None else layout.kind
    as_planes = _as_planes(layout, channels, dtype, with_alpha=with_alpha)
    if kind == "imagej" and (
        dtype.name not in _IMAGEJ_TYPES
        or (with_alpha and not as_planes)
        or (channels > 1 and not as_planes and (dtype != np.uint8 or channels != 3))
        or number != math.prod(layout.sizes if layout else (1,))
    ):
        notes.append("the metadata of ImageJ is not kept: it has no such pixels")
        kind = "plain"
    if with_alpha and as_planes:
        notes.append("alpha is not kept beside channels that are planes")
        with_alpha = False
    options = _options(layout, dtype, channels, notes, with_alpha=with_alpha, quality=quality)
    options |= _writable(tifffile, _tags_of(layout, icc_profile, dpi), notes)
    interleaved = True
    if not as_planes and channels == 3:
        options["photometric"] = "rgb"
    else:
        options["photometric"] = "minisblack"
    if not as_planes:
        extra = channels - (3 if channels == 3 else 1)
        kinds = ["unspecified"] * extra + ["unassalpha"] * with_alpha
        options |= {"extrasamples": kinds} if kinds else {}
        interleaved = not (layout is not None and layout.planar and channels > 1)
        if channels + with_alpha > 1:
            options["planarconfig"] = "contig" if interleaved else "separate"
    _write(
        tifffile,
        path,
        _planes(pages, with_alpha=with_alpha, as_planes=as_planes, interleaved=interleaved),
        number * (channels if as_planes else 1),
        layout,
        kind=kind,
        options=options,
        as_planes=as_planes,
        samples=1 if as_planes else channels + with_alpha,
        notes=notes,
    )
    return notes


def _as_planes(
    layout: TiffLayout | None, channels: int, dtype: np.dtype[Any], *, with_alpha: bool
) -> bool:
    """Whether each channel is a plane of its own (C), as microscopes store them."""
    if layout is None:
        return False
    if layout.channel_axis:
        return True
    colour = channels == 3 and (layout.kind != "imagej" or dtype == np.uint8)
    named = layout.kind in ("ome", "imagej")
    return named and channels > 1 and not colour and not with_alpha


def _planes(
    pages: Iterable[tuple[Array, Array | None]],
    *,
    with_alpha: bool,
    as_planes: bool,
    interleaved: bool,
) -> Iterator[Array]:
    """What becomes a directory of the file each: HW, HWC, or CHW where samples lie apart."""
    for page_CHW, alpha_HW in pages:
        if as_planes:
            yield from page_CHW
            continue
        whole_CHW = page_CHW
        if with_alpha:
            filled_HW = _opaque(page_CHW) if alpha_HW is None else alpha_HW
            whole_CHW = np.concatenate([page_CHW, filled_HW[None]])
        if whole_CHW.shape[0] == 1:
            yield np.ascontiguousarray(whole_CHW[0])
        else:
            axes = (1, 2, 0) if interleaved else (0, 1, 2)
            yield np.ascontiguousarray(whole_CHW.transpose(axes))


def _opaque(page_CHW: Array) -> Array:
    dtype = page_CHW.dtype
    return np.full(page_CHW.shape[1:], np.iinfo(dtype).max if dtype.kind in "iu" else 1, dtype)


def _write(
    tifffile: Any,
    path: Path,
    planes: Iterator[Array],
    number: int,
    layout: TiffLayout | None,
    *,
    kind: str,
    options: dict[str, Any],
    as_planes: bool,
    samples: int,
    notes: list[str],
) -> None:
    first = next(planes)
    planes = chain([first], planes)
    height, width = first.shape[-2:] if samples == 1 else _sides(first, options)
    pages = math.prod(layout.sizes) if layout else number
    channels = number // pages
    outer = (layout.axes if layout else "") + ("C" if as_planes else "")
    sizes = dict(zip(layout.axes, layout.sizes, strict=True)) if layout else {}
    sizes |= {"X": width, "Y": height} | ({"C": channels} if as_planes else {})
    values = max(number * first.size, (layout.pixels if layout else 0) * samples * channels)
    big = (layout is not None and layout.bigtiff) or values * first.dtype.itemsize > _BIG
    order = layout.byteorder if layout else None
    if kind in ("imagej", "shaped") and layout is not None:
        axes = outer + ("YX" if samples == 1 else _sample_axes(options))
        metadata = _metadata(layout, channels if as_planes else samples, str(first.dtype))
        more = {"imagej": True} if kind == "imagej" else {"bigtiff": big}
        tile = options.get("tile")
        tifffile.imwrite(
            path,
            planes if tile is None else _tiles(planes, tile, options),
            shape=(*(sizes[axis] for axis in outer), *first.shape),
            dtype=first.dtype,
            byteorder=order,
            metadata={**metadata, "axes": axes},
            **more,
            **options,
        )
        return
    description = layout.description if layout else None
    if kind == "ome" and layout is not None:
        dtype = str(first.dtype)
        description = fitted_ome(description or "", outer, sizes, samples=samples, dtype=dtype)
        if description is None:
            notes.append("the metadata of OME is not kept: it describes other axes or stacks")
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as file:
        for place, plane in enumerate(planes):
            words = {} if description is None or place else {"description": _ascii(description)}
            file.write(plane, metadata=None, contiguous=False, **words, **options)
            options.pop("extratags", None)


def _tiles(
    planes: Iterable[Array], tile: tuple[int, ...], options: dict[str, Any]
) -> Iterator[Array]:
    """The tiles of planes, filled up at the edges, as tifffile takes them one by one."""
    rows, columns = tile
    for plane in planes:
        apart = plane.ndim == 3 and _sample_axes(options) == "SYX"
        for image in plane if apart else [plane]:
            for top in range(0, image.shape[0], rows):
                for left in range(0, image.shape[1], columns):
                    part = image[top : top + rows, left : left + columns]
                    whole = np.zeros((rows, columns, *image.shape[2:]), image.dtype)
                    whole[: part.shape[0], : part.shape[1]] = part
                    yield whole


def _sample_axes(options: dict[str, Any]) -> str:
    return "SYX" if options.get("planarconfig") == "separate" else "YXS"


def _sides(plane: Array, options: dict[str, Any]) -> tuple[int, int]:
    height, width = plane.shape[1:] if _sample_axes(options) == "SYX" else plane.shape[:2]
    return height, width


def _ascii(text: str) -> bytes:
    """What tifffile takes: words of 7 bits, and bytes of any."""
    return text.encode("utf-8", errors="replace")


def _writable(tifffile: Any, tags: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Those that tifffile writes: a damaged file may hold others, which are told."""
    pair = ("resolution", "resolutionunit")
    groups = [{name: tags[name] for name in pair if name in tags}]
    groups += [{name: value} for name, value in tags.items() if name not in (*pair, "extratags")]
    groups += [{"extratags": [tag]} for tag in tags.get("extratags", ())]
    kept: dict[str, Any] = {}
    for group in filter(None, groups):
        try:
            tifffile.imwrite(io.BytesIO(), np.zeros((1, 1), np.uint8), **group)
        except (*DECODING_ERRORS, OverflowError):
            name = f"tag {group['extratags'][0][0]}" if "extratags" in group else next(iter(group))
            notes.append(f"its {name} is not kept: it is damaged")
            continue
        extra = [*kept.get("extratags", []), *group.get("extratags", [])]
        kept |= group | ({"extratags": extra} if extra else {})
    return kept


def _metadata(layout: TiffLayout, channels: int, dtype: str) -> dict[str, Any]:
    """What ImageJ or tifffile say of a stack, without what they will say of the new one."""
    written = {"ImageJ", "images", "channels", "slices", "frames", "hyperstack", "axes", "shape"}
    if (channels, dtype) != (layout.channels, layout.dtype):
        written |= {"min", "max", "Ranges", "LUTs", "mode"}
        written |= {"Labels"} if channels != layout.channels else set()
    return {
        name: value
        for name, value in layout.metadata.items()
        if name not in written | {"truncated"} and value is not None
    }


def _options(
    layout: TiffLayout | None,
    dtype: np.dtype[Any],
    channels: int,
    notes: list[str],
    *,
    with_alpha: bool,
    quality: int,
) -> dict[str, Any]:
    """Compression and tiles."""
    if layout is None:
        return {}
    options: dict[str, Any] = {}
    compression = _SAME_FAMILY.get(layout.compression, layout.compression)
    jpeg = dtype == np.uint8 and channels in (1, 3) and not with_alpha
    if compression not in _WRITTEN or (compression == _JPEG and not jpeg):
        notes.append(
            f"compressed by Deflate: compression {compression} is not written for such pixels"
        )
        compression = _DEFLATE
    if compression != _NONE:
        options["compression"] = compression
        if compression in _PREDICTED and layout.predictor and dtype.itemsize <= 4:
            options["predictor"] = True
        if compression == _JPEG:
            options["compressionargs"] = {"level": quality}
    if layout.tile is not None:
        options["tile"] = layout.tile
    return options


def _tags_of(
    layout: TiffLayout | None, icc_profile: bytes | None, dpi: tuple[float, float] | None
) -> dict[str, Any]:
    options: dict[str, Any] = {} if icc_profile is None else {"iccprofile": icc_profile}
    if layout is None:
        if dpi is not None:
            options |= {"resolution": dpi, "resolutionunit": 2}
        return options
    if layout.resolution is not None:
        options["resolution"] = layout.resolution
        options["resolutionunit"] = layout.resolution_unit
    options["software"] = _ascii(str(layout.software)) if layout.software else False
    if layout.date is not None:
        options["datetime"] = layout.date
    if layout.tags:
        options["extratags"] = list(layout.tags)
    return options
