"""Spoiled files, names and folders through the verbs: is each refused in one line?

    python benchmarks/fire/inputs.py FOLDER [--cases 10000] [--seed 0]

Families: images (of 30 kinds, in folders of 20), names of files, folders (links in a circle,
pipes, sockets, files that vanish), settings and records (YAML, JSON), weights (safetensors,
pickles, ONNX) and archives. Each case runs in a process of its own. It must end with code 0 or 2,
without a traceback, within 10 s of processor time and 2 GB, naming every file that it refuses,
and must write nothing outside of its output.

What was found stands in FOLDER/inputs.jsonl, a line for each command; begun again, the script goes
on behind the last case. A fault leaves its files in FOLDER/faults.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import seeds
import torch
import yaml

from patchkin.cli import main as patchkin
from patchkin.data.archives import extract_archive
from patchkin.data.toy import write_toy
from patchkin.errors import PatchkinError
from patchkin.scoring import report

MANY = 20
"""Images of a folder."""
LIMIT_SECONDS, LIMIT_BYTES, HANGS_SECONDS = 10.0, 2 * 2**30, 120.0
TINY = (
    *("--size", "32", "--data.load-size", "36", "--device", "cpu", "--workers", "0"),
    *("--ngf", "2", "--ndf", "2", "--blocks", "1", "--method.num-patches", "8"),
    *("--method.head-width", "8", "--steps", "1"),
)


@dataclass(frozen=True)
class Command:
    """What is run, and what it must answer for."""

    arguments: tuple[str, ...]
    inputs: tuple[Path, ...] = ()
    """Files that each become an output, or are named."""
    output: Path | None = None
    act: Callable[[], int] | None = None
    """Instead of a verb."""
    beside: Callable[[], None] | None = None
    """Goes on in another thread of the process."""


@dataclass
class Outcome:
    code: int
    said: str
    seconds: float
    peak: int
    faults: list[str] = field(default_factory=list)


class Fire:
    """All cases of a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.box = folder / "box"
        self.data, self.run_dir = folder / "toy", folder / "run"
        if not self.data.is_dir():
            write_toy(self.data, size=64, train=6, test=2)
        if not self.run_dir.is_dir():
            self._must(
                ["train", "cut", "--data", str(self.data), "--run-dir", str(self.run_dir), *TINY]
            )
        self.model = next(self.run_dir.glob("checkpoints/step_*/model.safetensors"))
        onnx = folder / "model.onnx"
        if not onnx.is_file():
            self._must(["export", str(self.model), "--output", str(onnx)])
        self.images, self.archives = seeds.images(), seeds.archives()
        self.weights = {**seeds.weights(folder, self.model), "model.onnx": onnx.read_bytes()}

    def _must(self, arguments: list[str]) -> None:
        outcome = self.outcome(Command(tuple(arguments)))
        if outcome.code != 0:
            raise SystemExit(f"{arguments} ends with code {outcome.code}:\n{outcome.said}")

    def case(self, number: int) -> list[dict[str, Any]]:
        """Make the files of a case, run its commands, and say what became of each."""
        chance = random.Random(f"{self.seed} {number}")
        family = chance.choices(list(FAMILIES), weights=list(FAMILIES.values()))[0]
        shutil.rmtree(self.box, ignore_errors=True)
        self.box.mkdir()
        lines = []
        for command in family(self, self.box, chance):
            before = self._outside(command)
            outcome = self.outcome(command)
            self._judge(command, outcome, before)
            verb = " ".join(word for word in command.arguments[:2] if word.isalpha())
            lines.append({
                "case": number, "family": family.__name__, "verb": verb,
                "inputs": len(command.inputs), "code": outcome.code,
                "seconds": round(outcome.seconds, 2), "peak": outcome.peak,
                "faults": outcome.faults,
            })  # fmt: skip
            if outcome.faults:
                kept = self.folder / "faults" / f"{number}"
                shutil.copytree(self.box, kept, symlinks=True, dirs_exist_ok=True, ignore=_pipes)
                (kept / "said").write_text(outcome.said, errors="replace")
                (kept / "command").write_text("\n".join(command.arguments), errors="replace")
        return lines

    def outcome(self, command: Command) -> Outcome:
        """Run a command in a fork, in `box` if there is one."""
        said = self.folder / "said"
        process = os.fork()
        if not process:
            self._child(command, said)
        timer = threading.Timer(HANGS_SECONDS, os.kill, (process, signal.SIGKILL))
        timer.start()
        _, status, used = os.wait4(process, 0)
        timer.cancel()
        return Outcome(
            code=os.waitstatus_to_exitcode(status),
            said=said.read_text(errors="surrogateescape"),
            seconds=used.ru_utime + used.ru_stime,
            peak=used.ru_maxrss * 1024,
        )

    def _child(self, command: Command, said: Path) -> None:
        target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        code = 86
        try:
            if self.box.is_dir():
                os.chdir(self.box)
            report._curves = lambda *_: None
            if command.beside is not None:
                threading.Thread(target=command.beside, daemon=True).start()
            code = command.act() if command.act else patchkin(list(command.arguments))
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 (nothing may leave this process)
            os.write(2, traceback.format_exc().encode(errors="replace"))
        os._exit(code)

    def _outside(self, command: Command) -> dict[str, int]:
        """All files but those of the output, with their sizes."""
        found = {}
        for path in (*self.folder.glob("*"), *self.box.rglob("*"), *self.data.rglob("*")):
            within = command.output is not None and path.is_relative_to(command.output)
            if not within and path.name != "said" and not path.is_dir():
                with contextlib.suppress(OSError):
                    found[str(path)] = path.lstat().st_size
        return found

    def _judge(self, command: Command, outcome: Outcome, before: dict[str, int]) -> None:
        faults = outcome.faults
        if outcome.code not in (0, 2):
            faults.append(f"code {outcome.code}: {outcome.said[-300:]}")
        if "Traceback" in outcome.said:
            faults.append(f"a traceback: {outcome.said[-300:]}")
        if outcome.code == 2 and not outcome.said.strip():
            faults.append("it says nothing")
        if outcome.seconds > LIMIT_SECONDS:
            faults.append(f"{outcome.seconds:.0f} s")
        if outcome.peak > LIMIT_BYTES:
            faults.append(f"{outcome.peak / 1e9:.1f} GB")
        new = self._outside(command).items() - before.items()
        faults += [f"written outside: {path}" for path, _ in new if command.beside is None]
        if outcome.code in (0, 2) and command.inputs:
            output = command.output
            made = (
                {path.stem for path in output.rglob("*")} if output and output.is_dir() else set()
            )
            for path in command.inputs:
                if path.stem not in made and path.name not in outcome.said:
                    faults.append(f"not answered for: {path.name!r}")


