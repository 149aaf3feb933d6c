"""How a TIFF stores its pages, and the tags that a translation of it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from patchkin.images.tiff import (
    declares_nodata,
    num_missing,
    open_tiff,
    orientation_of,
    page_series,
)

Kind = Literal["ome", "imagej", "shaped", "plain"]
_KINDS: tuple[Kind, ...] = ("ome", "imagej", "shaped")
Tag = tuple[int, int, int, Any, bool]
"""Code, type, count, value, and whether on the first page only: as tifffile writes it."""
_GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
_KEPT_TAGS = (
    *(269, 271, 272, 285, 315, 316, 33432),  # who, where, by which machine
    *(700, 33723, 34377),  # XMP, IPTC, Photoshop
    *(42112, 42113),  # GDAL
    *_GEOREFERENCE,
)
_STORAGE_TAGS = frozenset(
    (
        *(254, 255, 256, 257, 258, 259, 262, 263, 266, 270, 273, 274, 277, 278, 279, 280, 281),
        *(282, 283, 284, 296, 297, 305, 306, 317, 318, 319, 320, 322, 323, 324, 325, 330, 338),
        *(339, 340, 341, 347, 512, 513, 514, 529, 530, 531, 532, 34675, 50838, 50839),
    )
)
"""What is written anyway, or describes how the old pixels were stored."""
_INCH, _CENTIMETRE = 2, 3


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """Of one file."""

    kind: Kind
    axes: str
    """Of its pages (Z, T, ...), slowest first."""
    sizes: tuple[int, ...]
    """Of these axes."""
    channel_axis: bool
    """Whether channels are planes (C), not samples of a pixel."""
    compression: int
    predictor: bool
    tile: tuple[int, ...] | None
    planar: bool
    bigtiff: bool
    byteorder: Literal["<", ">"]
    resolution: tuple[Any, Any] | None
    resolution_unit: int
    icc_profile: bytes | None
    software: str | None
    date: str | None
    description: str | None
    """That of the first page: OME's XML, or words."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Of ImageJ, or of tifffile."""
    tags: tuple[Tag, ...] = ()
    pixels: int = 0
    """Of all pages, whatever their sizes."""
    channels: int = 1
    dtype: str = ""
    notes: tuple[str, ...] = ()
    """What cannot be carried over."""

    def first_page(self) -> TiffLayout:
        """Of the first page alone."""
        return replace(self, axes="", sizes=(), pixels=0)

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Pixels per inch, across and down; None if it is not said."""
        if self.resolution is None or self.resolution_unit not in (_INCH, _CENTIMETRE):
            return None
        factor = 2.54 if self.resolution_unit == _CENTIMETRE else 1.0
        x, y = (n / d * factor if d else 0.0 for n, d in self.resolution)
        return (x, y) if x > 0 and y > 0 else None


def tiff_layout(path: Path) -> TiffLayout:
    """Of a file.

    Raises:
        ModuleNotFoundError: tifffile is not installed.
        DataError: it is no TIFF.
    """
    with open_tiff(path) as file:
        found = page_series(file)
        first = found[0]
        keyframe = first.series.keyframe
        page = file.pages[0]
        notes: list[str] = []
        kind: Kind = next((known for known in _KINDS if known == first.series.kind), "plain")
        if len(found) > 1 and kind != "plain":
            if kind != "shaped":
                notes.append(f"the {kind} metadata of several series is not carried over")
            kind = "plain"
        if len(file.series) > len(found) or any(each.series.is_pyramidal for each in found):
            notes.append("its reduced copies are not carried over")
        if declares_nodata(keyframe):
            missing = sum(
                num_missing(stored) for stored in first.series.pages if stored is not None
            )
            parts = "tiles" if keyframe.is_tiled else "strips"
            if missing:
                notes.append(f"{missing} empty {parts} (sparse) are read as nodata and written out")
        sizes = dict(zip(first.series.axes, first.series.shape, strict=True))
        one = len(found) == 1
        turned = orientation_of(keyframe)
        return TiffLayout(
            kind=kind,
            axes=first.page_axes if one else "I",
            sizes=(
                tuple(sizes[axis] for axis in first.page_axes)
                if one
                else (sum(series.num_pages for series in found),)
            ),
            channel_axis="C" in first.series.axes,
            compression=int(keyframe.compression),
            predictor=int(keyframe.predictor) in (2, 3),
            tile=tuple(keyframe.tile) if keyframe.is_tiled and len(keyframe.tile) == 2 else None,
            planar="S" in keyframe.axes and keyframe.axes.startswith("S"),
            bigtiff=bool(file.is_bigtiff),
            byteorder=file.byteorder,
            resolution=_resolution(page, swapped=turned > 4),
            resolution_unit=_value(page, 296, _INCH),
            icc_profile=_value(page, 34675, None),
            software=_value(page, 305, None),
            date=_value(page, 306, None),
            description=page.description or None,
            metadata=_metadata(file, kind),
            tags=_tags(page, turned, notes),
            pixels=sum(_pixels(series.series) * series.num_pages for series in found),
            channels=sizes.get("C", 1) * sizes.get("S", 1),
            dtype=str(first.series.dtype),
            notes=tuple(notes),
        )


def _pixels(series: Any) -> int:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return int(sizes["Y"] * sizes["X"])


def _metadata(file: Any, kind: str) -> dict[str, Any]:
    if kind == "imagej":
        return dict(file.imagej_metadata or {})
    if kind == "shaped" and file.shaped_metadata:
        return dict(file.shaped_metadata[0])
    return {}


def _resolution(page: Any, *, swapped: bool) -> tuple[Any, Any] | None:
    x, y = (_value(page, code, None) for code in (282, 283))
    if x is None or y is None:
        return None
    return (y, x) if swapped else (x, y)


def _value(page: Any, code: int, default: Any) -> Any:
    tag = page.tags.get(code)
    if tag is None:
        return default
    return int(tag.value) if isinstance(tag.value, int) else tag.value


def _tags(page: Any, orientation: int, notes: list[str]) -> tuple[Tag, ...]:
    kept: list[Tag] = []
    lost: list[str] = []
    for tag in page.tags:
        if tag.code in _GEOREFERENCE and orientation != 1:
            lost.append(f"{tag.code} (the image is turned)")
        elif tag.code in _KEPT_TAGS:
            kept.append((int(tag.code), int(tag.dtype), int(tag.count), tag.value, True))
        elif tag.code not in _STORAGE_TAGS:
            lost.append(f"{tag.code} {tag.name}")
    if lost:
        notes.append(f"TIFF tags that are not carried over: {', '.join(lost)}")
    return tuple(kept)
