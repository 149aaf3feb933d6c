"""Unpacking what others packed: nothing lands outside, nothing is larger than allowed.

Sizes are those that an archive declares, which neither kind can exceed: a reader stops there.
"""

from __future__ import annotations

import gzip
import lzma
import secrets
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchkin.errors import DownloadError
from patchkin.storage.atomic import new_folder

SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar")
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, ValueError, NotImplementedError, RuntimeError),
    *(LookupError, ArithmeticError, TypeError, AttributeError, struct.error),  # of odd headers
)
_MOST_SECONDS = 1 << 32
"""Since 1970, of the change of a file; others, and what is no number, the system may refuse."""
_ENCRYPTED = 0x1
"""Bit of a zip entry's flags."""
_SPLITS = ("train", "test", "val", "trainA", "trainB")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an archive may unpack to. The largest public set of the field has 20 GB, 200,000 files.

    >>> Limits(most_bytes=10).add(11)
    Traceback (most recent call last):
    ValueError: it unpacks to more than 10 bytes
    """

    most_bytes: int = 256 * 2**30
    most_files: int = 2_000_000

    def add(self, size: int, *, total: int = 0, files: int = 0) -> tuple[int, int]:
        """Bytes and files so far, with one file more.

        Raises:
            ValueError: too many of either.
        """
        if size < 0:  # or it would make room for others
            raise ValueError("an entry has a size below zero")
        total, files = total + size, files + 1
        if total > self.most_bytes:
            raise ValueError(f"it unpacks to more than {self.most_bytes:,} bytes")
        if files > self.most_files:
            raise ValueError(f"it holds more than {self.most_files:,} files")
        return total, files


def extract_archive(
    archive: Path,
    root: Path,
    *,
    limits: Limits = Limits(),
    before: Callable[[], None] = lambda: None,
) -> None:
    """Unpack a .zip or .tar into `root`, which appears whole or not at all.

    If everything is in one folder, `root` becomes that folder. Entries that would land outside,
    links and devices are refused, as are encrypted entries.

    Args:
        archive: the file.
        root: the folder.
        limits: of what it unpacks to; checked before anything is written.
        before: called when all is unpacked, just before `root` appears.

    Raises:
        DownloadError: if the archive is damaged, of an unknown kind, encrypted, too large, or
            unsafe.
        StorageError: if the files cannot be written.
    """
    if not archive.name.lower().endswith(SUFFIXES):
        raise DownloadError(f"`{archive}` is no archive ({', '.join(SUFFIXES)}).")
    with new_folder(root) as unfinished:
        extract = _extract_zip if archive.name.lower().endswith(".zip") else _extract_tar
        with _told(archive):
            if not extract(archive, unfinished, limits):
                raise ValueError("it holds no file")  # zeros are a tar without any
        shutil.rmtree(unfinished / "__MACOSX", ignore_errors=True)
        entries = list(unfinished.iterdir())
        if len(entries) == 1 and entries[0].is_dir() and entries[0].name not in _SPLITS:
            _dissolve(entries[0])
        before()


@contextmanager
def _told(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        reason = " ".join((str(error) or type(error).__name__).split()).rstrip(".")
        raise DownloadError(f"`{archive}` cannot be unpacked: {reason}.") from error
    except OSError as error:
        if error.errno is not None:  # of the disk; a damaged bzip2 stream has no number
            raise
        raise DownloadError(f"`{archive}` cannot be unpacked: {error}.") from error


def _dissolve(folder: Path) -> None:
    """Put what is in a folder, alone in another, into that other."""
    unnamed = folder.rename(folder.with_name(f".{secrets.token_hex(8)}"))
    for entry in list(unnamed.iterdir()):
        entry.rename(unnamed.parent / entry.name)
    unnamed.rmdir()


def _check_inside(name: str, folder: Path, archive: Path) -> None:
    landing = (folder / name.replace("\\", "/")).resolve()
    if not landing.is_relative_to(folder.resolve()):
        raise DownloadError(f"`{archive}` is unsafe: its entry `{name}` would land outside.")


def _extract_zip(archive: Path, folder: Path, limits: Limits) -> int:
    """Returns the number of entries."""
    with zipfile.ZipFile(archive) as file:
        total = files = 0
        for entry in file.infolist():
            _check_inside(entry.filename, folder, archive)
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise DownloadError(f"`{archive}` is unsafe: `{entry.filename}` is a link.")
            if entry.flag_bits & _ENCRYPTED:
                raise ValueError(f"`{entry.filename}` is encrypted; unpack it by hand")
            total, files = limits.add(entry.file_size, total=total, files=files)
        file.extractall(folder)
    return files


def _extract_tar(archive: Path, folder: Path, limits: Limits) -> int:
    """Returns the number of entries."""
    with tarfile.open(archive) as file:
        total = files = 0
        for entry in file:
            _check_inside(entry.name, folder, archive)
            if not (entry.isfile() or entry.isdir()):
                raise DownloadError(f"`{archive}` is unsafe: `{entry.name}` is a link or device.")
            total, files = limits.add(entry.size, total=total, files=files)
            entry.mtime = 0.0 if not 0 <= entry.mtime < _MOST_SECONDS else entry.mtime
        if hasattr(tarfile, "data_filter"):
            file.extractall(folder, filter="data")
        else:  # Python 3.10 before .12; the checks above are what the filter does
            file.extractall(folder)
    return files
