"""The command line, on a disk that is full when the first process keeps what is called `FULL_AT`.

That is a file or a folder that gets this name, or a file of this name that is synced.

A file, because processes of a run start it again.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

from patchkin.cli import main

_replace, _rename, _sync = os.replace, os.rename, os.fsync


def _check(path: Any) -> None:
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if first and Path(os.fsdecode(path)).name == os.environ["FULL_AT"]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def replace(source: Any, target: Any, **others: Any) -> None:
    """Fail for the name."""
    _check(target)
    _replace(source, target, **others)


def rename(source: Any, target: Any, **others: Any) -> None:
    """Fail for the name."""
    _check(target)
    _rename(source, target, **others)


def fsync(descriptor: int) -> None:
    """Fail for the name."""
    _check(Path(f"/proc/self/fd/{descriptor}").readlink())
    _sync(descriptor)


if __name__ == "__main__":
    os.replace, os.rename, os.fsync = replace, rename, fsync
    sys.exit(main())
