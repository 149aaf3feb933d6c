"""The same numbers: does a run depend on workers, processes, a stop, threads, or versions?

    python benchmarks/fire/same_numbers.py FOLDER
    python benchmarks/fire/same_tables.py FOLDER [FOLDER ...]

Trains some methods with tiny networks for a few steps in all the ways that should give
the same, or the same up to rounding; makes views of the toy set in every way of cutting them; and
runs the golden tests for their largest errors. What was found stands in FOLDER/numbers.json. Begun
again, it goes on behind what stands there.

The other script writes tables of what several environments made.
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
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from safetensors.torch import load_file, save_file

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
ADAM_RATE, ADAM_STEP = 2e-4, 2.1
"""No weight differs by more than this many rates in a step: Adam can move it no further. Its first
steps have the length of the rate, whatever the gradient: where it is only rounding, so is the
step, and a few steps of tiny networks in float32 are far apart. Hence the same in float64."""
VARIANTS = ("cut", "relation", "cyclegan", "negcut", "dclgan", "munit")
"""Of `tests/methods/test_contract.py`, in float64."""
DOUBLE = 1e-6
"""The largest difference of weights after three steps in float64."""
NEAR_WEIGHT = 1e-5
"""The share of weights as near as this is told, not promised."""
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
    f"terms of the first step within {FIRST_TERMS:g} of themselves; no weight further than Adam "
    f"can move it in {STEPS} steps, {ADAM_STEP * ADAM_RATE * STEPS:.2g}"
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
        "near_weights": float((differences <= NEAR_WEIGHT).double().mean()),
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
        and seen["largest_weight"] <= ADAM_STEP * ADAM_RATE * STEPS
    )


# What is made


class Numbers:
    """Of one environment, in one folder."""

    def __init__(self, folder: Path, only: Sequence[str] = ()) -> None:
        self.folder, self.only = folder, tuple(only)
        self.data = folder / "toy"
        if not self.data.is_dir():
            write_toy(self.data, size=64, train=6, test=2)
        self.file = folder / "numbers.json"
        self.found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def make(self) -> None:
        """All that is not there yet."""
        self._once("environment", environment)
        self._once("goldens", lambda: golden_errors(self.folder / "goldens.jsonl"))
        self._once("toy", lambda: {"sha256": pixels_digest(self.data)})
        self._once("views", lambda: {name: views_digest(self.data, name) for name in PREPROCESSES})
        for method in METHODS:
            for way in WAYS:
                self._once(f"{method}: {way.name}", lambda m=method, w=way: self._seen(m, w))
        self._once("in double", self._in_double)

    def _once(self, name: str, make: Callable[[], Any]) -> None:
        wanted = not self.only or name == "environment" or name.startswith(self.only)
        if wanted and name not in self.found:
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

    def _in_double(self) -> dict[str, dict[str, float]]:
        """The largest difference of weights in float64, by threads and by processes."""
        tests = str(REPOSITORY / "tests")
        sys.path.insert(0, tests)
        script = str(REPOSITORY / "tests" / "training" / "two_processes.py")
        path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
        found: dict[str, dict[str, float]] = {}
        for variant in VARIANTS:
            one, threads, two = (self.folder / f"{variant}-{n}" for n in ("one", "threads", "two"))
            for target, number in ((one, 1), (threads, 2)):
                in_a_fork(lambda t=target, n=number, v=variant: steps_in_double(v, t, n))
            subprocess.run(
                [sys.executable, script, variant, "2", str(two)],
                check=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            expected = load_file(one)
            found[variant] = {
                name: max(
                    float((load_file(f)[n] - w).abs().max())
                    for n, w in expected.items()
                    if w.numel()
                )
                for name, f in (("2 threads", threads), ("2 processes", two))
            }
        return found

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

    def run() -> int:
        os.dup2(said, 1)
        os.dup2(said, 2)
        report._curves = lambda *_: None
        torch.set_num_threads(threads)
        return patchkin(command)

    return in_a_fork(run)


def in_a_fork(work: Callable[[], int]) -> int:
    """The exit code that a fork of this process leaves with: what the work returns, or 1."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 1
    try:
        code = work()
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)


def steps_in_double(variant: str, target: Path, threads: int) -> int:
    """Three steps in float64 with four images, as `tests/training/two_processes.py` does them."""
    from methods.test_contract import build
    from patchkin.data.datasets import UnpairedBatch
    from patchkin.method import Progress
    from patchkin.randomness import SeededDraws
    from patchkin.training import Updater
    from support import cpu_fabric, random_batch

    torch.set_num_threads(threads)
    method = build(variant, dtype=torch.float64)
    update = Updater(method, cpu_fabric())
    for step in range(3):
        whole = random_batch(4, channels=method.channels, seed=step, dtype=torch.float64)
        progress = Progress.of_step(step, total_steps=3, draws=SeededDraws(0, step))
        update.begin_step(1.0)
        method.train_step(UnpairedBatch(whole.a_BCHW, whole.b_BCHW), update, progress)
    save_file({name: t.contiguous() for name, t in method.state_dict().items()}, target)
    return 0


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for runs and numbers")
    parser.add_argument("--only", nargs="+", default=[], help="toy, views, goldens, METHOD, in")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    Numbers(options.folder.resolve(), options.only).make()
    return 0


if __name__ == "__main__":
    sys.exit(main())
