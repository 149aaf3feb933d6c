"""The same numbers: does a run depend on workers, processes, a stop, threads, or versions?

    python benchmarks/fire/same_numbers.py FOLDER
    python benchmarks/fire/same_numbers.py --table FOLDER [FOLDER ...]

The first trains some methods with tiny networks for a few steps in all the ways that should give
the same, or the same up to rounding; makes views of the toy set in every way of cutting them; and
runs the golden tests for their largest errors. What was found stands in FOLDER/numbers.json. Begun
again, it goes on behind what stands there.

The second writes tables of one or several such folders, each made by another environment, with
what is promised and what was seen. It ends with code 1 if something is not as promised.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from safetensors.torch import load_file

from patchkin.cli import main as patchkin
from patchkin.data.config import DataConfig
from patchkin.data.loading import open_training_data, training_loader
from patchkin.data.toy import write_toy
from patchkin.scoring import report
from patchkin.storage.checkpoint import CheckpointStore

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS, MIDDLE = 6, 3
SMALL = (
    *("--size", "32", "--data.load-size", "36", "--device", "cpu", "--steps", str(STEPS)),
    *("--save-every", str(MIDDLE), "--training.keep", "0", "--training.log-every", "1"),
    *("--ngf", "4", "--ndf", "4", "--blocks", "5", "--schedule.ema-decay", "0.5"),
)
PLACES = ("--method.num-patches", "8", "--method.head-width", "8")
METHODS = {
    "cut": PLACES,
    "semantic-relation": PLACES,
    "cyclegan": (),
    "negcut": PLACES,
}
FIRST_TERMS = 1e-5
"""Relative: losses of one step in float32, their sums in another order."""
MOST_WEIGHTS = (0.9, 1e-5)
"""Share of the weights after the last step, and how near they are. Adam's first steps have the
length of the learning rate, whatever the gradient: where it is only rounding, so is the step."""
ADAM_RATE, ADAM_STEP = 2e-4, 2.1
"""No weight differs by more than this many rates in a step: Adam can move it no further."""
PREPROCESSES = (
    *("resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none"),
    *("scale_shortside_and_crop", "shortside_and_crop", "zoom_and_crop"),
)
STATE_FILES = ("model.safetensors", "optimizers.safetensors")


@dataclass(frozen=True)
class Way:
    """To make a run, and what is promised of it."""

    name: str
    flags: tuple[str, ...] = ()
    threads: int = 1
    like: str | None = "plain"
    """The way whose numbers it must give; None for one that others are compared with."""
    exact: bool = True
    """Bit for bit; else as near as `NEAR` says."""
    resumed: bool = False
    """Goes on from the middle of a run that was made like `like`."""


WAYS = (
    Way("plain", like=None),
    Way("the same again"),
    Way("1 loader worker", ("--workers", "1")),
    Way("4 loader workers", ("--workers", "4")),
    Way("cache", ("--cache", "{cache}")),
    Way("resumed after step 3", resumed=True),
    Way("2 threads", threads=2, exact=False),
    Way("batch of 2", ("--batch-size", "2"), like=None),
    Way("2 processes, 1 image each", ("--devices", "2"), like="batch of 2", exact=False),
    Way("that again", ("--devices", "2"), like="2 processes, 1 image each"),
)
NEAR = (
    f"terms of the first step within {FIRST_TERMS:g} of themselves; "
    f"{MOST_WEIGHTS[0]:.0%} of the weights within {MOST_WEIGHTS[1]:g}, none beyond "
    f"{ADAM_STEP * ADAM_RATE * STEPS:.2g}, in {STEPS} steps"
)


# What is seen of a run


def terms_of(run_dir: Path) -> list[dict[str, float]]:
    """Of each step."""
    records = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return [record["terms"] for record in records if "terms" in record]


def state_of(run_dir: Path) -> dict[str, bytes]:
    """The files that a run would go on from."""
    folder = CheckpointStore(run_dir).path(STEPS)
    return {name: (folder / name).read_bytes() for name in STATE_FILES}


def compared(run_dir: Path, other: Path) -> dict[str, Any]:
    """How far two runs are apart."""
    found, expected = terms_of(run_dir), terms_of(other)
    names = [step.keys() for step in expected]
    if [step.keys() for step in found] != names:
        raise SystemExit(f"{run_dir} and {other} have other terms")
    weights = [load_file(CheckpointStore(d).path(STEPS) / STATE_FILES[0]) for d in (run_dir, other)]
    if weights[0].keys() != weights[1].keys():
        raise SystemExit(f"{run_dir} and {other} have other weights")
    differences = torch.cat(
        [(weights[0][n].double() - weights[1][n].double()).abs().flatten() for n in weights[0]]
    )
    return {
        "equal": found == expected and state_of(run_dir) == state_of(other),
        "first_terms": apart(found[:1], expected[:1]),
        "last_terms": apart(found[-1:], expected[-1:]),
        "largest_weight": float(differences.max()),
        "near_weights": float((differences <= MOST_WEIGHTS[1]).double().mean()),
    }


def apart(found: Sequence[Mapping[str, float]], expected: Sequence[Mapping[str, float]]) -> float:
    """The largest difference of terms, relative to what was expected."""
    return max(
        (
            abs(value - there[name]) / max(abs(there[name]), 1e-12)
            for here, there in zip(found, expected, strict=True)
            for name, value in here.items()
        ),
        default=math.nan,
    )


def is_near(seen: Mapping[str, Any]) -> bool:
    """Whether it is what `NEAR` says."""
    return bool(
        seen["first_terms"] <= FIRST_TERMS
        and seen["near_weights"] >= MOST_WEIGHTS[0]
        and seen["largest_weight"] <= ADAM_STEP * ADAM_RATE * STEPS
    )


# What is made


class Numbers:
    """Of one environment, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "toy"
        if not self.data.is_dir():
            write_toy(self.data, size=64, train=6, test=2)
        self.file = folder / "numbers.json"
        self.found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def make(self) -> None:
        """All that is not there yet."""
        self._once("environment", environment)
        self._once("toy", lambda: {"sha256": pixels_digest(self.data)})
        self._once("views", lambda: {name: views_digest(self.data, name) for name in PREPROCESSES})
        for method in METHODS:
            for way in WAYS:
                self._once(f"{method}: {way.name}", lambda m=method, w=way: self._seen(m, w))
        self._once("goldens", lambda: golden_errors(self.folder / "goldens.jsonl"))

    def _once(self, name: str, make: Callable[[], Any]) -> None:
        if name not in self.found:
            self.found[name] = make()
            self.file.write_text(json.dumps(self.found, indent=1) + "\n")

    def _seen(self, method: str, way: Way) -> dict[str, Any]:
        run_dir = self._place(method, way.name)
        shutil.rmtree(run_dir, ignore_errors=True)
        if way.resumed:
            shutil.copytree(self._place(method, str(way.like)), run_dir)
            cut_back(run_dir, MIDDLE)
            self._train(way, "--resume", str(run_dir))
        else:
            workers = () if "--workers" in way.flags else ("--workers", "0")
            flags = [flag.format(cache=self.folder / "cache") for flag in way.flags]
            begin = (method, "--data", str(self.data), "--run-dir", str(run_dir))
            self._train(way, *begin, *SMALL, *METHODS[method], *workers, *flags)
        if way.like is None:
            return {"terms": terms_of(run_dir)}
        return compared(run_dir, self._place(method, way.like))

    def _place(self, method: str, way: str) -> Path:
        return self.folder / "runs" / f"{method}-{way.replace(' ', '_').replace(',', '')}"

    def _train(self, way: Way, *arguments: str) -> None:
        said = self.folder / "said"
        start = alone if "--devices" in arguments else forked
        with said.open("wb") as file:
            code = start(["train", *arguments], file.fileno(), way.threads)
        if code:
            told = said.read_text(errors="replace")[-2000:]
            raise SystemExit(f"{way.name}: code {code}\n{told}")