def _pipes(folder: str, names: list[str]) -> list[str]:
    paths = {name: Path(folder) / name for name in names}
    return [
        n for n, path in paths.items() if not (path.is_dir() or path.is_file()) or path.is_symlink()
    ]


# Families: each yields the commands of a case, whose files it has written into `box`


def images(fire: Fire, box: Path, chance: random.Random) -> Iterator[Command]:
    """A folder of spoiled images, and one of them alone."""
    folder = box / "images"
    folder.mkdir()
    for number in range(MANY):
        name, content = chance.choice(list(fire.images.items()))
        suffix = Path(chance.choice(list(fire.images)) if chance.random() < 0.1 else name).suffix
        (folder / f"im{number:02d}x{suffix}").write_bytes(seeds.spoiled(content, chance))
    paths = tuple(sorted(folder.iterdir()))
    kept = ("--max-broken", "1")
    output = box / "out"
    other = str(fire.data / "trainB")
    yield Command(("data", "check", "--source", str(folder), "--target", other, *kept))
    yield Command(("translate", str(fire.model), str(folder), "-o", str(output)), paths, output)
    if chance.random() < 0.2:
        source = ("--data.source", str(folder), "--data.target", other, *kept)
        yield Command(
            ("train", "cut", *source, "--run-dir", str(box / "run"), *TINY), (), box / "run"
        )
    if chance.random() < 0.1:
        yield Command(("evaluate", str(folder), "--target", other), (), folder)


