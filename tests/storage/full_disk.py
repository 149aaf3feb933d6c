"""The command line, on a disk that is full at the sync that `FULL_AT` says, in the first process.

A file, because processes of a run start it again.
"""

from __future__ import annotations

import errno
import os
import sys

from patchkin.cli import main

_sync, _calls = os.fsync, []


def fsync(descriptor: int) -> None:
    """Fail at one of the calls."""
    _calls.append(descriptor)
    if len(_calls) == int(os.environ["FULL_AT"]) and os.environ.get("LOCAL_RANK", "0") == "0":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _sync(descriptor)


if __name__ == "__main__":
    os.fsync = fsync
    sys.exit(main())
