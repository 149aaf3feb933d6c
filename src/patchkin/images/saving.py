"""Translated pages to a file like the one that they came from.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from patchkin.errors import ConfigError
from patchkin.images.boxes import fits_jp2, with_jp2_metadata
from patchkin.images.container import Container, holds_profile, is_tiff_name
from patchkin.images.deep import DEEP_SUFFIXES, JP2_SUFFIX, WRITTEN_BITS, save_deep
from patchkin.images.heic import HEIC_SUFFIXES, register_heif
from patchkin.images.picture import Array, encoding_of
from patchkin.images.png16 import save_16bit_png
from patchkin.images.pnm import PNM_SUFFIXES, save_deep_pnm
from patchkin.images.tiff_writing import write_tiff_pages
from patchkin.images.write import default_suffix, pillow_format, save_npy
from patchkin.storage.atomic import new_file

QUALITY = 95
"""Of JPEG, WebP, AVIF and HEIC, unless said otherwise."""
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
_WITH_ALPHA = ("PNG", "WEBP", "AVIF", "GIF", "TGA", "JPEG2000", "HEIF", "BMP")
_WITH_PROFILE = ("PNG", "JPEG", "WEBP", "AVIF", "HEIF", "JPEG2000")
_WITH_EXIF = _WITH_PROFILE
_WITH_DPI = ("PNG", "JPEG", "BMP")
_METRE = 1 / 0.0254
"""Inches in it."""


class Page(NamedTuple):
    """What is written of a page."""

    levels: Array
    """[C, H, W], of the type of the file."""
    alpha: Array | None = None
    """[H, W] of the same type."""


def write_pages(
    path: Path, pages: Sequence[Page], container: Container, *, quality: int | None = None
) -> list[str]:
    """Write pages in the format of the suffix; the file appears whole or not at all.

    Args:
        path: of the file.
        pages: of one type and number of channels.
        container: of the input.
        quality: from 1 to 100, of formats that have one; 95 unless given.

    Returns:
        What of the input could not be kept, one line each.

    Raises:
        ConfigError: the format cannot hold the pages.
        StorageError: the file cannot be written.
    """
    notes = list(container.notes)
    channels = pages[0].levels.shape[0]
    dtype = pages[0].levels.dtype
    if any(page.alpha is not None and page.alpha.dtype != dtype for page in pages):
        notes.append(f"alpha is not kept: it has another type than {dtype}")
        pages = [Page(page.levels) for page in pages]
    icc = container.icc_profile
    if icc is not None and not holds_profile(icc, channels):
        notes.append("its colour profile is not kept: it is of other colours than the translation")
        container = replace(container, icc_profile=None)
    write = _writer(path, pages, container, quality or QUALITY, notes)
    with new_file(path) as part:
        write(part)
    return notes


def _writer(
    path: Path,
    pages: Sequence[Page],
    container: Container,
    quality: int,
    notes: list[str],
) -> Callable[[Path], None]:
    first = pages[0].levels
    suffix, several = path.suffix.lower(), len(pages) > 1
    plain = first.dtype == np.uint8 and first.shape[0] in (1, 3)
    if is_tiff_name(path):
        return lambda part: notes.extend(
            write_tiff_pages(
                part,
                [page.levels for page in pages],
                [page.alpha for page in pages],
                container.tiff,
                icc_profile=container.icc_profile,
                dpi=container.dpi,
                quality=quality,
            )
        )
    paged = suffix in HEIC_SUFFIXES or (plain and bool(container.durations) and _animates(suffix))
    if several and not paged:
        raise ConfigError(
            f"`{suffix}` cannot hold these {len(pages)} pages; use --format tif, or --pages first."
        )
    if suffix == ".npy":
        _note_lost(notes, suffix, pages, container, ())
        array_HWC = np.ascontiguousarray(first.transpose(1, 2, 0))
        return lambda part: save_npy(part, array_HWC[:, :, 0] if len(first) == 1 else array_HWC)
    if suffix == ".png" and first.dtype == np.uint16 and first.shape[0] in (1, 3):
        return lambda part: _write_png16(part, pages[0], container)
    if suffix in DEEP_SUFFIXES and first.dtype == np.uint16 and first.shape[0] in (1, 3):
        return _deep_writer(suffix, pages, container, quality, notes)
    if suffix in PNM_SUFFIXES and first.dtype == np.uint16 and len(first) in (1, 3):
        _note_lost(notes, suffix, pages, container, ())
        return lambda part: save_deep_pnm(part, first)
    if not plain:
        raise ConfigError(
            f"`{suffix}` cannot hold {first.shape[0]} channels of {first.dtype}; "
            f"use {default_suffix(encoding_of(first))} (--format "
            f"{default_suffix(encoding_of(first)).removeprefix('.')}) or .npy."
        )
    return _pillow_writer(suffix, pages, container, quality, notes)


def _deep_writer(
    suffix: str, pages: Sequence[Page], container: Container, quality: int, notes: list[str]
) -> Callable[[Path], None]:
    container = _fitting(container, suffix, notes)
    _note_lost(notes, suffix, pages, container, ("alpha", "colour profile", "EXIF"))
    if container.bits != WRITTEN_BITS and suffix != JP2_SUFFIX:
        notes.append(f"its levels are written with {WRITTEN_BITS} bits")
    return lambda part: save_deep(
        part,
        pages,
        quality=quality,
        icc_profile=container.icc_profile,
        exif=container.exif,
        suffix=suffix,
    )


def _animates(suffix: str) -> bool:
    return suffix != ".npy" and pillow_format(suffix) in _ANIMATED


def _pillow_writer(
    suffix: str,
    pages: Sequence[Page],
    container: Container,
    quality: int,
    notes: list[str],
) -> Callable[[Path], None]:
    if suffix in HEIC_SUFFIXES:
        register_heif()
    name = pillow_format(suffix)
    container = _fitting(container, suffix, notes)
    options: dict[str, Any] = {"format": name}
    if name in ("JPEG", "WEBP", "AVIF", "HEIF"):
        options["quality"] = quality
    if name == "JPEG":
        options["subsampling"] = 0
    held = []
    if container.icc_profile is not None and name in _WITH_PROFILE:
        options["icc_profile"] = container.icc_profile
        held.append("colour profile")
    if container.exif is not None and name in _WITH_EXIF:
        options["exif"] = container.exif
        held.append("EXIF")
    if container.dpi is not None and name in _WITH_DPI:
        options["dpi"] = container.dpi
        held.append("resolution")
    with_alpha = name in _WITH_ALPHA
    held += ["alpha"] if with_alpha else []
    _note_lost(notes, suffix, pages, container, held)
    images = [_image(page, with_alpha=with_alpha) for page in pages]
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:]}
        if name in _ANIMATED:
            options["duration"] = [round(duration) for duration in container.durations]
        if name in _ANIMATED and container.loop is not None:
            options["loop"] = container.loop
        if name == "GIF" and any(page.alpha is not None for page in pages):
            options["disposal"] = 2
    if name == "JPEG2000" and {"colour profile", "EXIF"} & set(held):
        return lambda part: _save_jp2(part, images[0], container)
    return lambda part: images[0].save(part, **options)


def _save_jp2(part: Path, image: Image.Image, container: Container) -> None:
    """Pillow writes neither of the two."""
    image.save(part, format="JPEG2000")
    data = part.read_bytes()
    part.write_bytes(with_jp2_metadata(data, container.icc_profile, container.exif))


def _fitting(container: Container, suffix: str, notes: list[str]) -> Container:
    """Without a profile that a format has no place for."""
    icc = container.icc_profile
    if suffix != JP2_SUFFIX or icc is None or fits_jp2(icc):
        return container
    notes.append("its colour profile is not kept: JPEG 2000 has no place for tables of colours")
    return replace(container, icc_profile=None)


def _note_lost(
    notes: list[str],
    suffix: str,
    pages: Sequence[Page],
    container: Container,
    held: Sequence[str],
) -> None:
    there = {
        "alpha": any(page.alpha is not None for page in pages),
        "colour profile": container.icc_profile is not None,
        "EXIF": container.exif is not None,
        "resolution": container.dpi is not None and suffix not in (".gif", ".webp", ".avif"),
    }
    lost = [what for what, given in there.items() if given and what not in held]
    if lost:
        notes.append(f"{', '.join(lost)} not kept: {suffix} has no place for it")


def _image(page: Page, *, with_alpha: bool) -> Image.Image:
    array_HWC = np.ascontiguousarray(page.levels.transpose(1, 2, 0))
    image = Image.fromarray(array_HWC[:, :, 0] if array_HWC.shape[2] == 1 else array_HWC)
    if with_alpha and page.alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(page.alpha)))
    return image


def _write_png16(part: Path, page: Page, container: Container) -> None:
    parts = [page.levels] if page.alpha is None else [page.levels, page.alpha[None]]
    array_HWC = np.concatenate(parts).transpose(1, 2, 0)
    more: dict[bytes, bytes] = {}
    if container.icc_profile is not None:
        more[b"iCCP"] = b"profile\0\0" + zlib.compress(container.icc_profile)
    if container.dpi is not None:
        across, down = (round(number * _METRE) for number in container.dpi)
        more[b"pHYs"] = struct.pack(">IIB", across, down, 1)
    if container.exif is not None:
        more[b"eXIf"] = container.exif.removeprefix(b"Exif\0\0")
    array = array_HWC[:, :, 0] if array_HWC.shape[2] == 1 else array_HWC
    save_16bit_png(part, np.ascontiguousarray(array), more)
