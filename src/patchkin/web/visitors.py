"""What each visitor has made: a folder of files, gone when the visitor is."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE_SECONDS = 60.0
"""With a job that was cancelled."""


class Visitor:
    """One open page, or one call of the interface."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cancelled = threading.Event()
        self._number = 0
        self._busy = threading.Lock()

    def begin(self) -> None:
        """What is asked from here on is wanted."""
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """What was asked until now is not wanted any more."""
        self._cancelled.set()

    @property
    def wish(self) -> threading.Event:
        """Set once what was asked last is cancelled."""
        return self._cancelled

    @contextmanager
    def working(self) -> Iterator[None]:
        """One job at a time writes into the folder."""
        with self._busy:
            yield

    def remove(self) -> None:
        """All files, once nothing is written any more."""
        acquired = self._busy.acquire(timeout=_PATIENCE_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)
        if acquired:
            self._busy.release()

    def new_folder(self) -> Path:
        """An empty one; those before the last are removed, as the page shows one job."""
        self._number += 1
        folder = self.folder / str(self._number)
        folder.mkdir(parents=True)
        shutil.rmtree(self.folder / str(self._number - 2), ignore_errors=True)
        return folder


class Visitors:
    """By what the page calls its sessions; several threads may ask."""

    def __init__(self, root: Path) -> None:
        """Below an empty folder."""
        self.root = root
        self._here: dict[str, Visitor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._here)

    def of(self, session: str | None) -> Visitor:
        """The visitor of a session. Its name comes from outside and is in no path."""
        name = hashlib.sha256((session or "").encode()).hexdigest()[:24]
        with self._lock:
            visitor = self._here.get(name)
            if visitor is None:
                visitor = self._here[name] = Visitor(self.root / name)
            return visitor

    def forget(self, session: str | None) -> None:
        """The page was closed: stop what it asked for and remove what it made."""
        name = hashlib.sha256((session or "").encode()).hexdigest()[:24]
        with self._lock:
            visitor = self._here.pop(name, None)
        if visitor is not None:
            visitor.cancel()
            visitor.remove()


@contextmanager
def own_room() -> Iterator[Path]:
    """A folder for all of a server, removed at its end."""
    with tempfile.TemporaryDirectory(prefix="patchkin-demo-") as folder:
        yield Path(folder).resolve()
