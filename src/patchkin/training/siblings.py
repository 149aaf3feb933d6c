"""The processes of a run on this machine: the first starts the others, and all end together.

An error in one of them leaves the others in a collective operation that nobody answers, where no
signal is heard. So each has a thread that watches: the first process watches the others, and these
watch a pipe, their standard input, that ends with the first. A process that does not leave by
itself is ended. With `torchrun` or Slurm that is the launcher's part.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import torch

from patchkin.errors import PatchkinError
from patchkin.storage.locks import give_all_back

GRACE_SECONDS = 8.0
"""For a process to leave by itself once another has failed."""
_POLL_SECONDS = 0.2
_DONE = b"."
"""Told to the others when the run has ended well."""
_MARK = "PATCHKIN_SIBLING"
logger = logging.getLogger(__name__)


class Siblings:
    """What the first process knows of those that it has started."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._processes = processes
        self._ending = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="siblings").start()

    def first_failed(self, *, within: float) -> tuple[int, int] | None:
        """Rank and exit code of one that has failed, or does within so many seconds."""
        deadline = time.monotonic() + within
        while True:
            for rank, process in enumerate(self._processes, 1):
                if process.poll():
                    return rank, process.returncode
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """End them at once."""
        for process in self._processes:
            process.kill()

    def end(self, *, well: bool) -> None:
        """Let the others leave; those that do not are ended."""
        self._ending.set()
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # it has left
                if well:
                    process.stdin.write(_DONE)
                process.stdin.close()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            process.kill()

    def _watch(self) -> None:
        while not self._ending.wait(_POLL_SECONDS):
            failed = self.first_failed(within=0)
            if failed is None:
                continue
            if not self._ending.wait(GRACE_SECONDS):  # stuck in a collective operation
                end_at_once(code_of(failed[1]), said_of(*failed))
            return


_started: list[Siblings] = []
"""By this process, if any were."""


def start(count: int, *, nodes: int) -> None:
    """Start processes 1 to `count - 1` of this machine, which is process 0 from here on.

    To be called within `ending_together`. All learn their places from the environment, as from any
    launcher.

    Args:
        count: processes of this machine.
        nodes: machines.
    """
    assert "LOCAL_RANK" not in os.environ, "a process that was started starts others"
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    os.environ.setdefault("NODE_RANK", "0")
    os.environ["WORLD_SIZE"] = str(count * nodes)
    if "OMP_NUM_THREADS" not in os.environ:  # else each would take all cores
        threads = max(1, (os.cpu_count() or 1) // count)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)
    processes = [
        subprocess.Popen(
            _this_command(),
            env={**os.environ, "LOCAL_RANK": str(rank), _MARK: "1"},
            stdin=subprocess.PIPE,
        )
        for rank in range(1, count)
    ]
    _started.append(Siblings(processes))
    os.environ["LOCAL_RANK"] = "0"


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Whatever ends the block, the processes that are started in it end too.

    They are started before they meet, so that the block begins before that: a process that waits
    for others to come hears no signal, and waits for half an hour.

    Raises:
        SystemExit: another process failed first, and has said why.
        RuntimeError: another process was killed.
    """
    if os.environ.pop(_MARK, None):
        threading.Thread(target=_watch_first, daemon=True, name="first process").start()
    well = False
    try:
        yield
        well = True
    except Exception as error:
        if not _started or isinstance(error, PatchkinError):
            raise
        failed = _started[0].first_failed(within=2)
        if failed is None:
            raise
        rank, code = failed
        if code in (1, 2):  # it has told its reason; here it looks like a lost connection
            raise SystemExit(code) from None
        raise RuntimeError(said_of(rank, code)) from error
    finally:
        for siblings in _started:
            siblings.end(well=well)
        _started.clear()


def said_of(rank: int, code: int) -> str:
    """What became of a process.

    >>> said_of(1, -9)
    'Process 1 of the run was ended by SIGKILL, often for memory; the others end too.'
    """
    if code < 0:
        name = signal.Signals(-code).name
        often = ", often for memory" if name == "SIGKILL" else ""
        return f"Process {rank} of the run was ended by {name}{often}; the others end too."
    return f"Process {rank} of the run ended with code {code}; the others end too."


def code_of(code: int) -> int:
    """The exit code of the whole run, if one of its processes left with this one."""
    return code if code in (2, 130) else 1


def end_at_once(code: int, said: str = "") -> None:
    """Leave with all that was started, without asking anything that may be stuck."""
    for worker in multiprocessing.active_children():
        worker.kill()
    for siblings in _started:
        siblings.kill()
    give_all_back()
    if said:
        sys.stderr.write(f"patchkin: {said}\n")
        sys.stderr.flush()
    os._exit(code)


def _watch_first() -> None:
    with contextlib.suppress(OSError):
        if os.read(0, 1) == _DONE:
            return
    time.sleep(1)  # an error of its own may be on its way to the terminal
    end_at_once(1)


def _this_command() -> list[str]:
    """That of this process, to be run again."""
    import __main__

    if __main__.__spec__ is None:
        return [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]  # noqa: PTH100
    return [sys.executable, "-m", __main__.__spec__.name, *sys.argv[1:]]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
