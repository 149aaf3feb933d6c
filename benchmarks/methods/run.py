"""Train every method on the built-in toy set with one budget, and score its test translations.

    python benchmarks/methods/run.py OUTPUT --steps 400
    python benchmarks/methods/run.py OUTPUT --real ROOT --facades ROOT --single ROOT

The first form trains each method's `toy` preset for the same steps with the same seed and prints a
table: seconds per step, the content terms over the first and the last tenth of the run, and scores
of the 24 test images against their hidden counterparts. The second takes five steps of each
method's published preset at 256 pixels on real images. A method whose run is complete is not run
again, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from patchkin.data.toy import mask_file, truth_file, write_toy
from patchkin.images import read_image, to_tensor
from patchkin.metrics import mean_scores, score_against_counterpart
from patchkin.translation.translator import Translator

CONTENT = {
    "cut": ("nce",),
    "semantic-relation": ("relation", "contrast"),
    "cyclegan": ("cycle_A", "cycle_B"),
    "pix2pix": ("content",),
    "dclgan": ("contrast_A", "contrast_B"),
    "simdcl": ("contrast_A", "contrast_B"),
    "negcut": ("nce",),
    "lsesim": ("structure",),
    "gcgan": ("consistency",),
    "distancegan": ("distance_A",),
    "travelgan": ("margin", "euclid", "cosine"),
    "munit": ("image_A", "image_B"),
    "drit": ("self_A", "self_B", "cycle_A", "cycle_B"),
    "sincut": ("nce",),
}
"""The terms of a method's generator that keep the content."""
SCORES = ("tone_inside", "stripe_iou", "change_outside", "detail_inside", "psnr")
REAL_STEPS = 5
REAL_FLAGS = {
    "lsesim": ["--method.features", "random"],  # VGG16's weights may not be at hand
    "gcgan": ["--batch-size", "2"],  # published: 8
    "travelgan": ["--batch-size", "2", "--size", "256"],  # published: 16 at 128 pixels
    "drit": ["--size", "256"],  # published: 216
    "munit": ["--size", "256"],
}
"""What differs from the published presets."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--methods", nargs="+", default=list(CONTENT), choices=CONTENT)
    parser.add_argument("--real", type=Path, help="trainA, trainB, ...: five steps at 256 pixels")
    parser.add_argument("--facades", type=Path, help="side-by-side pairs, for pix2pix")
    parser.add_argument("--single", type=Path, help="one image per domain, for sincut")
    options = parser.parse_args()
    if options.real:
        roots = {"pix2pix": options.facades, "sincut": options.single}
        for name in options.methods:
            root = roots.get(name, options.real)
            show_real(name, options.output / "real" / name, root)
        return 0
    data = options.output / "data"
    if not (data / "testA").is_dir():
        write_toy(data)
    rows = {
        name: toy_row(name, options.output / name, options.steps, data) for name in options.methods
    }
    header = ("method", "s/step", "content, first tenth", "last tenth", *SCORES)
    table = [header, ["---"] * len(header), unchanged_row(data), *rows.values()]
    for row in table:
        print("| " + " | ".join(row) + " |")
    return 0


def train(name: str, run_dir: Path, steps: int, flags: Sequence[str]) -> list[dict[str, object]]:
    """The log of a run, which is made, resumed, or already there."""
    log = run_dir / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    if max((record["step"] for record in records), default=0) < steps:
        command = [
            sys.executable, "-m", "patchkin", "train", name, *flags, "--steps", str(steps),
            "--seed", "0", "--run-dir", str(run_dir), "--overwrite",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        records = [json.loads(line) for line in log.read_text().splitlines()]
    return [record for record in records if "terms" in record]


def toy_row(name: str, run_dir: Path, steps: int, data: Path) -> list[str]:
    records = train(
        name,
        run_dir,
        steps,
        ["--data", "toy", "--workers", "0", "--training.log-every", str(max(1, steps // 40))],
    )
    tenth = steps / 10
    first = content(name, [record for record in records if record["step"] <= tenth])
    last = content(name, [record for record in records if record["step"] > steps - tenth])
    seconds = sorted(record["seconds_per_step"] for record in records)[len(records) // 2]
    scores = scores_of(run_dir, data)
    return [name, f"{seconds:.3f}", mean(first), mean(last), *cells(scores)]


def content(name: str, records: Sequence[dict[str, object]]) -> list[float]:
    """The sums of the generator's content terms; DRIT does not move its generator in every step."""
    sums = []
    for record in records:
        terms = {
            key.rpartition(".")[2]: value
            for key, value in record["terms"].items()
            if not key.startswith(("D", "N.", "S."))
        }
        if CONTENT[name][0] in terms:
            sums.append(sum(terms[term] for term in CONTENT[name]))
    return sums


def scores_of(run_dir: Path | None, data: Path) -> dict[str, float]:
    """Of the test images' translations, or of the unchanged input, against the counterparts."""
    translator = Translator.load(run_dir, device="cpu") if run_dir else None
    rows = []
    for path in sorted((data / "testA").glob("*.png")):
        x_CHW, truth_CHW = (to_tensor(read_image(file, 3)) for file in (path, truth_file(path)))
        mask_HW = to_tensor(read_image(mask_file(path), 1))[0] > 0
        y_CHW = translator(x_CHW[None])[0].cpu() if translator else x_CHW
        rows.append(score_against_counterpart(y_CHW, x_CHW, truth_CHW, mask_HW))
    return mean_scores(rows)


def unchanged_row(data: Path) -> list[str]:
    return ["(unchanged)", "", "", "", *cells(scores_of(None, data))]


def show_real(name: str, run_dir: Path, root: Path) -> None:
    flags = ["--data", str(root), "--training.log-every", "1", *REAL_FLAGS.get(name, [])]
    records = train(name, run_dir, REAL_STEPS, flags)
    finite = all(math.isfinite(v) for record in records for v in record["terms"].values())
    seconds = sorted(record["seconds_per_step"] for record in records)[len(records) // 2]
    previews = len(list((run_dir / "previews").glob("*.png")))
    terms = content(name, records)
    print(
        f"| {name} | {root.name} | {len(records)} | {seconds:.1f} | "
        f"{'finite' if finite else 'NOT FINITE'} | {terms[0]:.4g} | {terms[-1]:.4g} | {previews} |",
        flush=True,
    )


def mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.4g}"


def cells(scores: dict[str, float]) -> list[str]:
    return [f"{scores[name]:.3g}" for name in SCORES]


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