def names(fire: Fire, box: Path, chance: random.Random) -> Iterator[Command]:
    """Good images with odd names."""
    folder = box / "images"
    folder.mkdir()
    for _ in range(MANY):
        with contextlib.suppress(OSError, ValueError):  # the system has no such names
            (folder / seeds.name(chance)).write_bytes(fire.images["grey.png"])
    output = box / "out"
    yield Command(("data", "check", "--source", str(folder), "--target", str(fire.data / "trainB")))
    yield Command(("translate", str(fire.model), str(folder), "-o", str(output)), (), output)
    # What begins with a dot is hidden, and no image of a folder.
    inputs, made = (len(list(path.glob("[!.]*.png"))) for path in (folder, output))
    if inputs != made:
        raise SystemExit(f"{made} of {inputs} images with odd names were translated, see {box}")


def trees(fire: Fire, box: Path, chance: random.Random) -> Iterator[Command]:
    """Folders with what is no file, with links in a circle, and files that go away."""
    folder = box / "images"
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    for number in range(MANY):
        place = chance.choice((folder, inner, inner.parent))
        (place / f"{number}.png").write_bytes(fire.images["grey.png"])
    (inner / "up").symlink_to(folder)
    (folder / "dangling.png").symlink_to(box / "nothing.png")
    (folder / "itself.png").symlink_to("itself.png")
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        listener.bind("socket.png")
    (folder / "null.png").symlink_to("/dev/zero")
    (folder / "folder.png").mkdir()
    for number in range(chance.choice((0, 0, 2000))):
        (folder / "many" / str(number)).mkdir(parents=True)
    vanishing = sorted(inner.rglob("*.png"))

    def vanish() -> None:
        time.sleep(chance.random() * 0.2)
        for path in vanishing:
            path.unlink(missing_ok=True)

    output = box / "out"
    yield Command(("data", "check", "--source", str(folder), "--target", str(fire.data / "trainB")))
    translate = ("translate", str(fire.model), str(folder), "-o", str(output))
    yield Command(translate, (), output, beside=vanish)


def settings(fire: Fire, box: Path, chance: random.Random) -> Iterator[Command]:
    """Settings and records that are something else."""
    run_dir = shutil.copytree(fire.run_dir, box / "run")
    kind = chance.choice(("config", "resume", "data", "state", "compare", "log"))
    text = {
        "config": "config.yaml", "resume": "config.yaml", "compare": "config.yaml",
        "data": "data.json", "log": "log.jsonl",
    }.get(kind)  # fmt: skip
    path = run_dir / text if text else next(run_dir.glob("checkpoints/step_*/state.json"))
    content = path.read_text()
    if kind == "log" or chance.random() < 0.4:
        path.write_bytes(_rewritten(content.encode(), chance))
    elif path.suffix == ".yaml":
        tree = seeds.strange(yaml.safe_load(content), chance)
        path.write_text(yaml.safe_dump(tree), errors="replace")
    else:
        path.write_text(json.dumps(seeds.strange(json.loads(content), chance)))
    if kind == "config":
        flags = ("--data", str(fire.data), "--run-dir", str(box / "new"), *TINY)
        yield Command(("train", "cut", "--config", str(path), *flags), (), box / "new")
    elif kind in ("compare", "log"):
        yield Command(("compare", str(run_dir), str(fire.run_dir)))
    else:
        more = ("--steps", "2") if chance.random() < 0.5 else ()
        yield Command(("train", "--resume", str(run_dir), *more), (), run_dir)


