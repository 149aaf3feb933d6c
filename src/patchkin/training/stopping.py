"""How a run is asked to stop: by Ctrl-C, or by the signal with which a scheduler ends a job.

The step that is under way is finished and saved. What changes nothing, as waiting for the loader
or scoring validation images or making previews, is left at once: it may take longer than a
scheduler waits.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from patchkin.training.siblings import end_at_once

SIGNALS = (signal.SIGINT, signal.SIGTERM)
DEADLINE_SECONDS = 10.0
"""For a process of several to leave, beside three of its slowest steps: it may be waiting for an
answer of another that will never come."""

_TOO_LATE = (
    "interrupted; this process could not finish its step in time, and ended without. The last "
    "checkpoint is whole."
)


class LeaveNow(BaseException):
    """The run was asked to stop while it did what can be left at once."""


class Stop:
    """Whether a run was asked to stop.

    Args:
        may_leave: whether this process may leave at once what changes nothing: the one that saves.
            The others wait for it.
    """

    def __init__(self, *, may_leave: bool = True) -> None:
        self._may_leave = may_leave
        self._asked = threading.Event()
        self._leaving = False
        self.slowest_step = 0.0
        """Seconds; told by the loop."""
        self.saving = False
        """Whether files are being written, which takes as long as it takes."""

    @property
    def asked(self) -> bool:
        """Whether it was."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask it to stop.

        Raises:
            LeaveNow: inside of `left_at_once`.
        """
        self._asked.set()
        if self._leaving:
            self._leaving = False
            raise LeaveNow

    @contextmanager
    def left_at_once(self) -> Iterator[None]:
        """For what changes nothing that is saved.

        Raises:
            LeaveNow: the run was asked to stop.
        """
        self._leaving = self._may_leave
        try:
            if self._leaving and self.asked:
                raise LeaveNow
            yield
        finally:
            self._leaving = False


@contextmanager
def stop_signals(*, may_leave: bool = True, deadline: bool = False) -> Iterator[Stop]:
    """A `Stop` that Ctrl-C and a termination signal ask; a second one ends at once.

    Args:
        may_leave: as `Stop`.
        deadline: whether the process is ended if it cannot stop in time.
    """
    stop = Stop(may_leave=may_leave)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _: object) -> None:
        signal.signal(number, previous[number])
        stop.ask()

    previous = {int(number): signal.getsignal(number) for number in SIGNALS}
    for number in previous:
        signal.signal(number, ask)
    try:
        if deadline and os.name == "posix":
            with _deadline(stop):
                yield stop
        else:
            yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """A termination signal raises KeyboardInterrupt, as Ctrl-C does, so that all is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _deadline(stop: Stop) -> Iterator[None]:
    """Ends the process some time after a signal, also where Python is not asked any more.

    Python's handlers run between two of its own operations. While a process waits inside of a
    collective operation, only the byte that the interpreter writes into a pipe is seen.
    """
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    previous = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    ended = threading.Event()

    def watch() -> None:
        while os.read(receiving, 1)[0] not in SIGNALS:
            if ended.is_set():
                return
        until = time.monotonic() + DEADLINE_SECONDS + 3 * stop.slowest_step
        while time.monotonic() < until or stop.saving:
            if ended.wait(0.2):
                return
        end_at_once(130, _TOO_LATE)

    watcher = threading.Thread(target=watch, daemon=True, name="deadline")
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        os.write(sending, b"\0")
        watcher.join()
        os.close(receiving)
        os.close(sending)
