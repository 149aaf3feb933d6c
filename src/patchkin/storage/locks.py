"""One writer at a time: of a run folder, of a download, of a cache.

    FOLDER/.lock, .NAME.lock          held while a folder, or what is called NAME, is written
    FOLDER/.lock.owner                who holds it: process, machine, since when

The lock is the operating system's (`filelock`): with the process that holds it, however that ends,
it is free. Both files are removed when it is given back; those of a process that was killed are
taken over by the next.

Where a file system has no locks this is said once, and the work goes on without.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from patchkin.errors import InUseError
from patchkin.storage.atomic import remove_remains, storage_errors
from patchkin.storage.strict_json import parsed

_NO_LOCKS = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}
)
"""What file systems answer that know no locks."""
_LONGEST_NAME = 200
"""In bytes; longer ones are replaced by a hash, because `.lock.owner` comes after them."""
logger = logging.getLogger(__name__)


class FolderLock:
    """The right to write into a folder, of one process.

    As a context manager it is taken if the folder is there, and given back at the end.

    Args:
        folder: which others may be writing.
        remedy: what to do then; the last words of the error.
    """

    def __init__(self, folder: Path, *, remedy: str = "choose another folder") -> None:
        self._folder = folder
        self._remedy = remedy
        self._lock: _Lock | None = None

    def acquire(self) -> None:
        """Take the lock, unless it has been taken. What was left unfinished there is removed.

        Raises:
            InUseError: another process has it.
            StorageError: the folder cannot be written.
        """
        if self._lock is not None:
            return
        lock = _Lock(self._folder / ".lock")
        with storage_errors(lock.path):
            taken = lock.taken()
        if not taken:
            raise InUseError(
                f"`{self._folder}` is in use: {lock.owner()} writes there. Wait until it is done, "
                f"end it, or {self._remedy}."
            )
        self._lock = lock
        with contextlib.suppress(OSError):
            for place in (self._folder, *filter(Path.is_dir, self._folder.iterdir())):
                remove_remains(place)

    def acquire_if_there(self) -> None:
        """`acquire`, unless the folder has still to be made.

        Raises:
            InUseError, StorageError: as `acquire`.
        """
        if self._folder.is_dir():
            self.acquire()

    def release(self) -> None:
        """Give the lock back, if it was taken."""
        if self._lock is not None:
            self._lock.give_back()
            self._lock = None

    def __enter__(self) -> FolderLock:
        self.acquire_if_there()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


@contextlib.contextmanager
def alone_at(path: Path, doing: str) -> Iterator[bool]:
    """Wait until no other process writes a file or a folder, then keep others waiting.

    Args:
        path: what is written; the lock lies beside it.
        doing: what the others are then told, such as "downloads set.zip".

    Returns:
        Whether it is certain that no other process does the same. Not if there are no locks, or
        none can be made; a write that cannot be done says why.
    """
    lock = _Lock(lock_file(path))
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not lock.taken():
            logger.warning("waiting for %s, which %s", lock.owner(), doing)
            lock.wait()
    try:
        yield lock.is_held
    finally:
        lock.give_back()


def lock_file(path: Path) -> Path:
    """Where the lock of a file or folder lies.

    >>> lock_file(Path("datasets/set.zip")).as_posix()
    'datasets/.set.zip.lock'
    """
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.with_name(f".{name}.lock")


class _Lock:
    """A lock of the operating system, and the file that says who has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_held = False
        """Not where it was taken without there being locks."""
        self._lock = FileLock(path, thread_local=False, fallback_to_soft=False)

    @property
    def _owner(self) -> Path:
        return self.path.with_name(f"{self.path.name}.owner")

    def taken(self) -> bool:
        """Take it now; False if another process, or another part of this one, has it.

        Raises:
            OSError: its file cannot be made.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except NotImplementedError as error:
            self._do_without(str(error))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._do_without(error.strerror or str(error))
        else:
            self._sign()
        return True  # also where there are no locks

    def wait(self) -> None:
        """Take it as soon as it is free."""
        self._lock.acquire(poll_interval=0.1)
        self._sign()

    def give_back(self) -> None:
        """Let others have it. Its files are removed first: who has opened them looks again."""
        if not self.is_held:
            return
        self.is_held = False
        _held.discard(self)
        for file in (self._owner, self.path):
            with contextlib.suppress(OSError):  # Windows does not remove what is open
                file.unlink()
        self._lock.release()

    def owner(self) -> str:
        """Who has it, as far as that is known."""
        try:
            known = parsed(self._owner.read_text(encoding="utf-8"))
            return f"process {known['process']} on {known['machine']} (since {known['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _sign(self) -> None:
        self.is_held = True
        _held.add(self)
        known = {
            "process": os.getpid(),
            "machine": socket.gethostname(),
            "since": datetime.datetime.now().isoformat(" ", "seconds"),
        }
        with contextlib.suppress(OSError):  # it is the lock that counts
            self._owner.write_text(json.dumps(known), encoding="utf-8")

    def _do_without(self, reason: str) -> None:
        folder = str(self.path.parent)
        if folder not in _told:
            _told.add(folder)
            logger.warning(
                "`%s` is on a file system without locks (%s): see to it that no two processes "
                "write there at once.",
                folder,
                reason.rstrip("."),
            )


_told: set[str] = set()
"""Folders of which it has been said that there are no locks."""
_held: set[_Lock] = set()
"""Those of this process."""


def give_all_back() -> None:
    """Let others have every lock of this process, which is about to end without ado."""
    for lock in list(_held):
        lock.give_back()
