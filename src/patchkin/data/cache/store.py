"""The files of a cache: read, checked, made and replaced."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchkin.data.cache.decoded import DecodedImages, from_file
from patchkin.data.cache.first_step import FirstStep
from patchkin.data.cache.index import (
    FORMAT,
    Entry,
    Key,
    Kind,
    Stored,
    UnusableError,
    content_of,
    decoder_versions,
    entry_of,
    index_body,
    is_unchanged,
    key_of,
)
from patchkin.errors import DataError, StorageError
from patchkin.images import Pixels
from patchkin.images.pages import file_of
from patchkin.sides import Sides
from patchkin.storage.atomic import new_file, remove_remains, write_text
from patchkin.storage.locks import alone_at

_CHUNK = 64  # images in flight while a cache is made
_ADVICE = "Choose another folder for decoded images with `--cache DIR`, or train without."
_ATTEMPTS = 3  # another process may replace index and pixels between two readings

logger = logging.getLogger(__name__)


class _Decoded(NamedTuple):
    """An image on its way into the file; offsets are not known yet."""

    entry: Entry
    contents: list[bytes]


class Store:
    """The files of one cache."""

    def __init__(self, folder: Path, stem: str, step: FirstStep | None, threads: int) -> None:
        self.folder = folder
        self.stem = stem
        self.step = step
        self.threads = threads
        self.index = folder / f"{stem}.json"

    def open(self, wanted: Sequence[tuple[Path, int]]) -> DecodedImages:
        """The images of these files; what is missing is decoded first.

        Raises:
            StorageError: the files of the cache cannot be read or written.
        """
        files = {key_of(path, channels): path for path, channels in wanted}
        known, _ = self._valid(files)
        if known is not None and known.keys.issuperset(files):
            return known.images({})
        with alone_at(self.index, f"decodes images into `{self.folder}`") as alone:
            known, complaint = self._valid(files)  # what another process made in the meantime
            held = known.keys if known is not None else set()
            missing = {key: path for key, path in files.items() if key not in held}
            if complaint:
                logger.warning("%s Decoding anew.", complaint)
            return self._made(known, missing, len(files), alone=alone)

    def _valid(self, keys: Collection[Key]) -> tuple[_Known | None, str]:
        """What can be used of the cache as it is, and what is wrong with the rest."""
        try:
            known = self._read()
        except UnusableError as reason:
            return None, f"`{self.index}` {reason}."
        if known is None:
            return None, ""
        with ThreadPoolExecutor(self.threads) as pool:
            unchanged = [entry for entry in known.entries if is_unchanged(entry)]
            wanted = [entry for entry in unchanged if entry.key in keys]
            whole = list(pool.map(known.is_whole, wanted))
        damaged = {entry.key for entry, good in zip(wanted, whole, strict=True) if not good}
        kept = [entry for entry in unchanged if entry.key not in damaged]
        complaint = ""
        if damaged:
            complaint = f"{len(damaged)} of {len(wanted)} images in `{known.pixels}` are damaged."
        return _Known(known.pixels, kept, known.map), complaint

    def _read(self) -> _Known | None:
        for _ in range(_ATTEMPTS):
            try:
                body = index_body(self.index.read_bytes())
            except FileNotFoundError:
                return None
            except OSError as error:
                reason = error.strerror or error
                raise StorageError(f"Cannot read `{self.index}`: {reason}. {_ADVICE}") from error
            name = str(body.get("pixels"))
            if re.fullmatch(re.escape(self.stem) + r"\.[0-9a-f]+\.pixels", name) is None:
                raise UnusableError("names other pixels")  # which would be removed
            pixels = self.folder / name
            try:
                mapped = np.memmap(pixels, np.uint8, mode="r")
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:  # an empty file cannot be mapped
                raise UnusableError(
                    f"names `{pixels.name}`, which cannot be read: {error}"
                ) from error
            try:
                return _Known(pixels, [entry_of(row) for row in body["entries"]], mapped)
            except (LookupError, TypeError, ValueError, OverflowError) as error:
                raise UnusableError("is damaged") from error
        raise UnusableError("names pixels that are not there")

    def _made(
        self, known: _Known | None, missing: Mapping[Key, Path], number: int, *, alone: bool
    ) -> DecodedImages:
        """The cache with the missing images added; nothing is written if all of them fail."""
        old = known or _Known(self.folder, [], np.zeros(0, np.uint8))
        failures: dict[Key, str] = {}
        if missing:
            logger.warning("decoding %d of %d images into `%s`", len(missing), number, self.folder)
        began = time.perf_counter()
        decoded = self._decoded(missing, failures)
        first = next(decoded, None)
        if first is None:
            return old.images(failures)
        token = secrets.token_hex(4)
        pixels = self.folder / f"{self.stem}.{token}.pixels"
        with new_file(pixels, advice=_ADVICE) as part, part.open("wb") as file:
            kept = filter(old.is_whole, old.entries)
            entries = [_copied(entry, old.map, file) for entry in kept]
            entries.append(_written(first, file))
            entries += [_written(image, file) for image in decoded]
            length = file.tell()
        try:
            self._write_index(pixels, entries)
        except StorageError:
            _remove(pixels)
            raise
        self._remove_others(pixels, known, alone=alone)
        seconds = time.perf_counter() - began
        logger.warning("decoded: %.2f GB in `%s`, %.0f s", length / 1e9, pixels, seconds)
        return DecodedImages(pixels, entries, failures)

    def _decoded(self, files: Mapping[Key, Path], failures: dict[Key, str]) -> Iterator[_Decoded]:
        pairs = list(files.items())
        with ThreadPoolExecutor(self.threads) as pool, _progress(len(pairs)) as advance:
            for start in range(0, len(pairs), _CHUNK):
                chunk = pairs[start : start + _CHUNK]
                for (key, _), result in zip(chunk, pool.map(self._decode, chunk), strict=True):
                    advance()
                    if isinstance(result, DataError):
                        failures[key] = str(result)
                    else:
                        yield result

    def _decode(self, pair: tuple[Key, Path]) -> _Decoded | DataError:
        (absolute, channels), path = pair
        try:
            status = file_of(path).stat()  # before the pixels: a change in between is found later
            picture = from_file(path, channels)
        except DataError as error:
            return error
        except OSError as error:
            return DataError(f"`{path}`: {error.strerror}.")
        forms = _forms(picture.pixels, self.step)
        stored = tuple(
            Stored(load_size, kind, shape, 0, len(content), zlib.crc32(content))
            for load_size, kind, shape, content in forms
        )
        size, mtime, encoding = status.st_size, status.st_mtime_ns, picture.encoding
        kind = encoding.dtype.name
        entry = Entry(absolute, channels, size, mtime, kind, encoding.channels, stored)
        return _Decoded(entry, [content for *_, content in forms])

    def _write_index(self, pixels: Path, entries: Sequence[Entry]) -> None:
        body = {
            "format": FORMAT,
            "decoder": decoder_versions(),
            "first_step": None if self.step is None else asdict(self.step),
            "pixels": pixels.name,
            "entries": entries,
        }
        text = json.dumps(body, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        write_text(self.index, f'{{"sha256":"{digest}",\n"body":{text}}}\n', advice=_ADVICE)

    def _remove_others(self, pixels: Path, known: _Known | None, *, alone: bool) -> None:
        """The pixels that the index named before; if no other process is at it, also the remains of
        those that were killed.
        """
        others = [known.pixels] if known is not None else []
        if alone:
            others += self.folder.glob(f"{self.stem}.*.pixels")
        for other in others:
            if other != pixels:
                _remove(other)
        remove_remains(self.folder)


@dataclass(frozen=True, slots=True)
class _Known:
    """A cache as it was found."""

    pixels: Path
    entries: list[Entry]
    map: npt.NDArray[np.uint8]

    def is_whole(self, entry: Entry) -> bool:
        """Whether the bytes are those that were written."""
        return all(zlib.crc32(content_of(self.map, form)) == form.crc32 for form in entry.stored)

    @property
    def keys(self) -> set[Key]:
        return {entry.key for entry in self.entries}

    def images(self, failures: dict[Key, str]) -> DecodedImages:
        return DecodedImages(self.pixels, self.entries, failures)


def _forms(
    pixels: Pixels, step: FirstStep | None
) -> list[tuple[Sides | None, Kind, tuple[int, ...], bytes]]:
    """What is stored of an image: load size, kind, shape, content."""
    if isinstance(pixels, Image.Image):
        images = {None: pixels} if step is None else step.forms(pixels)
        kind: Kind = "L" if pixels.mode == "L" else "RGB"
        depth = () if kind == "L" else (3,)
        return [
            (load_size, kind, (image.height, image.width, *depth), image.tobytes())
            for load_size, image in images.items()
        ]
    return [(None, pixels.dtype.name, pixels.shape, pixels.tobytes())]


def _written(image: _Decoded, file: BinaryIO) -> Entry:
    """The entry of an image that now stands at the end of the file."""
    stored = []
    for form, content in zip(image.entry.stored, image.contents, strict=True):
        stored.append(form._replace(offset=file.tell()))
        file.write(content)
    return image.entry._replace(stored=tuple(stored))


def _copied(entry: Entry, source: npt.NDArray[np.uint8], file: BinaryIO) -> Entry:
    contents = [bytes(content_of(source, form)) for form in entry.stored]
    return _written(_Decoded(entry, contents), file)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or on a disk that cannot be written
        path.unlink()


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; nothing elsewhere, where one line before and one after must do."""
    if not sys.stderr.isatty() or not total:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("decoding", total=total)
        yield lambda: bar.advance(task)
