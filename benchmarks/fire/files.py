"""A file layer that fails, at the n-th operation of every kind of command.

    python benchmarks/fire/files.py FOLDER [--sample 20] [--seed 0] [--only train translate ...]

A run, a resumed one, an evaluation, a translation, a search, a download, exports, imports: each is
done in a fork of this process while an operation on its files fails below Python, in a library that
is loaded before C's (`failing.c`): no space from the n-th operation on, for every n; an error of
the disk at the n-th operation, for every n that changes something; and a sample of other faults
(errors of reading, no permission, a disk that becomes read-only, writes that take half, a slow
disk with two commands at a time). Besides, where this process may do so (root, Linux): file systems
of a few kB, limits on the size of files, folders of another user, a read-only mount.

It must end with code 2 and a line that names a file and the reason, or do its work nevertheless.
What was there before must be there, or be what it becomes; nothing may be half, and no temporary
file or lock left. Then the same command again must end as one that nothing failed for, bit for bit.

What was found stands in FOLDER/files.jsonl, a line for each case; begun again, the script does what
is missing. Linux with a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import encodings.ascii  # noqa: F401 (as `patchkin.images.tiff_writing` below)
import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from commands import Command, commands, files_of, remains, served, small_runtime

import patchkin.images.tiff_writing  # now: another user may not read Python's own folder
from patchkin.cli import main as patchkin
from patchkin.scoring import report

LIMIT_SECONDS = 300
NOBODY = 65534
OPEN, READ, MAKE, WRITE, SYNC, RENAME, REMOVE, CHANGE = range(8)
"""As in `failing.c`."""
WRITING = (MAKE, WRITE, SYNC, RENAME)


@dataclass(frozen=True)
class Fault:
    """What the file layer answers."""

    error: int
    """0: a write takes half."""
    kinds: tuple[int, ...]
    lasting: bool = False
    """From the n-th operation on."""
    every: bool = False
    """Whether all n are done, or a sample."""

    @property
    def cleans(self) -> bool:
        """Whether temporary files can still be removed."""
        return REMOVE not in self.kinds


FAULTS = {
    "no space": Fault(errno.ENOSPC, WRITING, lasting=True, every=True),
    "no space once": Fault(errno.ENOSPC, WRITING),
    "disk error": Fault(errno.EIO, (*WRITING, CHANGE), every=True),
    "disk error for good": Fault(errno.EIO, (*WRITING, REMOVE, CHANGE), lasting=True),
    "error of reading": Fault(errno.EIO, (OPEN, READ)),
    "error of removing": Fault(errno.EIO, (REMOVE,)),
    "not permitted": Fault(errno.EACCES, (OPEN, MAKE, RENAME)),
    "read-only": Fault(errno.EROFS, (MAKE, RENAME, REMOVE, CHANGE), lasting=True),
    "half a write": Fault(0, (WRITE,)),
    "half writes": Fault(0, (WRITE,), lasting=True),
}
REAL = ("small disk", "limit", "folder of another", "read-only mount", "unreadable")
AS_NOBODY = ("folder of another", "unreadable")
EXPORTS = ("onnx", "pt2", "page")
"""They import what another user may not read, where Python lies in a folder of root's."""
NETWORK = {
    "short": "broke off",
    "reset": "broke off",
    "long": "broke off",
    "little": "cannot be unpacked",
    "other": "cannot be unpacked",
    "500": "answers 500",
    "404": "answers 404",
}
"""How a server fails, and what is said."""


@dataclass
class Outcome:
    code: int
    said: str
    failed: str = ""
    """The operation that did, if one did."""
    seen: tuple[int, ...] = ()
    """Operations, by kind."""


class Layer:
    """`failing.c`, loaded before the C library of this process."""

    def __init__(self, library: Path) -> None:
        self._c = ctypes.CDLL(str(library))
        self._c.failing_what.restype = ctypes.c_char_p
        self._c.failing_seen.restype = ctypes.c_long
        longs = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int)
        self._c.failing_begin.argtypes = [*longs, ctypes.c_long]

    def begin(self, box: Path, number: int, fault: Fault | None, slow_ns: int = 0) -> None:
        """Count, and let the operation of that number fail."""
        kinds = range(8) if fault is None else fault.kinds
        error, lasting = (0, False) if fault is None else (fault.error, fault.lasting)
        mask = sum(1 << kind for kind in kinds)
        self._c.failing_begin(os.fsencode(box), number, error, mask, lasting, slow_ns)

    def told(self) -> tuple[str, list[int]]:
        """What failed, and what was done."""
        what = os.fsdecode(self._c.failing_what())
        return what, [self._c.failing_seen(kind) for kind in range(8)]