def alone(command: list[str], said: int, threads: int) -> int:
    """The exit code of a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "patchkin", *command],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=said, stderr=said, check=False,
    ).returncode  # fmt: skip


def forked(command: list[str], said: int, threads: int) -> int:
    """The same in a fork of this process, which has imported everything; its reports have no
    plots, which take seconds.
    """
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 1
    try:
        report._curves = lambda *_: None
        torch.set_num_threads(threads)
        code = patchkin(command)
    finally:
        sys.stderr.flush()
        os._exit(code)


def cut_back(run_dir: Path, step: int) -> None:
    """A run as it would be had it been killed right after the save of a step."""
    store = CheckpointStore(run_dir)
    for later in [saved for saved in store.steps() if saved > step]:
        shutil.rmtree(store.path(later))
    store.point("last", step)


def environment() -> dict[str, str]:
    """What the numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def pixels_digest(root: Path) -> str:
    """Of all images below a folder, as Pillow reads them."""
    from PIL import Image

    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.png")):
        with Image.open(path) as image:
            digest.update(path.relative_to(root).as_posix().encode() + image.tobytes())
    return digest.hexdigest()


def views_digest(root: Path, preprocess: str) -> str:
    """Of the batches of some steps."""
    config = DataConfig(root=str(root), size=32, load_size=44, preprocess=preprocess, workers=0)
    dataset = open_training_data(config, seed=0, threads=1).dataset
    digest = hashlib.sha256()
    for batch in training_loader(dataset, batch_size=1, total_steps=8):
        digest.update(batch.a_BCHW.numpy().tobytes() + batch.b_BCHW.numpy().tobytes())
    return digest.hexdigest()


