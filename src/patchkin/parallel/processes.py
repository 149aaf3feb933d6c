"""Several processes on this machine that do one piece of work each."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from patchkin.errors import PatchkinError

Result = TypeVar("Result")
_TOLD, _RESULT, _ERROR = "told", "result", "error"


def in_processes(
    work: Callable[[int, Callable[[Any], None]], Result],
    count: int,
    *,
    threads: int,
    on_message: Callable[[Any], None] = lambda _: None,
) -> list[Result]:
    """Results of `work(number, tell)` for the numbers 1 to `count`, each in a process of its own.

    Processes are spawned, so that an accelerator can be used in each. The first error ends the
    others.

    Args:
        work: a function of a module, or a `partial` of one, with arguments that can be pickled.
            What it hands to `tell`, in any of its threads, arrives at `on_message`.
        count: of processes.
        threads: of the CPU, in each of them.
        on_message: called in this process.

    Raises:
        PatchkinError: the one that a process raised; or one of them was killed.
        RuntimeError: one of them failed, after printing its traceback.
    """
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, tuple[int, SpawnProcess]] = {}
    for number in range(1, count + 1):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(work, number, threads, theirs), daemon=True)
        process.start()
        theirs.close()
        processes[mine] = number, process
    results: dict[int, Result] = {}
    running = dict(processes)
    try:
        while running:
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                number, process = running[pipe]
                kind, content = _received(pipe, number, process)
                if kind == _TOLD:
                    on_message(content)
                elif kind == _ERROR:
                    raise content
                else:
                    results[number] = content
                    del running[pipe]
    finally:
        for pipe, (_, process) in processes.items():
            if pipe in running:
                process.terminate()
            process.join()
            pipe.close()
    return [results[number] for number in sorted(results)]


def _received(pipe: Connection, number: int, process: SpawnProcess) -> tuple[str, Any]:
    try:
        kind, content = pipe.recv()
    except EOFError:
        process.join()
        if process.exitcode == 1:  # its traceback has been printed
            raise RuntimeError(f"Process {number} failed.") from None
        raise PatchkinError(
            f"Process {number} ended early, with code {process.exitcode} (-9: killed, often for "
            "memory). What it wrote is kept: run the same command again, or with fewer processes."
        ) from None
    return kind, content


def _child(
    work: Callable[[int, Callable[[Any], None]], Any], number: int, threads: int, pipe: Connection
) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for what is loaded later
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(threads)
    sending = threading.Lock()

    def tell(message: Any) -> None:
        with sending:
            pipe.send((_TOLD, message))

    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            said: tuple[str, Any] = _RESULT, work(number, tell)
        except PatchkinError as error:
            said = _ERROR, error
        pipe.send(said)
    except (KeyboardInterrupt, BrokenPipeError):  # the parent says what happened, or is gone
        pass
    finally:  # ended on its way out, it has nothing to say
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
