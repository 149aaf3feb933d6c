"""Floating-point operations of a training step, and of a whole published run, per method.

    python benchmarks/methods/work.py --size 256 --images 1334

Steps are taken on random images and counted, not timed: a multiplication and an addition are two
operations, 3x3 convolutions are counted as defined even where Winograd's algorithm computes them.
EnCo's steps change when its identity term ends, which is when the learning rate starts to fall;
both are counted. A run is as many steps as its epochs have, each as long as the larger domain
(horse2zebra: 1334 images).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from patchkin.method import Method, Preset, Progress
from patchkin.methods import METHODS
from patchkin.networks.cpu.winograd import direct_convolutions
from patchkin.runs.benchmark import synthetic_batch
from patchkin.training import TrainingConfig, Updater
from patchkin.training.launch import launch

RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "CUT": ("cut", "cut", {}),
    "FastCUT": ("cut", "fastcut", {}),
    "semantic relation": ("semantic-relation", "horse2zebra", {}),
    "DCLGAN": ("dclgan", "released", {}),
    "EnCo": ("enco", "cityscapes", {}),
    "PatchGCL": ("patchgcl", "horse2zebra", {"features": "random"}),
    "PatchGCL, own encoder": ("patchgcl", "encoder", {}),
    "CUT + optimal transport": ("cut", "cut", {"negatives": "optimal-transport"}),
    "CUT + attention": ("cut", "cut", {"places": "attention"}),
    "CUT + discriminator": ("cut", "cut", {"places": "discriminator"}),
}
"""Method, published preset, and what differs from it (random features cost what VGG16's do)."""
CHANGING = ("enco",)
"""Methods whose steps change within a run."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=1334)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS, metavar="RUN")
    options = parser.parse_args(arguments)
    print("| run | TFLOP per step, first and last | epochs | PFLOP per run | of CUT's |")
    print("|---|---|---|---|---|")
    reference = None
    for name in options.runs:
        kind_name, preset_name, changes = RUNS[name]
        kind = METHODS[kind_name]
        preset = kind.presets[preset_name]
        method = kind(replace(preset.method, **changes)).train()
        shares = [0.05, *([0.95] if kind_name in CHANGING else [])]
        counts = [step_work(method, share, options.size) for share in shares]
        steps = preset.schedule.epochs * options.images
        total = run_work(counts, preset, steps)
        reference = reference or total
        print(
            f"| {name} | {' to '.join(f'{count / 1e12:.2f}' for count in counts)} "
            f"| {preset.schedule.epochs} | {total / 1e15:.0f} | {total / reference:.2f} |",
            flush=True,
        )
    return 0


def step_work(method: Method, share: float, size: int) -> int:
    """Operations of one step after a share of the run."""
    total_steps = 1000
    update = Updater(method, launch(TrainingConfig(device="cpu")))
    batch = synthetic_batch(method, 1, size)
    method.prepare((batch for _ in range(1000)), Progress.of_step(0, total_steps=1).draws)
    progress = Progress.of_step(int(share * total_steps), total_steps=total_steps)
    update.begin_step(1.0)
    with direct_convolutions(), FlopCounterMode(display=False) as counter:
        method.train_step(batch, update, progress)
    return counter.get_total_flops()


def run_work(counts: Sequence[int], preset: Preset, steps: int) -> float:
    """Of all steps; where they change, they do so when the learning rate starts to fall."""
    if len(counts) == 1:
        return counts[0] * steps
    falling = preset.schedule.decay_fraction
    return steps * ((1 - falling) * counts[0] + falling * counts[1])


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
