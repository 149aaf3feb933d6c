"""Disks that fail, and processes that die, at the n-th thing that is done to the files of a run.

As a program, `faults.py DATA FOLDER [EVERY]` lets runs die at every moment, or every so many, goes
on with them, and tells what came of it: a line of JSON for each.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import stat
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import SafetensorError

from patchkin.runs.config import preset_config
from patchkin.runs.train import train
from patchkin.scoring import report
from patchkin.storage import checkpoint
from patchkin.storage.checkpoint import CheckpointStore

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
from tinting import TintPair

DIED = 86
"""Exit code of a process that died of a fault."""


class Faults:
    """Counts what is done below a folder; lets the n-th fail.

    Counted are files that are made, writes, syncs and renames. A write that fails has written half.

    Args:
        root: the folder.
        number: which fails, from 1; None of them unless given.
        error: of the operating system; None ends the process on the spot.
    """

    def __init__(self, root: Path, number: int | None = None, error: int | None = None) -> None:
        self.root = root
        self.number = number
        self.error = error
        self.done: list[str] = []
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Faults:
        opened, written = os.open, os.write
        replaced, renamed = Path.replace, Path.rename
        saved, drawn = checkpoint.save_file, Image.Image.save

        def fake_open(path, flags, *rest, **options):
            if flags & os.O_CREAT and self._is_below(path):
                self._count("make")
            return opened(path, flags, *rest, **options)

        def fake_write(descriptor, content):
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._count("write", lambda: written(descriptor, content[: len(content) // 2]))
            return written(descriptor, content)

        def fake_sync(_):  # really done it would take most of the time
            self._count("sync")

        def fake_rename(original):
            def rename(path, target):
                if self._is_below(path):
                    self._count("rename")
                return original(path, target)

            return rename

        def fake_save(tensors, path, metadata):
            try:
                self._count("write tensors", lambda: Path(path).write_bytes(b"half"))
            except OSError as error:
                told = f"Error while serializing: I/O error: {error.strerror}"
                raise SafetensorError(f"{told} (os error {error.errno})") from error
            return saved(tensors, path, metadata)

        def fake_draw(image, path, *rest, **options):
            place = path.name if isinstance(path, io.IOBase) else path
            if self._is_below(place):
                self._count("write image", lambda: Path(place).write_bytes(b"half"))
            return drawn(image, path, *rest, **options)

        for owner, name, fake in (
            (os, "open", fake_open),
            (os, "write", fake_write),
            (os, "fsync", fake_sync),
            (Path, "replace", fake_rename(replaced)),
            (Path, "rename", fake_rename(renamed)),
            (checkpoint, "save_file", fake_save),
            (Image.Image, "save", fake_draw),
        ):
            self._patch.setattr(owner, name, fake)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _is_below(self, path: Any) -> bool:
        return isinstance(path, (str, Path)) and Path(path).is_relative_to(self.root)

    def _count(self, what: str, half: Callable[[], object] = lambda: None) -> None:
        self.done.append(what)
        if len(self.done) != self.number:
            return
        half()
        if self.error is None:
            os._exit(DIED)
        raise OSError(self.error, os.strerror(self.error))


def error_of(number: int) -> int:
    """A full disk and a failing one in turn."""
    return (errno.ENOSPC, errno.EIO)[number % 2]


def small_run(data: Path, run_dir: Path, *, steps: int = 2, resume: bool = False) -> None:
    """A run with scores, previews and a report, and one checkpoint of each step; the best stays.

    Reports are without plots: they take seconds, and no file depends on them.
    """
    config = preset_config(TintPair.presets["default"])
    config = replace(
        config,
        data=replace(config.data, root=str(data), workers=0),
        schedule=replace(config.schedule, steps=steps),
        training=replace(
            config.training,
            device="cpu", keep=1, save_every=1, score_every=2, log_every=1, preview_every=2,
        ),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_curves", lambda *_: None)
        train(TintPair, config, run_dir, resume=resume)


def content(run_dir: Path) -> dict[str, Any]:
    """All that a run is, apart from what depends on the clock."""
    store = CheckpointStore(run_dir)
    found: dict[str, Any] = {
        path.relative_to(run_dir).as_posix(): path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file() and path.suffix not in (".html", ".jsonl")
    }
    found["steps"] = store.steps()
    found["log"] = [
        {key: record[key] for key in record if key in ("step", "terms", "scores", "best")}
        for record in log(run_dir)
        if "session" not in record
    ]
    found["report"] = (run_dir / "report.html").is_file()
    return found


def log(run_dir: Path) -> list[dict[str, Any]]:
    """The records of the log; every line must be one, as far as the disk has been well."""
    path = run_dir / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def check_whole(run_dir: Path, *, died: bool) -> bool:
    """Check that what a run left can be used; whether there is a checkpoint to go on from."""
    for name in ("config.yaml", "data.json"):
        assert not (run_dir / name).is_file() or (run_dir / name).read_text()
    remains = [path.name for path in run_dir.rglob("*") if path.name.endswith((".part", ".lock"))]
    if not died:
        log(run_dir)
        assert remains == []
    for picture in (run_dir / "previews").glob("*.png"):
        with Image.open(picture) as image:
            image.load()
    store = CheckpointStore(run_dir)
    if not store.steps():
        return False
    _, damaged = store.load_newest()
    assert damaged == []
    for step in store.steps():
        store.load(step)
    for pointer in ("last", "best"):
        if (store.folder / pointer).is_file():
            assert store.pointed(pointer) is not None
    return True


# Runs that die


def in_a_process(act: Callable[[], None]) -> int:
    """Act in a forked process, in silence; its exit code, 1 with a traceback."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            act()
    except BaseException:  # noqa: BLE001 (nothing may leave this process)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def die_everywhere(data: Path, folder: Path, every: int) -> None:
    """Runs that die, and what came of them when they went on."""
    counted = folder / "counted"

    def count() -> None:
        with Faults(folder / "whole") as faults:
            small_run(data, folder / "whole")
        counted.write_text(json.dumps(faults.done))

    assert in_a_process(count) == 0
    done = json.loads(counted.read_text())
    for number in range(1, len(done) + 1, every):
        run_dir = folder / "died"
        told: dict[str, Any] = {"number": number, "done": done[number - 1]}

        def die(number: int = number, run_dir: Path = run_dir) -> None:
            with Faults(run_dir, number):
                small_run(data, run_dir)

        def go_on(run_dir: Path = run_dir) -> None:
            going_on = run_dir.is_dir() and check_whole(run_dir, died=True)
            small_run(data, run_dir, resume=going_on)
            check_whole(run_dir, died=False)

        told["died"] = in_a_process(die)
        told["went on"] = in_a_process(go_on)
        told["unlike"] = unlike(run_dir, folder / "whole")
        sys.stdout.write(json.dumps(told) + "\n")
        shutil.rmtree(run_dir)


def unlike(run_dir: Path, whole: Path) -> list[str]:
    """What is not the same in two runs."""
    found, expected = content(run_dir), content(whole)
    return [
        key
        for key in {**found, **expected}
        if key not in found or key not in expected or found[key] != expected[key]
    ]


if __name__ == "__main__":
    die_everywhere(Path(sys.argv[1]), Path(sys.argv[2]), int((*sys.argv, "1")[3]))
