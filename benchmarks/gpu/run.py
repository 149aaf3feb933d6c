"""The first minutes on a card: is it right, how fast is it, what does it hold.

    python benchmarks/gpu/run.py OUTPUT --minutes 9

One command that nobody has to watch. In this order, so that what matters most is there when the
time ends:

1. goldens: numbers of the released code (`PATCHKIN_GOLDENS`), where they and pytest are at hand;
   and three steps of every method on the device against the same steps on the CPU in float64;
2. peaks: the card's convolutions in IEEE float32, TF32 and bfloat16;
3. steps: images per second, share of the peak and memory of four methods at batch 1, 4 and 16, by
   precision, layout, `--compile` and `--cuda-graphs`;
4. translations: images per second;
5. compiled: the same three steps compiled and plain.

A case that fails is a row with its reason; what does not fit in the time is listed. OUTPUT receives
`gpu.json`, rewritten after every row, and `gpu.md`. `--device cpu --size 32 --tiny` tries the
machinery.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchkin import __version__
from patchkin.devices import Device, Precision, choose_device, set_float32
from patchkin.method import Method, Progress
from patchkin.methods import METHODS
from patchkin.randomness import SeededDraws
from patchkin.runs.benchmark import Case, convolution_peak, measure_apart, synthetic_batch
from patchkin.storage.atomic import write_json, write_text
from patchkin.training import TrainingConfig, Updater
from patchkin.training.compilation import CompiledSteps
from patchkin.training.launch import launch

METHODS_TIMED = ("semantic-relation", "cut", "dclgan", "starganv2-relation")
BATCHES = (1, 4, 16)
STEPS_COMPARED = 3
LONGEST_CASE = 120.0
"""Seconds that a case may need; one is begun only if as much time is left as the longest so far."""
TINY: dict[str, Any] = {
    "generator": {"ngf": 4, "blocks": 6},
    "discriminator": {"ndf": 4},
    "num_patches": 16,
    "head_width": 8,
}


@dataclass
class Record:
    """What is known so far; written after every row."""

    output: Path
    deadline: float
    machine: dict[str, Any]
    goldens: list[dict[str, Any]] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    compiled: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    longest: float = 0.0

    def time_left(self) -> bool:
        """Whether another case can be begun."""
        return time.monotonic() + min(self.longest, LONGEST_CASE) < self.deadline

    def write(self) -> None:
        """Write both files."""
        plain = {
            name: getattr(self, name)
            for name in ("machine", "goldens", "peaks", "steps", "compiled", "left_out")
        }
        write_json(self.output / "gpu.json", plain)
        write_text(self.output / "gpu.md", page(self))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the machinery")
    options = parser.parse_args(arguments)
    device: Device = options.device
    options.output.mkdir(parents=True, exist_ok=True)
    record = Record(
        options.output, time.monotonic() + 60 * options.minutes, machine(choose_device(device))
    )
    work: list[tuple[str, Callable[[], None]]] = [
        ("goldens", lambda: goldens(record, device)),
        *(
            (f"float64 steps of {name}", lambda name=name: same_steps(record, name, device))
            for name in METHODS
        ),
        *(
            (f"peak in {precision}", lambda precision=precision: peak(record, precision, device))
            for precision in precisions(device)
        ),
        *(
            (title(case), lambda case=case: timed(record, case))
            for case in cases(device, options.size, tiny=options.tiny)
        ),
        *(
            (f"compiled steps of {name}", lambda name=name: compiled(record, name, device))
            for name in METHODS
        ),
    ]
    for name, act in work:
        if not record.time_left():
            record.left_out.append(name)
            continue
        start = time.monotonic()
        act()
        seconds = time.monotonic() - start
        record.longest = max(record.longest, seconds)
        print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
        record.write()
    record.write()
    print(record.output / "gpu.md")
    return 0


def machine(device: torch.device) -> dict[str, Any]:
    """What was measured on."""
    is_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_gpu else platform.processor() or "cpu",
        "memory_gb": torch.cuda.get_device_properties(device).total_memory / 1e9
        if is_gpu
        else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if is_gpu else None,
        "python": platform.python_version(),
        "patchkin": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def precisions(device: Device) -> tuple[Precision, ...]:
    """Those that the device computes in; TF32 is that of NVIDIA's cards."""
    return ("32-true", "tf32", "bf16-mixed") if device == "cuda" else ("32-true", "bf16-mixed")


