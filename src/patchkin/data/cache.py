"""Decoded images in one file: each is decoded once, and every process maps the file into memory.

    SET-KEY.json              the index: of each image its file's size and time of change, and where
                              its pixels lie, in what form, with which checksum
    SET-KEY.XXXXXXXX.pixels   their bytes, one image after another

KEY stands for the folder of the set and for the first step of a view. Pixels come out as
`images.read_image` gives them, so that views do not depend on the cache: 8 bits as uint8, 16 bits
as uint16, float as float32. A Pillow image much larger than its views is stored as the first step
leaves it, once for each size that the run loads.

Both files are written under another name and renamed, the index last. One process builds while
others wait; where files cannot be locked, several may build, and the last index holds. An index
never names pixels that are not there in full: those of an earlier index are removed after it, and
a process that has mapped them goes on reading them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image, features

from patchkin.data.config import AUTO, DataConfig
from patchkin.data.folders import cache_folder
from patchkin.data.layouts import TOY
from patchkin.data.transforms import loaded_size, resized
from patchkin.data.verify import Broken, default_threads
from patchkin.errors import DataError, StorageError
from patchkin.images import Encoding, Picture, Pixels, read_image

FORMAT = 1
"""Goes up when files of this format can no longer be read, or pixels are decoded otherwise."""
_CHUNK = 64  # images in flight while a cache is made
_ATTEMPTS = 3  # another process may replace index and pixels between two readings

Kind = Literal["L", "RGB", "uint8", "uint16", "float32"]
Key = tuple[str, int]
logger = logging.getLogger(__name__)


class ReadImage(Protocol):
    """How training gets the pixels of a file."""

    def __call__(self, path: Path, channels: int, load_size: int | None = None) -> Picture:
        """The picture, perhaps already as the first step of a view leaves it at `load_size`."""
        ...


def from_file(path: Path, channels: int, load_size: int | None = None) -> Picture:
    """The file, decoded now."""
    return read_image(path, channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstStep:
    """The step of `transforms.view` that draws nothing, and may be taken before storing.

    >>> step = FirstStep(preprocess="resize_and_crop", crop_size=64, load_sizes=(72, 64))
    >>> sorted(step.forms(Image.new("L", (640, 480))))
    [64, 72]
    >>> list(step.forms(Image.new("L", (80, 80))))
    [None]
    """

    preprocess: str
    crop_size: int
    load_sizes: tuple[int, ...]
    """All that the run will ask for."""
    side_by_side: bool = False
    """Whether a picture is two, left and right, that are resized apart."""

    def forms(self, image: Image.Image) -> dict[int | None, Image.Image]:
        """What to store, by load size: the results if they are smaller, else the image itself."""
        width, height = image.size
        parts = [(0, width)]
        if self.side_by_side:
            parts = [(0, width // 2), (width - width // 2, width)]
        right = parts[0][1]
        if right == 0:
            return {None: image}
        sizes = {
            load_size: loaded_size(
                (right, height),
                preprocess=self.preprocess,
                load_size=load_size,
                crop_size=self.crop_size,
            )
            for load_size in self.load_sizes
        }
        if len(parts) * sum(w * h for w, h in sizes.values()) >= width * height:
            return {None: image}
        return {size: self._resized(image, parts, *sizes[size]) for size in sizes}

    @staticmethod
    def _resized(
        image: Image.Image, parts: list[tuple[int, int]], width: int, height: int
    ) -> Image.Image:
        result = Image.new(image.mode, (len(parts) * width, height))
        for place, (left, right) in enumerate(parts):
            part = resized(image.crop((left, 0, right, image.height)), width, height)
            assert isinstance(part, Image.Image)
            result.paste(part, (place * width, 0))
        return result


class Stored(NamedTuple):
    """One form of an image in the file of pixels."""

    load_size: int | None
    """None: not resized."""
    kind: Kind
    """Mode of a Pillow image, or type of a tensor."""
    shape: tuple[int, ...]
    """HW or HWC of a Pillow image, CHW of a tensor."""
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
    bits: Literal[8, 16, 32]
    """Of the file, as in `Encoding`."""
    file_channels: int
    stored: tuple[Stored, ...]

    @property
    def key(self) -> Key:
        """What it is looked up by."""
        return self.path, self.channels


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

    def __call__(self, path: Path, channels: int, load_size: int | None = None) -> Picture:
        """See `ReadImage`.

        Raises:
            DataError: the file is not in the cache and cannot be used.
        """
        entry = self._entries.get(_key(path, channels))
        stored = {} if entry is None else {form.load_size: form for form in entry.stored}
        form = stored.get(load_size, stored.get(None))
        if entry is None or form is None or not self._mapped():
            return read_image(path, channels)
        return self._picture(path, entry, form)

    def check(self, path: Path, channels: int | None) -> Picture:
        """Whichever form of an image there is.

        Raises:
            DataError: the file could not be decoded when the cache was opened.
        """
        assert channels is not None
        key = _key(path, channels)
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
        content = _content(self._map, form)
        pixels: Pixels
        if form.kind in ("L", "RGB"):
            height, width = form.shape[:2]
            pixels = Image.frombytes(form.kind, (width, height), content)
        else:
            array = np.frombuffer(content, form.kind).reshape(form.shape).copy()
            pixels = torch.from_numpy(array)
        return Picture(pixels, Encoding(entry.bits, entry.file_channels), str(path))


def open_cache(
    config: DataConfig,
    wanted: Sequence[tuple[Path, int]],
    *,
    left_out: Collection[Broken] = (),
    takes_first_step: bool = True,
    side_by_side: bool = False,
    threads: int | None = None,
) -> DecodedImages | None:
    """The decoded images of a set, or None if `config` asks for no cache.

    Those that are missing, changed or damaged are decoded first.

    Args:
        config: of the data.
        wanted: files, each with the number of channels that it will be read with.
        left_out: files of these that are known to be broken.
        takes_first_step: whether `load_size` and `preprocess` make the views.
        side_by_side: whether the halves of a picture become views.
        threads: for decoding.

    Raises:
        StorageError: the cache cannot be read or written.
    """
    without = {entry.path for entry in left_out}
    wanted = [(path, channels) for path, channels in wanted if path not in without]
    if config.cache is None or not wanted:
        return None
    folder = cache_folder() / "decoded" if config.cache == AUTO else Path(config.cache)
    step = _first_step(config, side_by_side=side_by_side) if takes_first_step else None
    where = [config.root] if config.source is None else sorted([config.source, str(config.target)])
    if where == [TOY]:
        where = [str(wanted[0][0].parent.parent)]
    where = [str(Path(place).absolute()) for place in where]
    settings = {"set": where, "first_step": None if step is None else asdict(step)}
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    name = re.sub(r"[^\w.-]", "_", Path(where[0]).name) or "images"
    store = _Store(folder.expanduser(), f"{name}-{digest[:12]}", step, threads or default_threads())
    return store.open(wanted)


def _first_step(config: DataConfig, *, side_by_side: bool) -> FirstStep | None:
    steps = config.preprocess.split("_and_")
    if "resize" not in steps and "scale_width" not in steps:
        return None
    load_sizes = [config.resolved_load_size]
    if not config.jitter_in_decay:
        load_sizes.append(config.size)
    return FirstStep(
        preprocess=config.preprocess,
        crop_size=config.size,
        load_sizes=tuple(dict.fromkeys(load_sizes)),
        side_by_side=side_by_side,
    )


def _key(path: Path, channels: int) -> Key:
    return os.path.abspath(path), channels  # noqa: PTH100 - pathlib takes ten times as long


def _decoder() -> str:
    """What pixels depend on besides their file: lossy formats differ between versions."""
    known = {*features.modules, *features.codecs, *features.features}
    lossy = [name for name in ("jpg", "libjpeg_turbo", "webp", "avif", "jpg_2000") if name in known]
    versions = ", ".join(f"{name} {features.version(name)}" for name in lossy)
    return f"Pillow {PIL.__version__} with {versions}"


# Making one


class _Decoded(NamedTuple):
    """An image on its way into the file; offsets are not known yet."""

    entry: Entry
    contents: list[bytes]


class _UnusableError(Exception):
    """The index or the file of pixels is not what was written here; says what it is."""


class _Store:
    """The files of one cache."""

    def __init__(self, folder: Path, stem: str, step: FirstStep | None, threads: int) -> None:
        self.folder = folder
        self.stem = stem
        self.step = step
        self.threads = threads
        self.index = folder / f"{stem}.json"

    def open(self, wanted: Sequence[tuple[Path, int]]) -> DecodedImages:
        files = {_key(path, channels): path for path, channels in wanted}
        known, _ = self._valid(files)
        if known is not None and known.keys.issuperset(files):
            return known.images({})
        with self._locked() as alone:
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
        except _UnusableError as reason:
            return None, f"`{self.index}` {reason}."
        if known is None:
            return None, ""
        with ThreadPoolExecutor(self.threads) as pool:
            unchanged = [entry for entry in known.entries if _is_unchanged(entry)]
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
                body = _index_body(self.index.read_bytes())
            except FileNotFoundError:
                return None
            except OSError as error:
                raise self._storage_error("read", self.index, error) from error
            pixels = self.folder / str(body["pixels"])
            try:
                mapped = np.memmap(pixels, np.uint8, mode="r")
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:  # an empty file cannot be mapped
                raise _UnusableError(
                    f"names `{pixels.name}`, which cannot be read: {error}"
                ) from error
            return _Known(pixels, [_entry(row) for row in body["entries"]], mapped)
        raise _UnusableError("names pixels that are not there")

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
        part = self.folder / f".{self.stem}.{token}.part"
        try:
            with part.open("wb") as file:
                kept = filter(old.is_whole, old.entries)
                entries = [_copied(entry, old.map, file) for entry in kept]
                entries.append(_written(first, file))
                entries += [_written(image, file) for image in decoded]
                length = file.tell()
                _synced(file)
            part.replace(pixels)
            self._write_index(pixels, entries)
        except OSError as error:
            _remove(pixels)
            raise self._storage_error("write", pixels, error) from error
        finally:
            _remove(part)
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
            status = path.stat()  # before the pixels: a change in between is found later
            picture = read_image(path, channels)
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
        entry = Entry(absolute, channels, size, mtime, encoding.bits, encoding.channels, stored)
        return _Decoded(entry, [content for *_, content in forms])

    def _write_index(self, pixels: Path, entries: Sequence[Entry]) -> None:
        body = {
            "format": FORMAT,
            "decoder": _decoder(),
            "first_step": None if self.step is None else asdict(self.step),
            "pixels": pixels.name,
            "entries": entries,
        }
        text = json.dumps(body, separators=(",", ":"))
        part = self.folder / f".{self.stem}.{secrets.token_hex(4)}.part"
        try:
            with part.open("wb") as file:
                digest = hashlib.sha256(text.encode()).hexdigest()
                file.write(f'{{"sha256":"{digest}",\n"body":{text}}}\n'.encode())
                _synced(file)
            part.replace(self.index)
        finally:
            _remove(part)

    def _remove_others(self, pixels: Path, known: _Known | None, *, alone: bool) -> None:
        """The pixels that the index named before; if no other process is at it, also the remains of
        those that were killed.
        """
        others = [known.pixels] if known is not None else []
        if alone:
            others += self.folder.glob(f"{self.stem}.*.pixels")
            others += self.folder.glob(f".{self.stem}.*.part")
        for other in others:
            if other != pixels:
                _remove(other)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Waits for other processes of this machine; whether it is certain that there is none."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / f"{self.stem}.lock").open("wb")
        except OSError:
            yield False  # the attempt to write says what is wrong
            return
        with file:
            yield _lock(file)  # given back when the file is closed, or the process dies

    def _storage_error(self, verb: str, path: Path, error: OSError) -> StorageError:
        return StorageError(
            f"Cannot {verb} `{path}`: {error.strerror or error}. Choose another folder for decoded "
            "images with `--cache DIR`, or train without."
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """A cache as it was found."""

    pixels: Path
    entries: list[Entry]
    map: npt.NDArray[np.uint8]

    def is_whole(self, entry: Entry) -> bool:
        """Whether the bytes are those that were written."""
        return all(zlib.crc32(_content(self.map, form)) == form.crc32 for form in entry.stored)

    @property
    def keys(self) -> set[Key]:
        return {entry.key for entry in self.entries}

    def images(self, failures: dict[Key, str]) -> DecodedImages:
        return DecodedImages(self.pixels, self.entries, failures)


def _entry(row: list[Any]) -> Entry:
    """Of JSON."""
    *rest, stored = row
    return Entry._make([*rest, tuple(Stored._make(form) for form in stored)])


def _content(pixels: npt.NDArray[np.uint8], form: Stored) -> memoryview:
    return pixels.data[form.offset : form.offset + form.length]


def _is_unchanged(entry: Entry) -> bool:
    try:
        status = Path(entry.path).stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (entry.file_size, entry.mtime_ns)


def _index_body(content: bytes) -> dict[str, Any]:
    """What `_write_index` wrote.

    Raises:
        _UnusableError: it was changed since, or other code than this made it.
    """
    try:
        index = json.loads(content)
        body, digest = index["body"], index["sha256"]
        text = json.dumps(body, separators=(",", ":"))
        kind, decoder = body["format"], body["decoder"]
    except (ValueError, KeyError, TypeError) as error:
        raise _UnusableError("is damaged") from error
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise _UnusableError("is damaged")
    if kind != FORMAT:
        raise _UnusableError(f"has format {kind}, not {FORMAT}")
    if decoder != _decoder():
        raise _UnusableError(f"was made by {decoder}; here is {_decoder()}")
    return dict(body)


def _forms(
    pixels: Pixels, step: FirstStep | None
) -> list[tuple[int | None, Kind, tuple[int, ...], bytes]]:
    """What is stored of an image: load size, kind, shape, content."""
    if isinstance(pixels, Image.Image):
        images = {None: pixels} if step is None else step.forms(pixels)
        kind: Kind = "L" if pixels.mode == "L" else "RGB"
        depth = () if kind == "L" else (3,)
        return [
            (load_size, kind, (image.height, image.width, *depth), image.tobytes())
            for load_size, image in images.items()
        ]
    array = pixels.contiguous().numpy()
    kinds: dict[str, Kind] = {"uint8": "uint8", "uint16": "uint16", "float32": "float32"}
    return [(None, kinds[array.dtype.name], array.shape, array.tobytes())]


def _written(image: _Decoded, file: BinaryIO) -> Entry:
    """The entry of an image that now stands at the end of the file."""
    stored = []
    for form, content in zip(image.entry.stored, image.contents, strict=True):
        stored.append(form._replace(offset=file.tell()))
        file.write(content)
    return image.entry._replace(stored=tuple(stored))


def _copied(entry: Entry, source: npt.NDArray[np.uint8], file: BinaryIO) -> Entry:
    contents = [bytes(_content(source, form)) for form in entry.stored]
    return _written(_Decoded(entry, contents), file)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or on a disk that cannot be written
        path.unlink()


def _synced(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _lock(file: BinaryIO) -> bool:
    """Whether the file could be locked; waits for whoever has it."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # some network file systems cannot
        return False
    return True


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
