"""What a file is besides its pixels, so that a translation can be the same kind of file.

The output belongs to the model, the container to the input: number and order of pages, durations,
colour profile, resolution, EXIF, and the layout and tags of a TIFF (`images.tiff_layout`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from patchkin.errors import DataError
from patchkin.images.boxes import tell_pillow
from patchkin.images.deep import bits_of
from patchkin.images.faults import DECODING_ERRORS
from patchkin.images.heic import register_heic
from patchkin.images.orientation import ORIENTATION_TAG
from patchkin.images.pages import num_pages
from patchkin.images.tiff import is_tiff
from patchkin.images.tiff_layout import TiffLayout, tiff_layout


@dataclass(frozen=True, kw_only=True)
class Container:
    """Of one file."""

    num_pages: int = 1
    icc_profile: bytes | None = None
    exif: bytes | None = None
    """Without the orientation, which the pixels already have."""
    dpi: tuple[float, float] | None = None
    durations: tuple[float, ...] = ()
    """Of the frames of an animation, in milliseconds."""
    loop: int | None = None
    """How often an animation is played; 0 for ever, None once."""
    bits: int | None = None
    """Of HEIC, AVIF and JPEG 2000."""
    tiff: TiffLayout | None = None
    notes: tuple[str, ...] = ()
    """What of the file cannot be carried over."""


def container_of(file: Path) -> Container:
    """Of a file; that of a damaged one, which decoding tells, is empty."""
    try:
        with file.open("rb") as opened:
            head = opened.read(16)
        if is_tiff(head):
            layout = tiff_layout(file)
            return Container(
                num_pages=num_pages(file),
                icc_profile=layout.icc_profile,
                dpi=layout.dpi,
                tiff=layout,
                notes=layout.notes,
            )
        if file.suffix.lower() == ".npy":
            return Container()
        register_heic(head)
        with Image.open(file) as image:
            tell_pillow(image, file)
            return replace(_of_pillow(image, num_pages(file)), bits=bits_of(file, head))
    except (ModuleNotFoundError, DataError, *DECODING_ERRORS):
        return Container()


def _of_pillow(image: Image.Image, pages: int) -> Container:
    notes: list[str] = []
    exif: bytes | None = None
    try:
        tags = image.getexif()
        tags.pop(ORIENTATION_TAG, None)
        exif = tags.tobytes() if tags else None
    except DECODING_ERRORS:
        notes.append("the camera's notes (EXIF) are damaged and not carried over")
    if image.format == "MPO":
        notes.append("the other pictures of the JPEG (MPO) are not carried over")
    info = dict(image.info)
    durations: list[float] = []
    for page in range(pages if pages > 1 else 0):
        image.seek(page)
        if image.format in ("WEBP", "AVIF"):
            image.load()  # only then they tell the duration
        durations.append(float(image.info.get("duration", 0)))
    dpi = info.get("dpi")
    return Container(
        num_pages=pages,
        icc_profile=info.get("icc_profile") or None,
        exif=exif,
        dpi=None if dpi is None else (float(dpi[0]), float(dpi[1])),
        durations=tuple(durations),
        loop=info.get("loop"),
        notes=tuple(notes),
    )


def holds_profile(icc_profile: bytes | None, channels: int) -> bool:
    """Whether a colour profile is one of grey or of RGB images, as the channels are.

    >>> holds_profile(bytes(16) + b"RGB " + bytes(100), 3), holds_profile(None, 3)
    (True, False)
    """
    wanted = {1: b"GRAY", 3: b"RGB "}.get(channels)
    return icc_profile is not None and icc_profile[16:20] == wanted