# 1. Right


def goldens(record: Record, device: Device) -> None:
    """The released code's numbers, replayed on the device by the tests that read them."""
    tests = Path(__file__).resolve().parents[2] / "tests" / "goldens"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", str(tests)]
    environment = {**os.environ, "PATCHKIN_TEST_DEVICE": device}
    environment.pop("PYTEST_ADDOPTS", None)
    left = max(30.0, (record.deadline - time.monotonic()) / 3)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=left, check=False
        )
        last = (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [""])[-1]
    except subprocess.TimeoutExpired:
        last = f"not done after {left:.0f} s"
    record.goldens.append({"what": "numbers of the released code", "result": last})


def small(name: str) -> Method:
    """A method with the networks of its toy preset."""
    kind = METHODS[name]
    torch.manual_seed(0)
    return kind(kind.presets["toy"].method)


def side_of(method: Method) -> int:
    """Of images that the small method takes."""
    sizes = getattr(method.config, "networks", None)
    side: int = method.training_side or getattr(sizes, "image_size", 64)
    return side


def steps_of(
    method: Method, device: torch.device, dtype: torch.dtype, *, compile_networks: bool = False
) -> tuple[list[dict[str, float]], list[str]]:
    """The terms of three steps on random images, and what the compiler said.

    Terms rather than weights: a bias before a norm has no gradient but rounding, which Adam
    magnifies, and nothing follows from it. Nothing is dropped: that is each device's own chance.
    """
    method = copy.deepcopy(method).to(device=device, dtype=dtype).train()
    for layer in method.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    training = TrainingConfig(device=device.type, compile=compile_networks)
    fabric, said = launch(training), list[str]()
    batch = _as(synthetic_batch(method, max(2, method.min_batch_size), side_of(method)), dtype)
    batch = batch.to(device)
    method.prepare((batch for _ in range(100)), SeededDraws(0, -1))
    update = Updater(method, fabric)
    run = CompiledSteps(method, update, training, device, say=said.append)
    terms = []
    for step in range(STEPS_COMPARED):
        progress = Progress.of_step(step, total_steps=10, draws=SeededDraws(0, step))

        def work(progress: Progress = progress) -> None:
            update.begin_step(1.0)
            method.train_step(batch, update, progress)

        run(work)
        terms.append({name: float(term) for name, term in update.terms.items()})
    return terms, said


def _as(batch: Any, dtype: torch.dtype) -> Any:
    """A batch with images of another type."""
    images = {
        name: value.to(dtype)
        for name in batch.__dataclass_fields__
        if isinstance(value := getattr(batch, name), torch.Tensor) and value.is_floating_point()
    }
    return replace(batch, **images)


def largest_difference(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """Over all terms of all steps, by the largest of their size and 1."""
    return max(
        abs(one[name] - value) / max(abs(value), 1.0)
        for one, other in zip(ours, theirs, strict=True)
        for name, value in other.items()
    )


def same_steps(record: Record, name: str, device: Device) -> None:
    """Three steps on the device, in float64 and float32, against the CPU's in float64."""
    row: dict[str, Any] = {"what": name}
    try:
        method, place = small(name), choose_device(device)
        exact, _ = steps_of(method, torch.device("cpu"), torch.float64)
        for dtype in (torch.float64, torch.float32):
            there, _ = steps_of(method, place, dtype)
            # Adam magnifies rounding where gradients are small: in float32 only the first step.
            steps = STEPS_COMPARED if dtype is torch.float64 else 1
            difference = largest_difference(there[:steps], exact[:steps])
            row[str(dtype).removeprefix("torch.")] = difference
    except Exception as error:  # noqa: BLE001 - a row says why
        row["result"] = _reason(error)
    record.goldens.append(row)


def compiled(record: Record, name: str, device: Device) -> None:
    """Three compiled steps in float64 against the same plain ones."""
    row: dict[str, Any] = {"method": name}
    try:
        method, place = small(name), choose_device(device)
        plain, _ = steps_of(method, place, torch.float64)
        fast, said = steps_of(method, place, torch.float64, compile_networks=True)
        row["difference"] = largest_difference(fast, plain)
        row["reason"] = said[0] if said else None
    except Exception as error:  # noqa: BLE001 - a row says why
        row["reason"] = _reason(error)
    record.compiled.append(row)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]


