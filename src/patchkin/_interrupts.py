"""Ctrl-C while libraries are imported, which takes seconds and has nothing to save yet.

Some of them answer it with errors of their own, or go on. So it ends the process on the spot, until
a verb is at work and `KeyboardInterrupt` is what it expects.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Handler: TypeAlias = Callable[[int, FrameType | None], object]


def leave_at_once() -> None:
    """From now on Ctrl-C ends this process, unless it is ignored or somebody handles it."""
    _change(signal.default_int_handler, _leave)


def raise_again() -> None:
    """From now on Ctrl-C raises `KeyboardInterrupt`, as before `leave_at_once`."""
    _change(_leave, signal.default_int_handler)


def is_left_at_once() -> bool:
    """Whether `leave_at_once` was the last to be called."""
    return signal.getsignal(signal.SIGINT) is _leave


def _change(former: Handler, handler: Handler) -> None:
    if signal.getsignal(signal.SIGINT) is former:
        with contextlib.suppress(ValueError):  # only the main thread of a program may
            signal.signal(signal.SIGINT, handler)


def _leave(*_: object) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one says it
        os.write(2, b"patchkin: interrupted\n")
    os._exit(130)
