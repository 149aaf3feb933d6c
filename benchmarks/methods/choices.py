"""What negatives by optimal transport and chosen places cost, as ratios of a step within one run.

    python benchmarks/methods/choices.py --method cut --size 256 --rounds 5
    python benchmarks/methods/choices.py --device cuda --rounds 30 --precision bf16-mixed

Every choice takes one step after the other, in turns and in the same process, so that a machine
that others use slows all of them alike; on a CPU the time of the process is taken, which does not
count what others take. The table shows the median over rounds of a step's time divided by that of
the plain choice in the same round, with the quartiles, and the work of a step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from patchkin.devices import keep_freed_memory
from patchkin.method import Progress
from patchkin.methods import METHODS
from patchkin.networks.attention import AttentionConfig
from patchkin.networks.cpu.winograd import direct_convolutions
from patchkin.runs.benchmark import synthetic_batch
from patchkin.training import TrainingConfig, Updater
from patchkin.training.launch import launch

CHOICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "negatives optimal-transport": {"negatives": "optimal-transport"},
    "places attention": {"places": "attention"},
    "places attention, local": {
        "places": "attention",
        "attention": AttentionConfig(mode="local"),
    },
    "places discriminator": {"places": "discriminator"},
}
"""Changes of the method's first preset."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", default="cut", choices=("cut", "semantic-relation", "dclgan"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="32-true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    steps = {name: stepper(options, changes) for name, changes in CHOICES.items()}
    for step in steps.values():  # warm up
        step()
    times = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, options))
    print(f"{options.method}, {options.size} pixels, batch {options.batch_size}, {options.device}")
    print(f"{'choice':<30}{'s/step':>9}{'ratio':>8}{'quartiles':>16}{'TFLOP':>8}")
    for name, step in steps.items():
        ratios = [t / plain for t, plain in zip(times[name], times["plain"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        with direct_convolutions(), FlopCounterMode(display=False) as counter:
            step()
        print(
            f"{name:<30}{statistics.median(times[name]):>9.3f}{statistics.median(ratios):>8.3f}"
            f"{f'{low:.3f} to {high:.3f}':>16}{counter.get_total_flops() / 1e12:>8.3f}"
        )
    return 0


def stepper(options: argparse.Namespace, changes: dict[str, Any]) -> Callable[[], None]:
    """What takes the next training step of a method with these changes."""
    kind = METHODS[options.method]
    config = next(iter(kind.presets.values())).method
    fabric = launch(TrainingConfig(precision=options.precision, device=options.device))
    torch.manual_seed(0)
    method = kind(replace(config, **changes)).to(fabric.device).train()
    batch = synthetic_batch(method, options.batch_size, options.size).to(fabric.device)
    update, done = Updater(method, fabric), 0

    def step() -> None:
        nonlocal done
        update.begin_step(1.0)
        with fabric.autocast():
            method.train_step(batch, update, Progress.of_step(done, total_steps=10**6))
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        done += 1

    return step


def seconds(step: Callable[[], None], options: argparse.Namespace) -> float:
    on_one_core = options.device == "cpu" and options.threads == 1
    clock = time.process_time if on_one_core else time.perf_counter
    start = clock()
    step()
    return clock() - start


if __name__ == "__main__":
    sys.exit(main())
