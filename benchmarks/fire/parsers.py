"""Our own parsers, tried by atheris, which is guided by the lines that an input reaches.

    pip install "atheris==3.0.0"
    python benchmarks/fire/parsers.py FOLDER --minutes 1 [--only NAME ...] [--seed 0]

Each target of `parser_targets.py` gets the minutes, in a fork of its own; only `patchkin` is
instrumented, so that decoders of others do not lead the search. A reader must return, or raise
one of patchkin's errors whose message has one line of at most 2,000 letters; within a second of
processor time and 2.5 GB; without starting a program, a connection, or writing outside of its
folder.

What was tried stands in FOLDER/parsers.jsonl, a line for each target and call; inputs that reached
new lines are kept in FOLDER/corpus, and the next call begins with them. A fault leaves its input
and traceback in FOLDER/faults, once for each place in the source; `--again` runs these once more.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import logging
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
LIMIT_SECONDS, LIMIT_MEGABYTES, HANGS_SECONDS = 1.0, 2560, 20
MOST_LETTERS = 2000
"""Of a message."""
FORBIDDEN = frozenset((
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen"),
    *("socket.connect", "socket.bind", "webbrowser.open", "ctypes.dlopen", "pty.spawn"),
))  # fmt: skip
"""Python's names of events (PEP 578) that no reader of a file causes."""
JUNK = (
    *(b"", b"\0", b"\xff" * 40, b"{}", b"[[1]]", b"3", b"null", b'"x"', b"a: [", b"- 1\n- {}"),
    *(b'{"a": {"b": [1, 2.5, true, null]}}', b"a:\n  b: [1, x]\n", b"PK\x05\x06" + bytes(18)),
)
"""Every target begins with these too."""
CHANGING = frozenset(("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink"))
"""And none outside of the folder of its own."""
_WORD = re.compile(rb"[A-Za-z_!<][\w:./-]{2,30}")
_PROGRESS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")
_EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)")


class Watch:
    """Judges what a reader does with an input."""

    def __init__(self, box: Path, faults: Path) -> None:
        self.box, self.faults = box, faults
        self._events: list[str] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._events is None:
            return
        if event in FORBIDDEN:
            self._events.append(f"{event} {arguments!r:.200}")
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        path = arguments[0] if writes or event in CHANGING else None
        if isinstance(path, (str, bytes, os.PathLike)):
            within = arguments[1] if event in ("os.remove", "os.rmdir") else -1  # of a handle
            base = "" if within == -1 else os.path.realpath(f"/proc/self/fd/{within}")
            name = os.path.realpath(Path(base, os.fsdecode(path)))
            if not name.startswith(str(self.box.resolve())) and name != os.devnull:
                self._events.append(f"{event} {name!r}")

    def judged(self, read: Callable[[bytes, Path], object], data: bytes) -> tuple[str, str] | None:
        """A name of the fault, and what is to be told of it."""
        from patchkin.errors import PatchkinError

        _emptied(self.box)
        self._events, began = [], time.process_time()
        try:
            read(data, self.box)
        except PatchkinError as error:
            line = "".join(filter(str.isprintable, " ".join(str(error).split())))
            if not 0 < len(line) <= MOST_LETTERS:
                return f"message-{_place(error)}", f"{len(line)} letters: {line[:400]}"
        except RecursionError as error:
            return f"RecursionError-{_place(error)}", "too deep"
        except Exception as error:  # noqa: BLE001 (these are what is looked for)
            name = f"{type(error).__name__}-{_place(error)}"
            return name, "".join(traceback.format_exception(error)[-12:])
        finally:
            events, self._events = self._events, None
        seconds = time.process_time() - began
        if events:
            return f"event-{events[0].split()[0]}", "\n".join(events)
        if seconds > LIMIT_SECONDS:
            return "slow", f"{seconds:.1f} s"
        return None

    def keep(self, target: str, found: tuple[str, str], data: bytes) -> None:
        """Write a fault, unless one of the same place is there."""
        name, told = found
        path = self.faults / f"{target}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
        if not path.exists():
            path.write_bytes(data)
            path.with_name(f"{path.name}.txt").write_text(told, errors="backslashreplace")


def _place(error: BaseException) -> str:
    """The last line of patchkin that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}patchkin{os.sep}" in frame.filename]
    last = (own or list(frames))[-1]
    return f"{Path(last.filename).name}-{last.name}"


def quiet() -> None:
    """Nothing is said while inputs are tried by the thousand."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


# In the process of a target


def targets_of(folder: Path) -> dict[str, Any]:
    """All targets, with what they begin with from a run in the folder."""
    import parser_targets

    run = folder / "run"
    model = next(run.glob("checkpoints/step_*/model.safetensors"))
    return parser_targets.make_targets(run, model, (folder / "model.onnx").read_bytes())


def instrumented(folder: Path, names: list[str]) -> dict[str, Any]:
    """The targets, whose lines tell atheris when they are reached."""
    import atheris

    with atheris.instrument_imports(include=["patchkin"]):
        targets = targets_of(folder)
        for name in names or targets:
            for data in targets[name].seeds:  # and so is what is imported on the way
                with contextlib.suppress(Exception):
                    targets[name].read(data, _emptied(folder / "box" / "first"))
    return targets


