"""Run by `test_ways_out.py`: runs of a method with a bug, each in a session of its own.

    ways_out.py FOLDER DATA WAY...    prints what became of each as JSON

The parts of the package are imported once and every run is a fork, but that what is started for
`--devices 2` is the command itself, as ever.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import patchkin
from patchkin.errors import DataError
from patchkin.schedules import AdamConfig
from patchkin.training import siblings

LIMIT_SECONDS = 60
AT_STEP = 2
FLAGS = (
    *("--size", "16", "--data.load-size", "16", "--steps", "200", "--device", "cpu"),
    *("--training.log-every", "1", "--data.max-images", "4"),
)


@dataclass(frozen=True)
class WayOutConfig:
    """None."""


class WayOut(patchkin.Method):
    """Leaves as `WAY` says, once."""

    name = "way-out"
    paper = "none"
    config_type = WayOutConfig
    presets = {"default": patchkin.Preset(summary="", method=WayOutConfig())}

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.G = nn.Conv2d(3, 3, 1)

    def adam(self):
        return {"G": AdamConfig()}

    def train_step(self, batch, update, progress):
        if progress.step == AT_STEP:
            act(os.environ["WAY"])
        update("G", loss=lambda: {"copy": (self.G(batch.a_BCHW) - batch.b_BCHW).abs().mean()})

    def translate(self, x_BCHW):
        if os.environ["WAY"].startswith("scores") and Path(os.environ["ACTED"]).is_file():
            if os.environ["WAY"] == "scores":
                raise NameError("in validation")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(LIMIT_SECONDS)
        return self.G(x_BCHW)

    def previews(self, batch):
        if os.environ["WAY"] == "preview" and Path(os.environ["ACTED"]).is_file():
            raise NameError("in previews")
        return super().previews(batch)


def act(way: str) -> None:
    """What happens in the step, after its time is written down."""
    way, _, where = way.partition("-in-")
    rank = os.environ.get("LOCAL_RANK", "0")
    if where and where != {"0": "first", "1": "second"}[rank]:
        return
    Path(os.environ["ACTED"]).write_text(str(time.time()))
    if way == "exception":
        raise NameError("name 'lss' is not defined")
    if way == "memory":
        raise torch.OutOfMemoryError("out of memory")
    if way == "broken-file":
        raise DataError("`0.png` broke.")
    if way in ("sigterm", "sigint"):
        os.kill(os.getpid(), getattr(signal, way.upper()))
    if way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "stopped":  # it neither ends nor answers
        os.kill(os.getppid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGSTOP)
    workers = multiprocessing.active_children()
    if way == "dead-worker":
        os.kill(workers[0].pid, signal.SIGKILL)
        time.sleep(LIMIT_SECONDS)
    if way == "hanging-workers":
        for worker in workers:
            os.kill(worker.pid, signal.SIGSTOP)
        threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()


def kill_after_starting() -> None:
    """End this process as soon as it has started another, which then comes to meet it."""
    start = siblings.start

    def start_and_die(count: int, *, nodes: int) -> None:
        start(count, nodes=nodes)
        Path(os.environ["ACTED"]).write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)

    siblings.start = start_and_die


def begin(way: str, folder: Path, data: str) -> int:
    """Fork; the child becomes the command."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.environ["WAY"], os.environ["ACTED"] = way, str(folder / f"{way}.acted")
    output = os.open(folder / f"{way}.stderr", os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    devices = "2" if "-in-" in way else "1"
    workers = "0" if devices == "2" else "2"
    scores = ("--score-every", "3") if way.startswith("scores") else ()
    previews = ("--training.preview-every", "3")
    if way == "killed-at-start-in-first":
        kill_after_starting()
    sys.argv = [
        *(sys.argv[0], "train", "--data", data, "--run-dir", str(folder / way), *FLAGS),
        *("--devices", devices, "--workers", workers, *scores, *previews),
    ]
    patchkin.run(WayOut)


def group_is_alive(group: int) -> bool:
    """Whether a process of it is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def main(folder: Path, data: str, ways: list[str]) -> None:
    """Start all, wait for all."""

    running = {begin(way, folder, data): way for way in ways}
    codes: dict[str, int] = {}
    told = {}
    until = time.monotonic() + 3 * LIMIT_SECONDS
    while running and time.monotonic() < until:
        time.sleep(0.05)
        for child, way in list(running.items()):
            if way not in codes:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[way] = os.waitstatus_to_exitcode(status)
            if way in codes and not group_is_alive(child):
                del running[child]
                acted = float((folder / f"{way}.acted").read_text())
                told[way] = {"code": codes[way], "seconds": time.time() - acted}
    for child in running:
        os.killpg(child, signal.SIGKILL)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    if sys.argv[1] == "train":
        patchkin.run(WayOut)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