def preloaded(folder: Path) -> Path:
    """The library, built; this process begins anew with it unless it has it already."""
    library = folder / "failing.so"
    if str(library) in os.environ.get("LD_PRELOAD", ""):
        return library
    source = Path(__file__).with_name("failing.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True
    )
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


class Fire:
    """All cases of a folder."""

    def __init__(self, folder: Path, layer: Layer, seed: int, address: str) -> None:
        self.folder, self.layer, self.seed = folder, layer, seed
        self.box, self.whole, self.begun = folder / "box", folder / "whole", folder / "begun"
        self.commands = commands(address)
        self.address = address
        self._counts: dict[str, tuple[int, ...]] = {}
        self.told: list[str] = []

    # Cases

    def cases(self, name: str, sample: int) -> list[tuple[str, int]]:
        """Faults of a command and their numbers, those that are done for all n first."""
        self._prepare(name)
        counts = self._counts[name]
        chance = random.Random(f"{self.seed} {name}")
        found = []
        for fault_name, fault in sorted(FAULTS.items(), key=lambda item: not item[1].every):
            total = sum(counts[kind] for kind in fault.kinds)
            numbers = range(1, total + 1)
            if not fault.every and total > sample:
                numbers = sorted(chance.sample(numbers, sample))  # type: ignore[assignment]
            found += [(fault_name, number) for number in numbers]
        found += [("slow disk", 0)]
        for real in REAL if os.getuid() == 0 else ():
            if real in AS_NOBODY and name in EXPORTS:
                continue
            found += [(real, number) for number in range(max(3, sample // 4))]
        if name == "download":
            found += [(how, 0) for how in NETWORK]
        return found

    def case(self, name: str, fault: str, number: int) -> dict[str, Any]:
        """Let a command fail, judge what is left, let it go on, and judge what comes of it."""
        self._prepare(name)
        command = self.commands[name]
        self._restore(name)
        before = files_of(self.box)
        faults: list[str] = []
        clean = True
        if fault in FAULTS:
            clean = FAULTS[fault].cleans
            outcome = self.go(command, lambda: self.layer.begin(self.box, number, FAULTS[fault]))
        elif fault in NETWORK:
            outcome = self._from_bad_server(fault)
        elif fault == "slow disk":
            outcome = self._two_at_a_time(command, faults)
        else:
            outcome = self._really(name, fault, number, before)
        if outcome.code != 0 or fault != "slow disk":
            faults += self._judged(command, fault, outcome)
        faults += command.spoiled(self.box, before, self.whole / name, torn=not clean)
        faults += [f"left: {left}" for left in remains(self.box, command.remains)] if clean else []
        if outcome.code != 0 and not self._is_whole(name):
            again = self.go(command, lambda: None)
            if again.code != 0:
                faults.append(f"again: code {again.code}: {again.said[-300:]}")
        different = command.unlike(self.box, self.whole / name, torn=not clean)
        if not clean:
            different = [each for each in different if not re.search(command.remains, each)]
        faults += [f"unlike the whole one: {each}" for each in different]
        # What could not be removed goes the next time; a lock when somebody takes it again.
        if clean or outcome.code != 0:
            besides = r"(?!)" if clean else r"\.(lock|owner)$"
            faults += [f"left in the end: {each}" for each in remains(self.box, besides)]
        return {
            "command": name, "fault": fault, "number": number, "code": outcome.code,
            "failed": outcome.failed.replace(str(self.box), ""),
            "said": outcome.said.replace(str(self.box), "")[-400:], "faults": faults,
        }  # fmt: skip

    def _is_whole(self, name: str) -> bool:
        """Whether it has done all, but for being sure of it; `data toy` has no second time."""
        return name == "toy" and (self.box / "new").is_dir()

    def _judged(self, command: Command, fault: str, outcome: Outcome) -> list[str]:
        """What is wrong with how it ended."""
        said, faults = outcome.said, []
        if outcome.code not in (0, 2):
            faults.append(f"code {outcome.code}: {said[-300:]}")
        if "Traceback" in said:
            faults.append(f"a traceback: {said[-300:]}")
        lines = [line for line in said.splitlines() if line.startswith("patchkin: error: ")]
        if outcome.code == 2 and not lines:
            faults.append(f"no line: {said[-300:]}")
        reasons = [os.strerror(FAULTS[fault].error)] if fault in FAULTS else []
        reasons += [NETWORK[fault]] if fault in NETWORK else []
        for line in lines:
            names_file = str(self.box) in line or fault in NETWORK
            if not names_file or (reasons and reasons[0] not in line):
                faults.append(f"file or reason is missing: {line}")
        if outcome.code == 2 and fault.startswith("half"):
            faults.append(f"code 2: {said[-300:]}")
        return faults

    # Ways to fail

    def _from_bad_server(self, how: str) -> Outcome:
        url = f"{self.address}/{how}/facades.tar.gz"
        arguments = self.commands["download"].arguments(self.box)
        arguments[arguments.index("--mirror") + 1] = url
        return self.go(Command(lambda _: arguments, lambda _: None), lambda: None)

    def _two_at_a_time(self, command: Command, faults: list[str]) -> Outcome:
        """The same command twice; who comes second waits, or is told."""

        def slow() -> None:
            self.layer.begin(self.box, 0, None, slow_ns=500_000)

        processes = [self._start(command, slow, self.folder / f"said{i}") for i in range(2)]
        outcomes = [
            self._end(process, self.folder / f"said{i}") for i, process in enumerate(processes)
        ]
        for outcome in outcomes:
            if outcome.code not in (0, 2) or "Traceback" in outcome.said:
                faults.append(f"code {outcome.code} on a slow disk: {outcome.said[-300:]}")
        if all(outcome.code for outcome in outcomes):
            faults.append(f"neither of two did it: {[outcome.said[-200:] for outcome in outcomes]}")
        return min(outcomes, key=lambda outcome: outcome.code)

    def _really(self, name: str, fault: str, number: int, before: dict[str, bytes]) -> Outcome:
        """A fault that the system makes itself."""
        command = self.commands[name]
        chance = random.Random(f"{self.seed} {name} {fault} {number}")
        size = sum(path.stat().st_size for path in self.box.rglob("*") if path.is_file())
        grown = sum(p.stat().st_size for p in (self.whole / name).rglob("*") if p.is_file())
        if fault == "limit":
            largest = max(p.stat().st_size for p in (self.whole / name).rglob("*") if p.is_file())
            limit = chance.randint(min(4096, largest), largest)
            return self.go(
                command, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            )
        if fault == "small disk":
            room = size + int(chance.random() * (grown - size)) + 8192 * len(before)
            with self._mounted("-t", "tmpfs", "-o", f"size={room // 4096 * 4096}", "none"):
                return self.go(command, lambda: None)
        if fault == "read-only mount":
            with self._mounted("--bind", "-o", "ro", str(self.box)):
                return self.go(command, lambda: None)
        places = [self.box, *(path for path in sorted(self.box.rglob("*")))]
        wanted = [path for path in places if path.is_dir() == (fault == "folder of another")]
        place = chance.choice(wanted) if wanted else self.box
        for path in places:
            os.chown(path, NOBODY, NOBODY)
        os.chown(place, 0, 0)
        place.chmod(0o555 if place.is_dir() else 0)
        try:
            return self.go(command, _as_nobody)
        finally:
            place.chmod(0o755 if place.is_dir() else 0o644)
            for path in (self.box, *self.box.rglob("*")):
                os.chown(path, 0, 0)

    @contextlib.contextmanager
    def _mounted(self, *options: str) -> Iterator[None]:
        """Another file system in place of the box; what is on it comes into the box afterwards."""
        kept = self.folder / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.box, kept, symlinks=True)
        subprocess.run(["mount", *options, str(self.box)], check=True)
        if "tmpfs" in options:
            shutil.copytree(kept, self.box, symlinks=True, dirs_exist_ok=True)
        try:
            yield
            shutil.rmtree(kept)
            shutil.copytree(self.box, kept, symlinks=True)
        finally:
            subprocess.run(["umount", str(self.box)], check=True)
        shutil.rmtree(self.box)
        kept.rename(self.box)

    # Processes

    def go(self, command: Command, prepare: Callable[[], None]) -> Outcome:
        """Run it in a fork, with something done there before."""
        said = self.folder / "said"
        return self._end(self._start(command, prepare, said), said)

    def _start(self, command: Command, prepare: Callable[[], None], said: Path) -> int:
        arguments = command.arguments(self.box)
        process = os.fork()
        if process:
            return process
        target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        told = os.open(f"{said}.told", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        code = 1
        try:
            report._curves = lambda *_: None
            prepare()
            code = patchkin(arguments)
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 (nothing may leave this process)
            os.write(2, traceback.format_exc().encode(errors="replace"))
        with contextlib.suppress(OSError):  # of a limit
            os.write(told, json.dumps(self.layer.told()).encode())
        os._exit(code)

    def _end(self, process: int, said: Path) -> Outcome:
        timer = threading.Timer(LIMIT_SECONDS, os.kill, (process, signal.SIGKILL))
        timer.start()
        _, status = os.waitpid(process, 0)
        timer.cancel()
        told = Path(f"{said}.told").read_text()
        failed, seen = json.loads(told) if told.endswith("]]") else ("", [])
        return Outcome(
            os.waitstatus_to_exitcode(status), said.read_text(errors="replace"), failed, tuple(seen)
        )

    def _prepare(self, name: str) -> None:
        """What the command begins with and what it makes, if they are not known yet."""
        begun, whole = self.begun / name, self.whole / name
        if name in self._counts:
            return
        command = self.commands[name]
        if not begun.is_dir():
            shutil.rmtree(self.box, ignore_errors=True)
            (self.box / "tmp").mkdir(parents=True)
            command.begin(self.box)
            begun.parent.mkdir(exist_ok=True)
            shutil.copytree(self.box, begun)
        self._restore(name)
        outcome = self.go(command, lambda: self.layer.begin(self.box, 0, None))
        if outcome.code != 0 or remains(self.box):
            raise SystemExit(f"{name} ends with {outcome.code}: {outcome.said} {remains(self.box)}")
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(self.box, whole)
        self._counts[name] = outcome.seen
        self._restore(name)
        if self.go(command, lambda: None).code or (different := command.unlike(self.box, whole)):
            raise SystemExit(f"{name} is not the same a second time: {different}")

    def _restore(self, name: str) -> None:
        shutil.rmtree(self.box, ignore_errors=True)
        shutil.copytree(self.begun / name, self.box)


def _as_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def summary(lines: list[dict[str, Any]]) -> str:
    """Of all cases so far, as text."""
    faulty = [line for line in lines if line["faults"]]
    rows = [f"{len(lines)} cases, {len(faulty)} with a fault"]
    for what in ("command", "fault"):
        counts = Counter((line[what], line["code"]) for line in lines)
        names = dict.fromkeys(line[what] for line in lines)
        rows += [
            f"  {name}: "
            + ", ".join(
                f"code {code} {n}" for (of, code), n in sorted(counts.items()) if of == name
            )
            for name in names
        ]
    rows += [
        f"  {line['command']}, {line['fault']} {line['number']} ({line['failed']}): {fault}"
        for line in faulty
        for fault in line["faults"]
    ]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for boxes and what was found")
    parser.add_argument(
        "--sample", type=int, default=20, help="of faults that are not done for all n"
    )
    parser.add_argument("--every", type=int, default=1, help="of the others, each so many n")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of commands")
    parser.add_argument("--faults", nargs="*", help="names of faults")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder.resolve()
    layer = Layer(preloaded(folder))
    torch.set_num_threads(1)
    os.environ |= {
        "TMPDIR": str(folder / "box" / "tmp"), "PATCHKIN_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"), "MPLCONFIGDIR": str(folder / "plots"),
    }  # fmt: skip
    (folder / "box" / "tmp").mkdir(parents=True, exist_ok=True)
    tempfile.gettempdir()  # tried once, with a file of its own
    small_runtime()
    with served() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fire = Fire(folder, layer, options.seed, f"http://127.0.0.1:{server.server_port}")
        lines = _burn(fire, folder / "files.jsonl", options)
        server.shutdown()
    print(summary(lines))
    return 1 if any(line["faults"] for line in lines) else 0


def _burn(fire: Fire, found: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    known = {(line["command"], line["fault"], line["number"]) for line in lines}
    for name in options.only or fire.commands:
        begun = time.monotonic()
        for fault, number in fire.cases(name, options.sample):
            skipped = fault in FAULTS and FAULTS[fault].every and number % options.every
            if skipped or (name, fault, number) in known:
                continue
            if options.faults and fault not in options.faults:
                continue
            lines.append(fire.case(name, fault, number))
            with found.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            for each in lines[-1]["faults"]:
                print(f"{name}, {fault} {number}: {each}", file=sys.stderr, flush=True)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return lines


if __name__ == "__main__":
    sys.exit(main())
