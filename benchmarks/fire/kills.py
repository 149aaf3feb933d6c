"""Runs that are killed at random moments and gone on with: is what they end with the same?

    python benchmarks/fire/kills.py FOLDER [--kills 1000] [--seed 0]

Each run has a method, loader workers, a cache, averaged weights, one or two processes, perhaps
compiled networks, and is killed up to six times: by SIGKILL, which nothing can answer, or SIGTERM,
after a random time or at a random one of its file operations (a file made, a write, a sync, a
rename; hence inside of saving, scoring, previews and lines of the log). Then it goes on until it
ends. Its checkpoints (weights, averages, optimizers), previews and log must be those of a run that
nobody killed, and no temporary file, lock or process may be left.

What was found stands in FOLDER/kills.jsonl, a line for each run; begun again, the script goes on
behind the last of them. Runs are forks of this process, which has imported everything, but those
that are killed by time alone, with two processes, or with compiled networks. Reports of forks are
without plots, which take seconds and on which nothing depends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from patchkin.cli import main as patchkin
from patchkin.data.toy import write_toy
from patchkin.errors import PatchkinError
from patchkin.scoring import report
from patchkin.storage.checkpoint import CheckpointStore

STEPS = 6
SMALL = (
    *("--size", "32", "--data.load-size", "36", "--device", "cpu", "--steps", str(STEPS)),
    *("--save-every", "2", "--score-every", "3", "--training.preview-every", "4"),
    *("--training.log-every", "1", "--training.keep", "2"),
    *("--ngf", "2", "--ndf", "2", "--blocks", "1"),
)
PLACES = ("--method.num-patches", "8", "--method.head-width", "8")
METHODS = {
    "cut": PLACES,
    "semantic-relation": PLACES,
    "dclgan": PLACES,
    "cyclegan": (),
    "negcut": PLACES,
}
LIMIT_SECONDS = 900
"""Of one process; longer means that it hangs."""
LEAVING_SECONDS = 60
"""For what a killed process had started to leave, which may be importing still."""


@dataclass(frozen=True)
class Kind:
    """What decides the numbers of a run."""

    method: str
    averaged: bool
    processes: int
    compiled: bool

    def flags(self) -> tuple[str, ...]:
        return (
            *(*SMALL, *METHODS[self.method]),
            *(("--schedule.ema-decay", "0.5") if self.averaged else ()),
            *(("--devices", "2") if self.processes == 2 else ()),
            *(("--compile",) if self.compiled else ()),
        )


@dataclass(frozen=True)
class Victim:
    """A run and how often it is to be killed."""

    kind: Kind
    workers: int
    cached: bool
    alone: bool
    """In a process that is no fork of this one."""
    kills: int

    @classmethod
    def drawn(cls, chance: random.Random) -> Victim:
        processes = 2 if chance.random() < 0.08 else 1
        compiled = processes == 1 and chance.random() < 0.02
        return cls(
            kind=Kind(chance.choice(list(METHODS)), chance.random() < 0.5, processes, compiled),
            workers=chance.choice((0, 0, 0, 1, 2, 3, 4)),
            cached=chance.random() < 0.4,
            alone=processes == 2 or compiled or chance.random() < 0.05,
            kills=chance.randint(1, 6),
        )


@dataclass(frozen=True)
class Whole:
    """A run that nobody killed."""

    folder: Path
    seconds: float
    operations: int
    """On files; 0 if they were not counted."""


@dataclass(frozen=True)
class Kill:
    """Of a process: its signal, and the moment."""

    number: int
    seconds: float | None = None
    operation: int | None = None


class Fire:
    """All runs of a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.data = folder / "toy"
        if not self.data.is_dir():
            write_toy(self.data, size=64, train=6, test=2)
        self._wholes: dict[Kind, Whole] = {}

    def run(self, number: int) -> dict[str, Any]:
        """Kill the run of that number, let it end, and say what became of it."""
        chance = random.Random(f"{self.seed} {number}")
        victim = Victim.drawn(chance)
        whole = self._whole(victim.kind)
        run_dir = self.folder / "victim"
        shutil.rmtree(run_dir, ignore_errors=True)
        kills: list[dict[str, Any]] = []
        faults: list[str] = []
        for turn in range(victim.kills + 1):
            kill = self._kill(victim, whole, chance) if turn < victim.kills else None
            code, left = self._go(victim, run_dir, kill)
            if left:
                faults.append(f"processes left after {kill}: {left}")
            faults += [f"after {kill}: {fault}" for fault in unusable(run_dir)]
            if kill is None or code == 0:
                break
            kills.append({**asdict(kill), "code": code})
            faults += [] if code in expected_codes(kill) else [f"code {code} after {kill}"]
        if code != 0:
            faults.append(f"it ended with code {code}: {self._said()[-300:]}")
        faults += [f"unlike the whole run: {name}" for name in unlike(run_dir, whole.folder)]
        faults += [f"left: {path.name}" for path in remains(self.folder)]
        return {"number": number, **asdict(victim), "killed": kills, "faults": faults}

    def _kill(self, victim: Victim, whole: Whole, chance: random.Random) -> Kill:
        number = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        if not victim.alone and chance.random() < 0.6:
            return Kill(number, operation=chance.randint(1, whole.operations))
        return Kill(number, seconds=chance.uniform(0, whole.seconds))

    def _whole(self, kind: Kind) -> Whole:
        if kind not in self._wholes:
            alone = kind.processes == 2 or kind.compiled
            run_dir = self.folder / "wholes" / "-".join(map(str, asdict(kind).values()))
            shutil.rmtree(run_dir, ignore_errors=True)
            counted = self.folder / "operations"
            counted.unlink(missing_ok=True)
            begun = time.monotonic()
            code, _ = self._go(Victim(kind, 0, False, alone, 0), run_dir, None)
            if code != 0:
                raise SystemExit(f"{kind} alone ends with code {code}:\n{self._said()}")
            seconds = time.monotonic() - begun
            operations = int(counted.read_text()) if counted.exists() else 0
            self._wholes[kind] = Whole(run_dir, seconds, operations)
        return self._wholes[kind]

    def _go(self, victim: Victim, run_dir: Path, kill: Kill | None) -> tuple[int, list[int]]:
        """Begin the run or go on with it; its exit code, and processes that did not end with it."""
        begin = (victim.kind.method, "--data", str(self.data), "--run-dir", str(run_dir))
        cache = ("--cache", str(self.folder / "cache")) if victim.cached else ()
        flags = (*victim.kind.flags(), "--workers", str(victim.workers), *cache)
        if CheckpointStore(run_dir).steps():
            command = ["train", "--resume", str(run_dir)]
        else:
            command = ["train", *begin, *flags, *(("--overwrite",) if run_dir.exists() else ())]
        start = self._alone if victim.alone else self._forked
        process = start(command, kill)
        code = waited(process, kill)
        return code, survivors(process)

    def _alone(self, command: list[str], _: Kill | None) -> int:
        with (self.folder / "said").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "patchkin", *command],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            ).pid  # fmt: skip

    def _forked(self, command: list[str], kill: Kill | None) -> int:
        process = os.fork()
        if process:
            return process
        os.setsid()
        said = os.open(self.folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = 1
        with contextlib.suppress(BaseException), operations(self.folder, kill) as done:
            report._curves = lambda *_: None
            code = patchkin(command)
        with contextlib.suppress(OSError):
            (self.folder / "operations").write_text(str(done[0]))
        os._exit(code)

    def _said(self) -> str:
        return (self.folder / "said").read_text(errors="replace")


@contextlib.contextmanager
def operations(folder: Path, kill: Kill | None) -> Iterator[list[int]]:
    """Counts what is done to files of runs, in one place of a list, and kills this process there.

    A write that is the last one of a process has written half.
    """
    done = [0]
    opened, written, synced, replaced = os.open, os.write, os.fsync, os.replace

    def count(half: Callable[[], object] = lambda: None) -> None:
        done[0] += 1
        if kill is not None and done[0] == kill.operation:
            half()
            os.kill(os.getpid(), kill.number)

    def fake_open(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        below = isinstance(path, (str, Path)) and Path(path).is_relative_to(folder)
        if below and flags & os.O_CREAT:
            count()
        return opened(path, flags, *rest, **options)

    def fake_write(descriptor: int, content: Any) -> int:
        if kill is None or kill.number != signal.SIGKILL:  # what goes on must write it once
            count()
        else:
            count(lambda: written(descriptor, content[: len(content) // 2]))
        return written(descriptor, content)

    def fake_sync(descriptor: int) -> None:
        count()
        synced(descriptor)

    def fake_replace(source: Any, target: Any, **options: Any) -> None:
        count()
        replaced(source, target, **options)

    os.open, os.write, os.fsync, os.replace = fake_open, fake_write, fake_sync, fake_replace
    try:
        yield done
    finally:
        os.open, os.write, os.fsync, os.replace = opened, written, synced, replaced


def waited(process: int, kill: Kill | None) -> int:
    """The exit code of a process that is killed after its time; -9 if that had no effect."""
    begun = time.monotonic()
    killed = kill is None or kill.seconds is None
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - begun
        if kill is not None and kill.seconds is not None and not killed and passed > kill.seconds:
            os.kill(process, kill.number)
            killed = True
        if passed > LIMIT_SECONDS:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise SystemExit(f"a run hangs after {kill}")
        time.sleep(0.005)


def survivors(session: int) -> list[int]:
    """Processes of a session whose first one has ended, after some seconds to leave."""
    until = time.monotonic() + LEAVING_SECONDS
    while members := [p for p in processes() if session_of(p) == session]:
        if time.monotonic() > until:
            with contextlib.suppress(OSError):
                os.killpg(session, signal.SIGKILL)
            return members
        time.sleep(0.05)
    return []


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def session_of(process: int) -> int | None:
    """Of a process that runs; None for what only waits for its exit code to be read."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[3])


def expected_codes(kill: Kill) -> tuple[int, ...]:
    """Of a process that was killed: by the signal, or as it leaves when it is asked to."""
    return (-9,) if kill.number == signal.SIGKILL else (130, -15)


def unusable(run_dir: Path) -> list[str]:
    """What of a run that was left at any moment cannot be used."""
    faults = []
    store = CheckpointStore(run_dir)
    try:
        if store.steps():
            faults += store.load_newest()[1]
        for pointer in ("last", "best"):
            if (store.folder / pointer).is_file() and store.pointed(pointer) is None:
                faults.append(f"the pointer {pointer}")
    except PatchkinError as error:
        faults.append(str(error))
    lines = (run_dir / "log.jsonl").read_text().splitlines() if exists(run_dir, "log.jsonl") else []
    for line in lines[:-1]:  # the last one may be half
        try:
            json.loads(line)
        except ValueError:
            faults.append(f"a line of the log: {line[:60]}")
    if exists(run_dir, "report.html") and "</html>" not in (run_dir / "report.html").read_text():
        faults.append("half a report")
    return faults


def exists(run_dir: Path, name: str) -> bool:
    return (run_dir / name).is_file()


def content(run_dir: Path) -> dict[str, Any]:
    """What a run is, but its settings, what the clock decides, and earlier checkpoints: one that is
    asked to stop saves where it is.
    """
    store = CheckpointStore(run_dir)
    kept = [path for path in store.folder.iterdir() if path.is_file()]
    for pointer in ("last", "best"):
        folder = store.pointed(pointer)
        kept += folder.iterdir() if folder is not None else ()
    kept += [*run_dir.glob("previews/*"), run_dir / "data.json"]
    found: dict[str, Any] = {
        path.relative_to(run_dir).as_posix(): path.read_bytes() for path in kept if path.is_file()
    }
    lines = (run_dir / "log.jsonl").read_text().splitlines()
    found["log"] = [
        {key: record[key] for key in ("step", "terms", "scores", "best") if key in record}
        for record in map(json.loads, lines)
        if "session" not in record
    ]
    return found


def unlike(run_dir: Path, whole: Path) -> list[str]:
    """What differs between two runs."""
    found, expected = content(run_dir), content(whole)
    names = {**found, **expected}
    return [name for name in names if found.get(name) != expected.get(name)]


def remains(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".part", ".lock"))]


def summary(lines: list[dict[str, Any]]) -> str:
    """Of all runs so far, as text."""
    kills = [kill for line in lines for kill in line["killed"]]
    how = Counter(
        (
            signal.Signals(kill["number"]).name,
            "by time" if kill["operation"] is None else "at a file",
        )
        for kill in kills
    )
    methods = Counter(line["kind"]["method"] for line in lines)
    faulty = [line for line in lines if line["faults"]]
    rows = [
        f"{len(lines)} runs, {len(kills)} kills, {len(faulty)} runs with a fault",
        *(f"  {name} {where}: {count}" for (name, where), count in sorted(how.items())),
        "  runs: " + ", ".join(f"{name} {count}" for name, count in sorted(methods.items())),
    ]
    rows += [f"  run {line['number']}: {fault}" for line in faulty for fault in line["faults"]]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for runs and what was found")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    fire = Fire(options.folder.resolve(), options.seed)
    found = options.folder / "kills.jsonl"
    lines = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    while sum(len(line["killed"]) for line in lines) < options.kills:
        lines.append(fire.run(len(lines)))
        with found.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        if lines[-1]["faults"]:
            print(f"run {lines[-1]['number']}: {lines[-1]['faults']}", file=sys.stderr, flush=True)
    print(summary(lines))
    return 1 if any(line["faults"] for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
