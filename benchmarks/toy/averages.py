"""Averaged weights against live ones of the same runs, at every checkpoint, on the toy data.

    python benchmarks/toy/averages.py STUDY [STUDY ...] [--rows NAME ...]

takes the complete runs with averaged weights in folders that study.py or stability.py wrote (their
checkpoints hold both), translates the test images with either, and prints a table by step. Nothing
is trained: run, step and images are the same on both sides, so a difference is not one of seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Literal

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from studies import evaluated_steps, runs_in, scored_steps, toy_scores

from patchkin.config import read_yaml
from patchkin.storage.checkpoint import CheckpointStore
from patchkin.translation.translator import Translator

SCORES = {"tone_inside": -1, "stripe_iou": 1, "change_outside": -1}
"""Name -> whether more (1) or less (-1) is better."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--rows", nargs="+", help="names; all, unless given")
    options = parser.parse_args()
    pairs: dict[int, list[tuple[dict[str, float], dict[str, float]]]] = defaultdict(list)
    count = 0
    for study in options.studies:
        for name, seed in runs_in(study):
            folder = study / f"{name}_seed{seed}"
            if (options.rows is None or name in options.rows) and averaged_to_the_end(folder):
                count += 1
                for step in sorted(scored_steps(folder)):
                    checkpoint = CheckpointStore(folder).path(step)
                    averaged, live = (
                        scores_of(checkpoint, weights, study / "data")
                        for weights in ("averaged", "live")
                    )
                    pairs[step].append((averaged, live))
    print(f"{count} runs\n\n{table(pairs)}", end="")
    return 0


def averaged_to_the_end(folder: Path) -> bool:
    """Whether a run is complete, evaluated, and has averaged weights."""
    schedule = read_yaml(folder / "config.yaml")["schedule"]
    return schedule["ema_decay"] > 0 and schedule["steps"] in evaluated_steps(folder)


def scores_of(
    checkpoint: Path, weights: Literal["averaged", "live"], data: Path
) -> dict[str, float]:
    translator = Translator.load(str(checkpoint), weights=weights)
    return toy_scores(data, lambda x_BCHW: translator(x_BCHW).float())


def table(pairs: dict[int, list[tuple[dict[str, float], dict[str, float]]]]) -> str:
    """Per step: means of both, the mean difference with its spread, and how often averages win."""
    lines = ["| step | score | averaged | live | averaged - live | averaged is better |"]
    lines.append("|---|---|---|---|---|---|")
    for step, found in sorted(pairs.items()):
        for name, sign in SCORES.items():
            averaged, live = ([side[name] for side in sides] for sides in zip(*found, strict=True))
            differences = [a - b for a, b in zip(averaged, live, strict=True)]
            spread = f" ± {statistics.stdev(differences):.2g}" if len(differences) > 1 else ""
            lines.append(
                f"| {step} | {name} | {statistics.mean(averaged):.3g} | "
                f"{statistics.mean(live):.3g} | {statistics.mean(differences):+.2g}{spread} | "
                f"{sum(sign * d > 0 for d in differences)} of {len(differences)} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
