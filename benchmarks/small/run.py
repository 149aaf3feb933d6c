"""Teacher, distillation, search, export, scores and speed on the built-in toy set, on a CPU.

    python benchmarks/small/run.py OUTPUT [--seeds 0 1 2]

One teacher; for each seed a student distilled with the semantic relations (SRC + hDCE) and one
without, searched within a tenth of the teacher's multiply-accumulates, cut out and scored on the
test images. Every stage is one `patchkin` command, which is printed; one whose output is complete
is not run again, so that an interrupted study goes on where it stopped. Prints the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchkin.storage.atomic import write_json

VARIANTS = {
    "with": [],
    "without": ["--method.relation-weight", "0", "--method.contrast-weight", "0"],
}
"""Flags of the distillation: with SRC + hDCE as the preset has them, and without both."""
SEARCH = ("--budget", "6.8e7", "--population", "16", "--generations", "6", "--device", "cpu")
DECIDING = "counterpart/tone_inside"
"""Distance of tones inside the mask from the truth, in grey levels; lower is better."""
SCORES = ("tone_inside", "stripe_iou", "change_outside", "detail_inside", "psnr")
SIZES = (64, 256)
"""Pixels that speed is measured at: that of the toy set, and that of published numbers."""


class Study:
    """A folder, and how long what is in it took."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.times_file = output / "times.json"
        self.seconds: dict[str, dict[str, float]] = {}
        if self.times_file.is_file():
            self.seconds = json.loads(self.times_file.read_text())

    def stage(self, name: str, *arguments: object) -> str:
        """Run a command unless it has been done; what it printed."""
        log = self.output / "logs" / f"{name}.out"
        if name not in self.seconds:
            command = ["patchkin", *map(str, arguments)]
            print("$", *command, file=sys.stderr, flush=True)
            start, used = time.perf_counter(), _processor_seconds()
            done = subprocess.run(
                [sys.executable, "-m", *command], check=True, stdout=subprocess.PIPE, text=True
            )
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(done.stdout)
            self.seconds[name] = {
                "clock": time.perf_counter() - start,
                "processor": _processor_seconds() - used,
            }
            write_json(self.times_file, self.seconds)
        return log.read_text()

    def scores(self, name: str, subject: Path, data: object = "toy") -> dict[str, float]:
        """Of test translations, or of a folder of images, against the hidden counterparts."""
        told = self.stage(
            f"evaluate_{name}",
            *("evaluate", subject, "--data", data, "--protocol", "--device", "cpu", "--json"),
        )
        return dict(json.loads(told)["results"][0]["scores"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    study = Study(options.output)
    teacher = options.output / "teacher"
    study.stage(
        "teacher",
        *("train", "semantic-relation", "--data", "toy", "--preset", "toy", "--ngf", "32"),
        *("--seed", "0", "--score-every", "500", "--run-dir", teacher, "--overwrite"),
    )
    if "toy" not in study.seconds:  # `patchkin data toy` refuses a folder that holds something
        shutil.rmtree(options.output / "toy", ignore_errors=True)
    study.stage("toy", "data", "toy", options.output / "toy", "--size", "64")
    rows = {
        "unchanged": study.scores(
            "unchanged", options.output / "toy" / "testA", options.output / "toy"
        ),
        "teacher": study.scores("teacher", teacher),
    }
    costs = {"teacher": json.loads(
        study.stage("cost_teacher", "compress", "cost", teacher, "--size", "64", "--json")
    )}  # fmt: skip
    for seed in options.seeds:
        for variant in VARIANTS:
            name = f"{variant}_{seed}"
            rows[name], costs[name] = small(study, name, variant, seed, teacher)
    show_scores(study, rows, costs)
    show_speed(study, teacher, options.output / f"with_{options.seeds[0]}" / "small.safetensors")
    return 0


def small(
    study: Study, name: str, variant: str, seed: int, teacher: Path
) -> tuple[dict[str, float], dict[str, Any]]:
    """Distil, search, export, evaluate."""
    run = study.output / name
    study.stage(
        f"distill_{name}",
        *("compress", "distill", teacher, "--data", "toy", "--preset", "toy", *VARIANTS[variant]),
        *("--seed", seed, "--device", "cpu", "--run-dir", run, "--overwrite"),
    )
    study.stage(
        f"search_{name}",
        *("compress", "search", run, *SEARCH, "--seed", seed, "--overwrite", "--json"),
    )
    model = run / "small.safetensors"
    told = study.stage(
        f"export_{name}", "compress", "export", run, "-o", model, "--overwrite", "--json"
    )
    return study.scores(name, model), json.loads(told)


def show_scores(
    study: Study, rows: dict[str, dict[str, float]], costs: dict[str, dict[str, Any]]
) -> None:
    table(("model", "widths", "parameters", "MACs", "fewer", "kept", *SCORES, "minutes"), [
        (name, *described(name, rows, costs), *cells(scores), minutes(study, name))
        for name, scores in rows.items()
    ])  # fmt: skip
    print()
    for variant in VARIANTS:
        values = [kept(rows, name) for name in rows if name.startswith(f"{variant}_")]
        tones = [rows[name][DECIDING] for name in rows if name.startswith(f"{variant}_")]
        print(f"{variant}: kept {spread(values, '.1%')}, tone_inside {spread(tones, '.2f')}")


def described(
    name: str, rows: dict[str, dict[str, float]], costs: dict[str, dict[str, Any]]
) -> tuple[str, ...]:
    if name not in costs:
        return ("", "", "", "", "")
    cost, teacher = costs[name], costs["teacher"]
    return (
        str(cost["channels"] or "ngf 32"),
        f"{cost['parameters']:,}",
        f"{cost['macs'] / 1e6:.1f} M",
        f"{teacher['macs'] / cost['macs']:.1f}",
        f"{kept(rows, name):.1%}",
    )


def kept(rows: dict[str, dict[str, float]], name: str) -> float:
    """The share of the teacher's gain over leaving the input as it is."""
    unchanged = rows["unchanged"][DECIDING]
    return (unchanged - rows[name][DECIDING]) / (unchanged - rows["teacher"][DECIDING])


def minutes(study: Study, name: str) -> str:
    stages = [
        stage
        for stage in ("teacher", f"distill_{name}", f"search_{name}", f"export_{name}")
        if stage in study.seconds and (stage == "teacher") == (name == "teacher")
    ]
    return " + ".join(f"{study.seconds[stage]['processor'] / 60:.1f}" for stage in stages)


def _processor_seconds() -> float:
    """Of all commands so far; with one thread what they would take on a machine of their own."""
    used = os.times()
    return used.children_user + used.children_system


def show_speed(study: Study, teacher: Path, model: Path) -> None:
    found = []
    for size in SIZES:
        told = study.stage(
            f"speed_{size}",
            *("compress", "cost", model, "--against", teacher, "--size", size, "--threads", 1),
            *("--time-calls", 30, "--runtime", "torch", "onnx", "--json"),
        )
        plain = json.loads(told)
        for runtime, times in plain["latency"].items():
            of_teacher = plain["against"]["latency"][runtime]
            found.append((
                str(size), runtime,
                *(f"{t['median_ms']:.1f} ({t['p95_ms']:.1f})" for t in (of_teacher, times)),
                *(f"{t['images_per_second']:.1f}" for t in (of_teacher, times)),
                f"{plain['ratios'][runtime]:.1f}", f"{plain['ratios']['macs']:.1f}",
            ))  # fmt: skip
    print()
    table(
        (
            *("pixels", "runtime", "teacher ms (95 %)", "small ms (95 %)"),
            *("teacher images/s", "small images/s", "times faster", "times fewer MACs"),
        ),
        found,
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")


def cells(scores: dict[str, float]) -> list[str]:
    return [f"{scores[f'counterpart/{name}']:.3g}" for name in SCORES]


def spread(values: Sequence[float], style: str) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{style}} (deviation {deviation:{style}})"


if __name__ == "__main__":
    sys.exit(main())