def _rewritten(content: bytes, chance: random.Random) -> bytes:
    """Text that another program would not have written."""
    deep = chance.choice((b"[" * 50_000, b'{"a":' * 50_000, b"- " * 3000, b"a: &a [*a, *a]"))
    doubling = b"".join(b"x%d: &x%d [*x%d, *x%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40))
    return chance.choice((deep, b"x0: &x0 [1]\n" + doubling, seeds.spoiled(content, chance)))


def weights(fire: Fire, box: Path, chance: random.Random) -> Iterator[Command]:
    """Spoiled models, checkpoints of other programs, and ONNX files."""
    name, content = chance.choice(list(fire.weights.items()))
    path = box / name
    path.write_bytes(seeds.spoiled(content, chance))
    image, output = str(fire.data / "testA" / "0000.png"), box / "out"
    verbs = {
        "translate": (str(path), image, "-o", str(output)),
        "evaluate": (str(path), "--data", str(fire.data)),
        "import-weights": (str(path), "-o", str(output / "x.safetensors")),
        "export": (str(path), "-o", str(output / "x.onnx")),
    }
    for verb in chance.sample(list(verbs), 2):
        yield Command((verb, *verbs[verb]), (), output)


def archives(fire: Fire, box: Path, chance: random.Random) -> Iterator[Command]:
    """Spoiled archives, and whole ones that want to write elsewhere."""
    name, content = chance.choice(list(fire.archives.items()))
    path = box / name
    path.write_bytes(seeds.spoiled(content, chance) if chance.random() < 0.9 else content)

    def extract() -> int:
        try:
            extract_archive(path, box / "out")
        except PatchkinError as error:
            print(error)
            return 2
        return 0

    yield Command(("extract",), (), box / "out", act=extract)


FAMILIES = {images: 8, names: 1, trees: 1, settings: 6, weights: 6, archives: 4}
"""How often each is drawn."""


def summary(lines: list[dict[str, Any]]) -> str:
    """Of all commands so far, as text."""
    faulty = [line for line in lines if line["faults"]]
    seconds, peak = (max(line[what] for line in lines) for what in ("seconds", "peak"))
    rows = [
        f"{len({line['case'] for line in lines})} cases, {len(lines)} commands, "
        f"{num_inputs(lines)} files, {len(faulty)} commands with a fault; at most "
        f"{seconds:.1f} s, {peak / 1e9:.2f} GB"
    ]
    kinds = Counter((line["family"], line["verb"], line["code"]) for line in lines)
    rows += [
        f"  {family}, {verb}: code {code}: {n}" for (family, verb, code), n in sorted(kinds.items())
    ]
    rows += [
        f"  case {line['case']}, {line['verb']}: {fault}"
        for line in faulty
        for fault in line["faults"]
    ]
    return "\n".join(rows)


def num_inputs(lines: list[dict[str, Any]]) -> int:
    """Spoiled files, each once."""
    most = Counter[int]()
    for line in lines:
        most[line["case"]] = max(most[line["case"]], line["inputs"], 1)
    return sum(most.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for files and what was found")
    parser.add_argument("--cases", type=int, default=10_000, help="spoiled files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="CASE", help="this one again, and what it says")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    fire = Fire(options.folder.resolve(), options.seed)
    if options.only is not None:
        for line in fire.case(options.only):
            print(json.dumps(line, indent=1))
        return 0
    found = options.folder / "inputs.jsonl"
    lines = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    number = lines[-1]["case"] + 1 if lines else 0
    while num_inputs(lines) < options.cases:
        new = fire.case(number)
        lines += new
        number += 1
        with found.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in new)
        for line in new:
            if line["faults"]:
                print(
                    f"case {line['case']}, {line['verb']}: {line['faults']}",
                    file=sys.stderr,
                    flush=True,
                )
    print(summary(lines))
    return 1 if any(line["faults"] for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
