"""Translated pages to a file like the one that they came from.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from patchkin.errors import ConfigError
from patchkin.images.boxes import fits_jp2, with_jp2_metadata
from patchkin.images.container import Container, holds_profile
from patchkin.images.deep import DEEP_SUFFIXES, JP2_SUFFIX, WRITTEN_BITS, save_deep
from patchkin.images.frames import Frames
from patchkin.images.gif import write_gif
from patchkin.images.heic import HEIC_SUFFIXES, register_heif
from patchkin.images.picture import Array, encoding_of
from patchkin.images.png16 import save_16bit_png
from patchkin.images.pnm import PNM_SUFFIXES, save_deep_pnm
from patchkin.images.tiff import TIFF_SUFFIXES
from patchkin.images.tiff_writing import write_tiff_pages
from patchkin.images.write import (
    check_sides,
    default_suffix,
    pillow_format,
    save_npy,
    save_pillow,
    told_encoder,
)
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
    path: Path,
    pages: Iterable[Page],
    container: Container,
    *,
    number: int | None = None,
    quality: int | None = None,
) -> list[str]:
    """Write pages in the format of the suffix; the file appears whole or not at all.

    TIFF, GIF, WebP and AVIF are written page by page; APNG and HEIC when all are there.

    Args:
        path: of the file.
        pages: of one type and number of channels, taken one by one.
        container: of the input.
        number: of the pages; needed where they have no length.
        quality: from 1 to 100, of formats that have one; 95 unless given.

    Returns:
        What of the input could not be kept, one line each.

    Raises:
        ConfigError: the format cannot hold the pages.
        StorageError: the file cannot be written.
    """
    notes = list(container.notes)
    if number is None:
        pages = list(pages)
        number = len(pages)
    following = iter(pages)
    first = next(following)
    check_sides(path, *first.levels.shape[:0:-1])
    icc = container.icc_profile
    if icc is not None and not holds_profile(icc, first.levels.shape[0]):
        notes.append("its colour profile is not kept: it is of other colours than the translation")
        container = replace(container, icc_profile=None)
    job = _Job(path.suffix.lower(), first, number, container, quality or QUALITY, notes)
    first = job.checked(first)
    write = _writer(replace(job, first=first))
    everything = chain([first], map(job.checked, following))
    with new_file(path) as part, told_encoder(path.suffix):
        write(part, everything)
    return notes


@dataclass(frozen=True)
class _Job:
    """What is to be written, as far as the first page tells."""

    suffix: str
    first: Page
    number: int
    container: Container
    quality: int
    notes: list[str]

    def checked(self, page: Page) -> Page:
        """A page without an alpha that cannot be kept, which is said."""
        note = None
        if page.alpha is not None and page.alpha.dtype != self.first.levels.dtype:
            note = f"alpha is not kept: it has another type than {self.first.levels.dtype}"
        elif page.alpha is not None and self.first.alpha is None and self.suffix in TIFF_SUFFIXES:
            note = "alpha is not kept: the first page has none"
        if note is None:
            return page
        if note not in self.notes:
            self.notes.append(note)
        return Page(page.levels)


_Write = Callable[[Path, Iterable[Page]], object]


def _writer(job: _Job) -> _Write:
    first, suffix, container = job.first.levels, job.suffix, job.container
    plain = first.dtype == np.uint8 and first.shape[0] in (1, 3)
    if suffix in TIFF_SUFFIXES:
        return lambda part, pages: job.notes.extend(
            write_tiff_pages(
                part,
                pages,
                job.number,
                container.tiff,
                icc_profile=container.icc_profile,
                dpi=container.dpi,
                quality=job.quality,
            )
        )
    paged = suffix in HEIC_SUFFIXES or (plain and bool(container.durations) and _animates(suffix))
    if job.number > 1 and not paged:
        raise ConfigError(
            f"`{suffix}` cannot hold these {job.number} pages; use --format tif, or --pages first."
        )
    if suffix == ".npy":
        _note_lost(job, ())
        array_HWC = np.ascontiguousarray(first.transpose(1, 2, 0))
        return lambda part, _: save_npy(part, array_HWC[:, :, 0] if len(first) == 1 else array_HWC)
    if suffix == ".png" and first.dtype == np.uint16 and first.shape[0] in (1, 3):
        return lambda part, _: _write_png16(part, job.first, container)
    if suffix in DEEP_SUFFIXES and first.dtype == np.uint16 and first.shape[0] in (1, 3):
        return _deep_writer(job)
    if suffix in PNM_SUFFIXES and first.dtype == np.uint16 and len(first) in (1, 3):
        _note_lost(job, ())
        return lambda part, _: save_deep_pnm(part, first)
    if not plain:
        raise ConfigError(
            f"`{suffix}` cannot hold {first.shape[0]} channels of {first.dtype}; "
            f"use {default_suffix(encoding_of(first))} (--format "
            f"{default_suffix(encoding_of(first)).removeprefix('.')}) or .npy."
        )
    return _pillow_writer(job)


def _deep_writer(job: _Job) -> _Write:
    job = _fitting(job)
    container = job.container
    _note_lost(job, ("alpha", "colour profile", "EXIF"))
    if container.bits != WRITTEN_BITS and job.suffix != JP2_SUFFIX:
        job.notes.append(f"its levels are written with {WRITTEN_BITS} bits")
    return lambda part, pages: save_deep(
        part,
        list(pages),
        quality=job.quality,
        icc_profile=container.icc_profile,
        exif=container.exif,
        suffix=job.suffix,
    )


def _animates(suffix: str) -> bool:
    return suffix != ".npy" and pillow_format(suffix) in _ANIMATED


def _pillow_writer(job: _Job) -> _Write:
    if job.suffix in HEIC_SUFFIXES:
        register_heif()
    name = pillow_format(job.suffix)
    job = _fitting(job)
    container = job.container
    options: dict[str, Any] = {"format": name}
    if name in ("JPEG", "WEBP", "AVIF", "HEIF"):
        options["quality"] = job.quality
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
    _note_lost(job, held)
    if job.number > 1 and name == "GIF":
        return lambda part, pages: write_gif(
            part,
            zip(_images(pages), container.durations, strict=True),
            loop=container.loop,
        )
    if job.number > 1 and name in _ANIMATED:
        options |= {"save_all": True, "duration": [round(each) for each in container.durations]}
        options |= {} if container.loop is None else {"loop": container.loop}
    if job.number > 1 and name in ("WEBP", "AVIF"):
        return lambda part, pages: Frames(_images(pages), job.number).save(part, **options)
    if job.number > 1:
        return lambda part, pages: _save_at_once(part, list(_images(pages)), options)
    image = _image(job.first, with_alpha=with_alpha)
    if name == "JPEG2000":
        return lambda part, _: _save_jp2(part, image, container)
    return lambda part, _: save_pillow(image, part, **options)


def _save_at_once(part: Path, images: list[Image.Image], options: dict[str, Any]) -> None:
    save_pillow(images[0], part, **{**options, "save_all": True}, append_images=images[1:])


def _save_jp2(part: Path, image: Image.Image, container: Container) -> None:
    """Pillow writes neither a profile nor EXIF."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG2000")
    whole = with_jp2_metadata(buffer.getvalue(), container.icc_profile, container.exif)
    part.write_bytes(whole)


def _fitting(job: _Job) -> _Job:
    """Without a profile that a format has no place for."""
    icc = job.container.icc_profile
    if job.suffix != JP2_SUFFIX or icc is None or fits_jp2(icc):
        return job
    job.notes.append("its colour profile is not kept: JPEG 2000 has no place for tables of colours")
    return replace(job, container=replace(job.container, icc_profile=None))


def _note_lost(job: _Job, held: Sequence[str]) -> None:
    there = {
        "alpha": job.first.alpha is not None,
        "colour profile": job.container.icc_profile is not None,
        "EXIF": job.container.exif is not None,
        "resolution": job.container.dpi is not None
        and job.suffix not in (".gif", ".webp", ".avif"),
    }
    lost = [what for what, given in there.items() if given and what not in held]
    if lost:
        job.notes.append(f"{', '.join(lost)} not kept: {job.suffix} has no place for it")


def _images(pages: Iterable[Page]) -> Iterator[Image.Image]:
    return (_image(page, with_alpha=True) for page in pages)


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
