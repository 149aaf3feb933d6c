"""Training on one process and on two, with one thread each: images per second, and what is lost.

    python benchmarks/scaling/processes.py [--output FILE]

Three ways in turns, `--rounds` times: one process; two that train together (a global batch of two);
two at the same time that know nothing of each other. The last shows what sharing the machine costs,
so that what remains is the cost of averaging gradients, which is also timed alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from patchkin.devices import keep_freed_memory
from patchkin.method import Progress
from patchkin.methods import METHODS
from patchkin.runs.benchmark import synthetic_batch
from patchkin.runs.config import choose_preset, config_from_plain, preset_config
from patchkin.training import TrainingConfig, Updater
from patchkin.training.collectives import mean_over_processes
from patchkin.training.fabric import Fabric
from patchkin.training.launch import launch

METHOD = "semantic-relation"
WAYS = {"one": (1, 1), "together": (2, 1), "apart": (1, 2)}
"""Processes of a run, and how many such runs there are at once."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--ngf", type=int, default=32)
    parser.add_argument("--ndf", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="timed, in each round")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)  # processes of this run
    options = parser.parse_args()
    if options.run:
        measure(options, options.run)
        return 0
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way, (processes, runs) in WAYS.items():
            print(f"round {number + 1} of {options.rounds}: {way}", file=sys.stderr, flush=True)
            found[way] += started(processes, runs)
    if options.output is not None:
        settings = {name: value for name, value in vars(options).items() if name != "output"}
        text = json.dumps({"settings": settings, "runs": found}, indent=1)
        options.output.write_text(text + "\n", encoding="utf-8")
    print(table(found))
    return 0


def started(processes: int, runs: int) -> list[dict[str, Any]]:
    """Results of runs at the same time, each by this script with one thread per process."""
    command = [sys.executable, *sys.argv, "--run", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    at_once = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(runs)
    ]
    outputs = [process.communicate()[0] for process in at_once]
    if any(process.returncode for process in at_once):
        raise SystemExit("a run failed; its message stands above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def measure(options: argparse.Namespace, processes: int) -> None:
    """Time steps in this process and those that it starts; the first one prints."""
    fabric = launch(TrainingConfig(device="cpu", devices=processes))
    torch.set_num_threads(1)
    keep_freed_memory()
    kind = METHODS[METHOD]
    settings = {
        "method": {
            "generator": {"ngf": options.ngf, "blocks": options.blocks},
            "discriminator": {"ndf": options.ndf},
        }
    }
    preset = preset_config(choose_preset(kind, None, toy=False))
    config = config_from_plain(kind, preset, settings, where="the settings")
    torch.manual_seed(0)
    method = kind(config.method)
    batch = synthetic_batch(method, 1, options.size)
    update = Updater(method, fabric)
    step = 0

    def train_step() -> None:
        nonlocal step
        update.begin_step(1.0)
        method.train_step(batch, update, Progress.of_step(step, total_steps=10**6))
        step += 1

    method.train()
    seconds = timed(train_step, fabric, warmup=options.warmup, repeats=options.steps)
    gradients = torch.zeros(sum(p.numel() for p in method.parameters()))
    reduce_seconds = timed(
        lambda: mean_over_processes(fabric, gradients),
        fabric,
        warmup=options.warmup,
        repeats=options.steps,
    )
    if fabric.is_global_zero:
        result = {
            "seconds_per_step": seconds,
            "images_per_second": fabric.world_size / seconds,
            "gradient_mb": gradients.numel() * 4 / 1e6,
            "reduce_seconds": reduce_seconds if fabric.world_size > 1 else 0.0,
        }
        print(json.dumps(result), flush=True)


def timed(work: Callable[[], object], fabric: Fabric, *, warmup: int, repeats: int) -> float:
    """Median seconds; all processes begin together."""
    times = []
    for repeat in range(warmup + repeats):
        fabric.barrier()
        start = time.perf_counter()
        work()
        if repeat >= warmup:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Medians over rounds; images of all processes."""

    def median(way: str, key: str) -> float:
        return statistics.median(run[key] for run in found[way])

    rates = {way: median(way, "images_per_second") * runs for way, (_, runs) in WAYS.items()}
    names = {
        "one": "one process",
        "together": "two, one training",
        "apart": "two trainings at once",
    }
    lines = ["| | s/step | images/s | times one process |", "|---|---|---|---|"]
    for way, name in names.items():
        lines.append(
            f"| {name} | {median(way, 'seconds_per_step'):.3f} | {rates[way]:.3f} | "
            f"{rates[way] / rates['one']:.2f} |"
        )
    megabytes, milliseconds = (
        median("one", "gradient_mb"),
        median("together", "reduce_seconds") * 1e3,
    )
    share = milliseconds / 1e3 / median("together", "seconds_per_step")
    return "\n".join(lines) + (
        f"\n\nGradients of a step: {megabytes:.1f} MB. Averaging them alone takes "
        f"{milliseconds:.1f} ms, {share:.1%} of a step of the two."
    )


if __name__ == "__main__":
    sys.exit(main())