# 2. to 4. Fast


def peak(record: Record, precision: Precision, device: Device) -> None:
    """Of the card's convolutions."""
    try:
        record.peaks[precision] = convolution_peak(precision, device)
    except Exception as error:  # noqa: BLE001 - a row says why
        record.left_out.append(f"peak in {precision}: {_reason(error)}")
    finally:
        set_float32("32-true")


def cases(device: Device, size: int, *, tiny: bool) -> Iterator[Case]:
    """Methods at batch 1 first, then what makes them faster, then larger batches."""
    names = METHODS_TIMED[:2] if tiny else METHODS_TIMED
    plain = [Case(method=name, device=device, size=size, steps=5) for name in names]
    if tiny:
        plain = [replace(case, settings={"method": TINY}, steps=1, warmup=1) for case in plain]
    fast = precisions(device)[-1]
    ways: list[dict[str, Any]] = [{"precision": precision} for precision in precisions(device)]
    ways += [{"precision": fast, "channels_last": True}]
    if not tiny:
        ways += [
            {"precision": fast, "compile": True, "warmup": 6},
            {"precision": fast, "channels_last": True, "compile": True, "warmup": 6},
        ]
    if device == "cuda":
        ways += [{"precision": fast, "cuda_graphs": True, "warmup": 6}]
    for batch_size in BATCHES[:1] if tiny else BATCHES:
        for way, case in itertools.product(ways, plain):
            yield replace(case, batch_size=batch_size, **way)


def title(case: Case) -> str:
    """One line that tells cases apart."""
    words = [case.method, f"batch {case.batch_size}", case.precision]
    words += [
        word
        for word, there in (
            ("channels-last", case.channels_last),
            ("compiled", case.compile),
            ("CUDA graphs", case.cuda_graphs),
        )
        if there
    ]
    return ", ".join(words)


def timed(record: Record, case: Case) -> None:
    """A case in a process of its own."""
    found = measure_apart(case, timeout=LONGEST_CASE)
    fraction = None
    if found.reason is None and case.precision in record.peaks:
        fraction = found.gflops * 1e9 / record.peaks[case.precision]
    record.steps.append(
        {
            "case": title(case),
            "images_per_second": _number(found.images_per_second),
            "tflop_per_step": _number(found.tflop_per_step),
            "share_of_peak": fraction,
            "peak_gb": _number(found.peak_gb),
            "translations_per_second": _number(1 / found.translate_seconds),
            "reason": found.reason,
        }
    )


def _number(value: float) -> float | None:
    return value if value == value else None  # noqa: PLR0124 - NaN


# The page


def page(record: Record) -> str:
    """The tables in Markdown."""
    about = ", ".join(f"{name} {value}" for name, value in record.machine.items() if value)
    lines = ["# A card's first minutes", "", about, ""]
    lines += ["## Against the CPU in float64", ""]
    lines += [
        "Largest difference of a term by its size (or 1): three steps in float64, one in float32.",
        "",
    ]
    lines += _table(
        ("", "float64", "float32", "result"),
        [(r["what"], r.get("float64"), r.get("float32"), r.get("result")) for r in record.goldens],
    )
    lines += ["## Peak of 3 x 3 convolutions", ""]
    lines += _table(
        ("precision", "TFLOP/s"), [(name, value / 1e12) for name, value in record.peaks.items()]
    )
    lines += ["## Training steps and translations", ""]
    names = {
        "case": "case", "images_per_second": "images/s", "tflop_per_step": "TFLOP a step",
        "share_of_peak": "of the peak", "peak_gb": "GB", "translations_per_second": "translated/s",
        "reason": "why not",
    }  # fmt: skip
    lines += _table(tuple(names.values()), [tuple(row[n] for n in names) for row in record.steps])
    lines += ["## Compiled against plain steps", ""]
    lines += _table(
        ("method", "difference", "why not"),
        [(row["method"], row.get("difference"), row.get("reason")) for row in record.compiled],
    )
    if record.left_out:
        lines += ["## Not done in the time", "", *(f"- {name}" for name in record.left_out), ""]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    def cell(value: Any) -> str:
        if value is None:
            return ""
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [header, ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


if __name__ == "__main__":
    sys.exit(main())
