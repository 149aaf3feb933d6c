"""How training gets the pixels of a file: from a cache, or decoded now."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchkin.data.cache.index import Entry, Key, Stored, content_of, key_of
from patchkin.errors import DataError
from patchkin.images import Encoding, Picture, Pixels, read_image
from patchkin.sides import Sides

logger = logging.getLogger(__name__)


class ReadImage(Protocol):
    """How training gets the pixels of a file."""

    def __call__(self, path: Path, channels: int, load_size: Sides | None = None) -> Picture:
        """The picture, perhaps already as the first step of a view leaves it at `load_size`."""
        ...


def from_file(path: Path, channels: int, load_size: Sides | None = None) -> Picture:
    """The file, decoded now."""
    return read_image(path, channels)


class DecodedImages:
    """The pixels of a set; a `ReadImage` that decodes only what the cache does not hold.

    Travels to other processes as a path, and maps the file there.
    """

    def __init__(
        self, pixels: Path, entries: Sequence[Entry], failures: dict[Key, str] | None = None
    ) -> None:
        self._pixels = pixels
        self._entries = {entry.key: entry for entry in entries}
        self._failures = failures or {}
        self._map: npt.NDArray[np.uint8] | None = None
        self._mapped()  # now, so that forked workers have it even if another run replaces it

    def __call__(self, path: Path, channels: int, load_size: Sides | None = None) -> Picture:
        """See `ReadImage`.

        Raises:
            DataError: the file is not in the cache and cannot be used.
        """
        entry = self._entries.get(key_of(path, channels))
        stored = {} if entry is None else {form.load_size: form for form in entry.stored}
        form = stored.get(load_size, stored.get(None))
        if entry is None or form is None or not self._mapped():
            return from_file(path, channels)
        return self._picture(path, entry, form)

    def check(self, path: Path, channels: int | None) -> Picture:
        """Whichever form of an image there is.

        Raises:
            DataError: the file could not be decoded when the cache was opened.
        """
        assert channels is not None
        key = key_of(path, channels)
        if key in self._failures:
            raise DataError(self._failures[key])
        entry = self._entries.get(key)
        return self(path, channels, entry.stored[0].load_size if entry else None)

    def __len__(self) -> int:
        return len(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def _mapped(self) -> bool:
        if self._map is None and self._entries:
            try:
                self._map = np.memmap(self._pixels, np.uint8, mode="r")
            except (OSError, ValueError) as error:
                logger.warning("`%s` is gone (%s); decoding instead.", self._pixels, error)
                self._entries = {}
        return self._map is not None

    def _picture(self, path: Path, entry: Entry, form: Stored) -> Picture:
        assert self._map is not None
        content = content_of(self._map, form)
        pixels: Pixels
        if form.kind in ("L", "RGB"):
            height, width = form.shape[:2]
            pixels = Image.frombytes(form.kind, (width, height), content)
        else:
            pixels = np.frombuffer(content, form.kind).reshape(form.shape).copy()
        encoding = Encoding.of(np.dtype(entry.file_type), entry.file_channels)
        return Picture(pixels, encoding, str(path))
