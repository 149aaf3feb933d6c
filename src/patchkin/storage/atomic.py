"""Files and folders that appear whole or not at all.

What is kept is written under another name in the same folder, synced to disk, and renamed; then
the folder is synced. Whether a disk is full, a process is killed or the power fails, there is the
old content or the new, and never a part of it. What has the content already is not written again.

The other name is `.patchkin-HOST-PROCESS-RANDOM.part`: no image and no file of a run ends so, no
pattern such as `*.png` or `step_*` finds it, and it is short, whatever the length of the final
name. It is removed when the writing fails; if it cannot be, or the process was killed, by the next
process that writes into the folder.

Where something else than a file has the name, such as a pipe or `/dev/stdout`, it is written to as
it is. A link is followed, and stays.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from patchkin.errors import PatchkinError, StorageError

UNTOUCHED = "What was saved before is untouched."
"""Said of a failed write, unless there is better advice."""
_CHUNK_BYTES = 1 << 20
_MANY_FILES = 64
"""More of them are synced by one call for the whole machine: file by file a set takes minutes."""
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})
"""What file systems answer that know no sync of a folder."""
_DISK_TROUBLE = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO") if hasattr(errno, name)
)
_TEMPORARY = re.compile(r"\.patchkin-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part")


def is_disk_trouble(error: BaseException) -> bool:
    """Whether a write failed for a reason that will stop the next ones too.

    >>> is_disk_trouble(OSError(28, "No space left on device"))
    True
    """
    return isinstance(error, OSError) and error.errno in _DISK_TROUBLE


@contextlib.contextmanager
def storage_errors(path: Path, *, advice: str = UNTOUCHED) -> Iterator[None]:
    """Turns what the operating system says of a write into one line.

    Args:
        path: what is being written.
        advice: the last sentence.

    Raises:
        StorageError: instead of an `OSError`, with its number. Errors of ours pass.

    >>> with storage_errors(Path("runs/x/config.yaml")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    patchkin.errors.StorageError: Cannot write `runs/x/config.yaml`: No space left on device.
    What was saved before is untouched.
    """
    try:
        yield
    except PatchkinError:
        raise
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).split()).rstrip(".")
        raised = StorageError(f"Cannot write `{path}`: {reason}. {advice}")
        raised.errno = error.errno
        raise raised from error


# Files


def write_bytes(
    path: Path, content: bytes, *, synced: bool = True, advice: str = UNTOUCHED
) -> None:
    """Write a file; folders above it are made.

    Args:
        path: of the file.
        content: all of it.
        synced: wait until the disk has it. Not for the files of a `new_folder`, which syncs them.
        advice: as `storage_errors`.

    Raises:
        StorageError: it cannot be written; the old content is still there.
    """
    if path.is_file() and _holds(path, content):
        return
    with new_file(path, synced=synced, advice=advice) as part:
        descriptor = os.open(part, os.O_WRONLY | getattr(os, "O_BINARY", 0))
        try:
            _write_all(descriptor, content)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str, *, advice: str = UNTOUCHED) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode(), advice=advice)


def write_json(path: Path, plain: Any, *, indent: int | None = 1, advice: str = UNTOUCHED) -> None:
    """`write_bytes` of JSON."""
    write_text(path, json.dumps(plain, indent=indent), advice=advice)


@contextlib.contextmanager
def new_file(path: Path, *, synced: bool = True, advice: str = UNTOUCHED) -> Iterator[Path]:
    """For what writes to a path: an empty file, which becomes `path` when the block ends.

    With an error in the block, or later, `path` stays as it was.

    Args:
        path: of the file; folders above it are made.
        synced: as `write_bytes`.
        advice: as `storage_errors`.

    Raises:
        StorageError: an `OSError` in the block or outside.
    """
    with storage_errors(path, advice=advice):
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file() and not target.is_dir():
            yield target
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(target.parent)
        part = target.with_name(_temporary_name())
        try:
            mode = _made(part, like=target)
            yield part
            put_in_place(part, target, mode=mode, synced=synced)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()


@contextlib.contextmanager
def set_apart(path: Path) -> Iterator[Path]:
    """For a library that writes under other names first: a file in a folder of its own, which
    becomes `path` when the block ends. Whatever is in the folder goes with it.

    Args:
        path: of the file; its folder is there.

    Raises:
        OSError: as the operating system says it.
    """
    folder = path.with_name(_temporary_name())
    folder.mkdir()
    try:
        yield folder / path.name
        (folder / path.name).replace(path)
    finally:
        try:
            folder.rmdir()  # as a rule it is empty, and need not be read for that
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)


def put_in_place(part: Path, target: Path, *, mode: int | None = None, synced: bool = True) -> None:
    """Let a finished file have its name, unless what has the name is the same.

    Args:
        part: the file, in the folder of the other.
        target: its name from then on.
        mode: permissions; None leaves those that it has.
        synced: as `write_bytes`.

    Raises:
        OSError: as the operating system says it; see `storage_errors`.
    """
    if _same(part, target):
        part.unlink()
        return
    if synced:
        _sync_file(part)
    if mode is not None:
        part.chmod(mode)  # now, since a file that may not be written cannot be synced everywhere
    part.replace(target)
    if synced:
        sync_folder(target.parent)


def append_line(path: Path, line: str, *, synced: bool = True) -> None:
    """Add a line to a file, which is made if it is not there.

    The file has whole lines afterwards, also after an error, and also if an earlier process was
    killed within a line.

    Args:
        path: of the file.
        line: without its end.
        synced: as `write_bytes`.

    Raises:
        StorageError: it cannot be written.
    """
    with storage_errors(path):
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o666)
        try:
            length = os.lseek(descriptor, 0, os.SEEK_END)
            torn = b"\n" if length and not _ends_with_newline(descriptor, length) else b""
            try:
                _write_all(descriptor, torn + line.encode() + b"\n")
                if synced:
                    os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, length)
                raise
        finally:
            os.close(descriptor)


# Folders


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False, advice: str = UNTOUCHED) -> Iterator[Path]:
    """A folder to fill, which becomes `path`, with all that is in it, when the block ends.

    Args:
        path: of the folder; folders above it are made.
        replace: whether a folder that has the name gives way to it.
        advice: as `storage_errors`.

    Raises:
        StorageError: an `OSError` in the block or outside; or the name is taken. What cannot be
            written inside is told of the folder, whose other name nobody knows.
    """
    with storage_errors(path, advice=advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_remains(path.parent)
        unfinished = path.with_name(_temporary_name())
        unfinished.mkdir()
        try:
            try:
                yield unfinished
            except StorageError as error:
                if isinstance(error.__cause__, OSError):
                    raise error.__cause__ from None
                raise
            sync_tree(unfinished)
            if replace and path.exists():
                _exchange(unfinished, path)
            else:
                unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Wait until the disk has a folder and all that is in it.

    Raises:
        OSError: as the operating system says it.
    """
    entries = list(folder.rglob("*"))
    files = [entry for entry in entries if entry.is_file() and not entry.is_symlink()]
    if len(files) > _MANY_FILES and sys.platform == "linux":
        os.sync()
        return
    for file in files:
        _sync_file(file)
    for inner in [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]:
        sync_folder(inner)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where an operating system can do that.

    Raises:
        OSError: the disk failed.
    """
    if os.name == "nt":  # a folder cannot be opened there; renaming is journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder, whole or not at all as far as its name is concerned; if that can be done."""
    unnamed = folder.with_name(_temporary_name())
    try:
        folder.rename(unnamed)
    except OSError:
        unnamed = folder
    shutil.rmtree(unnamed, ignore_errors=True)


def remove_remains(folder: Path) -> None:
    """Remove what processes of this machine that are no more left unfinished in a folder."""
    with contextlib.suppress(OSError):
        for entry in list(folder.iterdir()):
            match = _TEMPORARY.fullmatch(entry.name)
            if match is None or match[1] != _host() or _is_alive(int(match[2])):
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


_swept: set[Path] = set()
"""Folders that this process has looked through."""


def _sweep_once(folder: Path) -> None:
    """`remove_remains`, before the first file that this process writes into a folder."""
    if folder not in _swept:
        _swept.add(folder)
        remove_remains(folder)


def _exchange(unfinished: Path, path: Path) -> None:
    replaced = path.with_name(_temporary_name())
    path.rename(replaced)
    try:
        unfinished.rename(path)
    except BaseException:
        replaced.rename(path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _temporary_name() -> str:
    return f".patchkin-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part"


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    """Whether a process of this machine may still be at work."""
    if os.name == "nt":  # where signal 0 is no question but Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _made(part: Path, *, like: Path) -> int:
    """An empty file; returns the permissions that it should end with."""
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        mode = os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
    return like.stat().st_mode & 0o777 if like.is_file() else mode


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)  # Windows syncs only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ends_with_newline(descriptor: int, length: int) -> bool:
    os.lseek(descriptor, length - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


def _same(a: Path, b: Path) -> bool:
    """Whether two files are equal; what cannot be read equals nothing."""
    try:
        if a.stat().st_size != b.stat().st_size:
            return False
        with a.open("rb") as one, b.open("rb") as other:
            while block := one.read(_CHUNK_BYTES):
                if block != other.read(_CHUNK_BYTES):
                    return False
    except OSError:
        return False
    return True