def fuzz(folder: Path, name: str, target: Any, seconds: float, seed: int) -> None:
    """Try one target, to the end of the process."""
    import atheris

    watch = Watch(folder / "box" / name, folder / "faults")
    corpus = folder / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((*target.seeds, *JUNK)):
        (corpus / f"seed-{number}").write_bytes(data)
    words = sorted({word for data in target.seeds for word in _WORD.findall(data[:4000])})[:400]
    known = folder / "corpus" / f"{name}.dict"
    known.write_text("".join(f'"{word.decode()}"\n' for word in words))

    def one(data: bytes) -> None:
        found = watch.judged(target.read, data)
        if found is not None:
            watch.keep(name, found, data)

    flags = {
        "max_total_time": max(1, round(seconds)), "seed": seed + 1, "max_len": target.longest,
        "timeout": HANGS_SECONDS, "rss_limit_mb": LIMIT_MEGABYTES, "print_final_stats": 1,
        "artifact_prefix": f"{folder / 'faults' / name}-", "dict": known,
    }  # fmt: skip
    arguments = [f"-{flag}={value}" for flag, value in flags.items()]
    atheris.Setup([str(HERE), str(corpus), *arguments], one)
    leave = ctypes.CFUNCTYPE(None)(lambda: os._exit(0))  # a fork cannot end the threads of torch
    ctypes.CDLL(None)["__cxa_atexit"](leave, None, None)
    atheris.Fuzz()


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# Around it


def prepare(folder: Path) -> None:
    """A run and an exported model, made once."""
    if (folder / "model.onnx").is_file():
        return
    process = os.fork()  # what is imported here would not be instrumented
    if process:
        if os.waitpid(process, 0)[1]:
            raise SystemExit("no run could be made")
        return
    from inputs import Fire

    shutil.rmtree(folder / "run", ignore_errors=True)
    Fire(folder, 0)
    os._exit(0)


def tried(folder: Path, name: str, target: Any, seconds: float, seed: int) -> dict[str, Any]:
    """One target for a time; begun anew where it hung or died."""
    until, executions, reached = time.monotonic() + seconds, 0, ("0", "0", "0")
    ended = 0
    log = folder / "logs" / f"{name}.log"
    while (left := until - time.monotonic()) > 1:
        process = os.fork()
        if not process:
            said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            try:
                fuzz(folder, name, target, left, seed + ended)
            except BaseException:  # noqa: BLE001 (nothing may leave this process)
                os.write(2, traceback.format_exc().encode())
            os._exit(86)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        text = log.read_text(errors="replace")
        done = _EXECUTIONS.findall(text) or re.findall(r"^#(\d+)\t", text, re.MULTILINE)
        executions += int(done[-1]) if done else 0
        reached = (_PROGRESS.findall(text) or [reached])[-1]
        if code == 0:
            break
        if not done:
            raise SystemExit(f"{name} does not begin, see {log}:\n{text[-2000:]}")
        ended += 1
    lines, features, kept = map(int, reached)
    return {
        "target": name, "minutes": round(seconds / 60, 2), "seed": seed, "executions": executions,
        "lines": lines, "features": features, "corpus": kept, "ended": ended,
        "faults": len(list(_faults(folder, name))),
    }  # fmt: skip


def _faults(folder: Path, name: str) -> Iterator[Path]:
    for path in sorted((folder / "faults").glob(f"{name}-*")):
        if path.suffix != ".txt":
            yield path


def again(folder: Path, names: list[str]) -> int:
    """Run the inputs of all faults once more; how many are faults still."""
    quiet()
    targets, still = targets_of(folder), 0
    watch = Watch(folder / "box" / "again", folder / "faults")
    for name in names or targets:
        for path in _faults(folder, name):
            found = watch.judged(targets[name].read, path.read_bytes())
            print(f"{path.name}: {'mended' if found is None else found[1].strip()[-300:]}")
            still += found is not None
    return still


def summary(lines: list[dict[str, Any]]) -> str:
    """A row for each target: executions of all calls, and what the last one knew."""
    rows = [f"{'target':20} executions   edges features corpus faults"]
    for name in sorted({line["target"] for line in lines}):
        own = [line for line in lines if line["target"] == name]
        last, executions = own[-1], sum(line["executions"] for line in own)
        numbers = f"{last['lines']:7} {last['features']:8} {last['corpus']:6} {last['faults']:6}"
        rows.append(f"{name:20} {executions:10} {numbers}")
    rows.append(f"{'all':20} {sum(line['executions'] for line in lines):10}")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for inputs and what was found")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="the faults that were found")
    options = parser.parse_args()
    folder, seconds = options.folder.resolve(), options.minutes * 60
    for name in ("faults", "logs", "corpus"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(HERE.parent))
    prepare(folder)
    if options.again:
        return 1 if again(folder, options.only) else 0
    found = folder / "parsers.jsonl"
    quiet()
    targets = instrumented(folder, options.only)
    for name in options.only or targets:
        line = tried(folder, name, targets[name], seconds, options.seed)
        with found.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    print(summary([json.loads(line) for line in found.read_text().splitlines()]))
    return 1 if any(any(_faults(folder, name)) for name in targets) else 0


if __name__ == "__main__":
    sys.exit(main())
