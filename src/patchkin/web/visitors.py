"""What each visitor has made: a folder of files, gone when the visitor is."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE_SECONDS = 60.0
"""With a job that was cancelled."""
IDLE_SECONDS = 3600.0
"""Of a page that was not used, until its files are removed; as long as uploads are kept."""
IDLE_CALL_SECONDS = 120.0
"""Of a program, which has its file once it is answered."""
_HALF_UPLOAD_SECONDS = 600.0


class Visitor:
    """One open page, or one call of the interface."""

    def __init__(self, session: str, folder: Path) -> None:
        self.session, self.folder = session, folder
        self.patience_seconds = IDLE_SECONDS
        self.seen = time.monotonic()
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

    @property
    def is_idle(self) -> bool:
        """Whether nothing was asked for so long that nobody is expected any more."""
        waited = time.monotonic() - self.seen
        return waited > self.patience_seconds and not self._busy.locked()

    @contextmanager
    def working(self) -> Iterator[None]:
        """One job at a time writes into the folder."""
        with self._busy:
            yield
        self.seen = time.monotonic()

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
        self._when_forgotten: list[Callable[[str], None]] = []
        self._lock = threading.Lock()

    @property
    def uploads(self) -> Path:
        """The folder of what is sent."""
        return self.root / "uploads"

    def __len__(self) -> int:
        return len(self._here)

    def of(self, session: str | None) -> Visitor:
        """The visitor of a session. Its name comes from outside and is in no path."""
        name = hashlib.sha256((session or "").encode()).hexdigest()[:24]
        with self._lock:
            visitor = self._here.get(name)
            if visitor is None:
                folder = self.root / f"{name}-{secrets.token_hex(4)}"  # none that is being removed
                visitor = self._here[name] = Visitor(session or "", folder)
            visitor.seen = time.monotonic()
            return visitor

    def when_forgotten(self, tell: Callable[[str], None]) -> None:
        """Have somebody told of every session that ends."""
        self._when_forgotten.append(tell)

    def forget(self, session: str | None) -> None:
        """The page was closed: stop what it asked for and remove what it made."""
        name = hashlib.sha256((session or "").encode()).hexdigest()[:24]
        with self._lock:
            visitor = self._here.pop(name, None)
        if visitor is not None:
            visitor.cancel()
            visitor.remove()
        for tell in self._when_forgotten:
            tell(session or "")

    def tidy(self) -> None:
        """Forget who did not come back, and remove uploads that ended in the middle."""
        with self._lock:
            idle = [visitor.session for visitor in self._here.values() if visitor.is_idle]
        for session in idle:
            self.forget(session)
        for part in self.uploads.glob("tmp*"):
            with contextlib.suppress(OSError):
                if part.is_file() and time.time() - part.stat().st_mtime > _HALF_UPLOAD_SECONDS:
                    part.unlink()

    @contextmanager
    def tidied(self, every_seconds: float = 30.0) -> Iterator[None]:
        """Inside, that is done now and then."""
        ended = threading.Event()

        def tidy() -> None:
            while not ended.wait(every_seconds):
                self.tidy()

        thread = threading.Thread(target=tidy, name="tidying", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def own_room() -> Iterator[Path]:
    """A folder for all of a server, removed at its end."""
    with tempfile.TemporaryDirectory(prefix="patchkin-demo-") as folder:
        yield Path(folder).resolve()