def golden_errors(file: Path) -> dict[str, Any]:
    """Of each schema: comparisons, largest share of a tolerance, largest relative error."""
    file.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *("-W", "default::DeprecationWarning", "-W", "default::FutureWarning"),
        "tests/goldens",
    ]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATCHKIN_GOLDEN_ERRORS": str(file.resolve())},
    )  # fmt: skip
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if not lines:
        raise SystemExit(f"no golden was read:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    schemas: dict[str, dict[str, Any]] = {}
    for line in lines:
        seen = schemas.setdefault(line["schema"], {"comparisons": 0, "share": 0.0, "error": 0.0})
        seen["comparisons"] += line["comparisons"]
        for name in ("share", "error"):
            seen[name] = max(seen[name], line[name])
    last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "")
    return {"code": done.returncode, "said": last.strip("= "), "schemas": schemas}


# Tables


def tables(folders: Sequence[Path]) -> tuple[str, list[str]]:
    """Of all environments, and what is not as promised."""
    found = [json.loads((folder / "numbers.json").read_text()) for folder in folders]
    heads = [f"{letter}" for letter, _ in zip("ABCDEFGH", found, strict=False)]
    wrong: list[str] = []
    parts = [
        rows(["", *next(iter(found))["environment"]], (
            [head, *one["environment"].values()] for head, one in zip(heads, found, strict=True)
        )),
        "All methods (" + ", ".join(METHODS) + "), the worst of them:",
        rows(["way", "promised", *heads], way_rows(found, heads, wrong)),
        f"Near: {NEAR}.",
    ]  # fmt: skip
    if len(found) > 1:
        parts += [f"Beside {heads[0]}:", rows(["of", *heads[1:]], beside(folders, found))]
    parts += [
        "Goldens: the largest error of each schema as a share of its tolerance, and relative to "
        "the largest number of its tensor.",
        rows(["schema", "comparisons", *heads], golden_rows(found, heads, wrong)),
    ]
    return "\n\n".join(parts) + "\n", wrong


def way_rows(
    found: Sequence[Mapping[str, Any]], heads: Sequence[str], wrong: list[str]
) -> Iterable[list[str]]:
    for way in WAYS:
        if way.like is None:
            continue
        cells = []
        for head, one in zip(heads, found, strict=True):
            seen = {method: one[f"{method}: {way.name}"] for method in METHODS}
            cells.append(way_cell(list(seen.values())))
            wrong += [
                f"{head}: {method}, {way.name}: {told}"
                for method, told in seen.items()
                if not (told["equal"] if way.exact else is_near(told))
            ]
        yield [f"{way.name}, as {way.like}", "bit-equal" if way.exact else "near", *cells]


def way_cell(seen: Sequence[Mapping[str, Any]]) -> str:
    if all(one["equal"] for one in seen):
        return "bit-equal"
    first, last, largest = (
        max(one[name] for one in seen) for name in ("first_terms", "last_terms", "largest_weight")
    )
    near = min(one["near_weights"] for one in seen)
    return f"first terms {first:.1e}, last {last:.1e}; weights {near:.1%} near, most {largest:.1e}"


def beside(folders: Sequence[Path], found: Sequence[Mapping[str, Any]]) -> Iterable[list[str]]:
    """What the environments after the first differ in from it."""
    first, others = found[0], found[1:]
    yield ["pixels of the toy set", *(same(one["toy"], first["toy"]) for one in others)]
    for name in PREPROCESSES:
        cells = (same(one["views"][name], first["views"][name]) for one in others)
        yield [f"views, `{name}`", *cells]
    runs = [[folder / "runs" / f"{method}-plain" for method in METHODS] for folder in folders]
    for place, method in enumerate(METHODS):
        cells = (way_cell([compared(one[place], runs[0][place])]) for one in runs[1:])
        yield [f"`{method}`, {STEPS} steps", *cells]


def same(one: Any, other: Any) -> str:
    return "the same" if one == other else "others"


def golden_rows(
    found: Sequence[Mapping[str, Any]], heads: Sequence[str], wrong: list[str]
) -> Iterable[list[str]]:
    for head, one in zip(heads, found, strict=True):
        if one["goldens"]["code"]:
            wrong.append(f"{head}: golden tests: {one['goldens']['said']}")
    schemas = [one["goldens"]["schemas"] for one in found]
    for name in sorted({name for of_one in schemas for name in of_one}):
        cells = []
        for of_one in schemas:
            seen = of_one.get(name)
            if seen is None:
                cells.append("-")
            elif seen["comparisons"] == 0:
                cells.append("equal")
            else:
                cells.append(f"{seen['share']:.2g}; {seen['error']:.1e}")
        counts = {of_one[name]["comparisons"] for of_one in schemas if name in of_one}
        yield [f"`{name}`", " or ".join(map(str, sorted(counts))), *cells]


def rows(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    told = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--table", action="store_true", help="of folders that are made")
    options = parser.parse_args()
    if not options.table:
        if len(options.folders) != 1:
            parser.error("one environment has one folder; --table takes several")
        options.folders[0].mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        Numbers(options.folders[0].resolve()).make()
    text, wrong = tables(options.folders)
    print(text)
    for line in wrong:
        print(f"not as promised: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
