"""What the index says of every image, and whether it still holds."""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
from PIL import features

from patchkin.images.pages import file_of
from patchkin.sides import Sides
from patchkin.storage.strict_json import parsed

FORMAT = 3
"""Goes up when files of this format can no longer be read, or pixels are decoded otherwise."""

Kind = str
"""`L` or `RGB` of a Pillow image, or the type of an array."""
Key = tuple[str, int]


class Stored(NamedTuple):
    """One form of an image in the file of pixels."""

    load_size: Sides | None
    """None: not resized."""
    kind: Kind
    shape: tuple[int, ...]
    """HW or HWC of a Pillow image, CHW of an array."""
    offset: int
    length: int
    crc32: int


class Entry(NamedTuple):
    """An image of the index."""

    path: str
    """Absolute."""
    channels: int
    """Wanted; the pixels have them."""
    file_size: int
    mtime_ns: int
    file_type: str
    """Of the numbers in the file, such as uint16."""
    file_channels: int
    stored: tuple[Stored, ...]

    @property
    def key(self) -> Key:
        """What it is looked up by."""
        return self.path, self.channels


class UnusableError(Exception):
    """The index or the file of pixels is not what was written here; says what it is."""


def key_of(path: Path, channels: int) -> Key:
    """What an image is looked up by: its absolute path, and the channels wanted."""
    return os.path.abspath(path), channels  # noqa: PTH100 - pathlib takes ten times as long


def entry_of(row: list[Any]) -> Entry:
    """Of JSON.

    Raises:
        ValueError, TypeError: it is of no image.
    """
    *rest, stored = row
    forms = [
        Stored(
            tuple(size) if isinstance(size, list) else size,
            kind,
            tuple(shape),
            *map(operator.index, place),
        )
        for size, kind, shape, *place in stored
    ]
    entry = Entry._make([*rest, tuple(forms)])
    if not all(map(_is_held, forms)) or np.dtype(entry.file_type).kind not in "iufb":
        raise ValueError("an image of it has another form")
    Path(entry.path)
    return entry


def _is_held(form: Stored) -> bool:
    """Whether the pixels of a form have its length."""
    dtype = np.dtype(np.uint8 if form.kind in ("L", "RGB") else form.kind)
    numbers = math.prod(map(operator.index, form.shape))
    is_whole = form.offset >= 0 and form.length == numbers * dtype.itemsize
    return is_whole and dtype.kind in "iufb" and len(form.shape) in (2, 3)


def content_of(pixels: npt.NDArray[np.uint8], form: Stored) -> memoryview:
    """The bytes of a form in the mapped file of pixels, without a copy."""
    return pixels.data[form.offset : form.offset + form.length]


def is_unchanged(entry: Entry) -> bool:
    """Whether the file of an image has the size and the time of change that it had."""
    try:
        status = file_of(Path(entry.path)).stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (entry.file_size, entry.mtime_ns)


def index_body(content: bytes) -> dict[str, Any]:
    """What the store wrote.

    Raises:
        UnusableError: it was changed since, or other code than this made it.
    """
    try:
        index = parsed(content)
        body, digest = index["body"], index["sha256"]
        text = json.dumps(body, separators=(",", ":"))
        kind, decoder = body["format"], body["decoder"]
    except (ValueError, KeyError, TypeError) as error:
        raise UnusableError("is damaged") from error
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise UnusableError("is damaged")
    if kind != FORMAT:
        raise UnusableError(f"has format {kind}, not {FORMAT}")
    if decoder != decoder_versions():
        raise UnusableError(f"was made by {decoder}; here is {decoder_versions()}")
    return dict(body)


def decoder_versions() -> str:
    """What pixels depend on besides their file: lossy formats differ between versions."""
    known = {*features.modules, *features.codecs, *features.features}
    lossy = [name for name in ("jpg", "libjpeg_turbo", "webp", "avif", "jpg_2000") if name in known]
    versions = ", ".join(f"{name} {features.version(name)}" for name in lossy)
    return f"Pillow {PIL.__version__} with {versions}"
