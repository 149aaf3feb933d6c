"""Time training steps of one method in this process, with whatever patchkin is on the path.

    PYTHONPATH=CHECKOUT/src python benchmarks/speed/step.py --precision bf16-mixed

For comparing two checkouts, or one with and without an option, in turns; `patchkin bench` measures
an installed version. Published settings, 256 pixels, batch 1, random images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile

from patchkin import devices
from patchkin.data.datasets import UnpairedBatch
from patchkin.method import Progress
from patchkin.methods import METHODS
from patchkin.networks import PatchGAN, ResNetGenerator
from patchkin.training import Updater

try:
    from patchkin.training.fabric import Fabric
except ImportError:  # checkouts of before
    from lightning_fabric import Fabric
try:
    from patchkin.networks.cpu import kept_inputs
except ImportError:  # likewise
    from patchkin.networks import normalization as kept_inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", default="semantic-relation")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--return-memory", action="store_true", help="give freed memory back")
    parser.add_argument("--contiguous", action="store_true", help="no channels-last layout")
    parser.add_argument("--branches", choices=["at_once", "in_turn"], help="of semantic-relation")
    parser.add_argument("--keep-all", action="store_true", help="make nothing again")
    parser.add_argument("--profile", action="store_true", help="also list operators by own time")
    parser.add_argument("--recompute", action="store_true", help="checkpoint residual blocks")
    options = parser.parse_args()
    if not options.return_memory and hasattr(devices, "keep_freed_memory"):
        devices.keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1, precision=options.precision)
    kind = METHODS[options.method]
    config = next(iter(kind.presets.values())).method
    if options.branches:
        config = replace(config, branches=options.branches)
    if options.recompute:
        config = replace(config, generator=replace(config.generator, recompute=True))
    if options.contiguous:
        ResNetGenerator.keeps_channels_last = PatchGAN.keeps_channels_last = False
    if options.keep_all:
        kept_inputs._is_spared = lambda *_: False
    method = kind(config)
    update = Updater(method, fabric)
    images = torch.rand(2, 1, 3, options.size, options.size) * 2 - 1
    batch = UnpairedBatch(images[0], images[1])
    times = []

    def train_step(step: int) -> None:
        update.begin_step(1.0)
        with fabric.autocast():
            method.train_step(batch, update, Progress.of_step(step, total_steps=10**6))

    for step in range(options.steps + 2):
        start = time.perf_counter()
        train_step(step)
        times.append(time.perf_counter() - start)
    result = {
        "median_s": round(statistics.median(times[2:]), 3),
        "least_s": round(min(times[2:]), 3),
        "peak_gb": round((devices.peak_memory_bytes(torch.device("cpu")) or 0) / 1e9, 2),
    }
    print(json.dumps({**vars(options), **result}))
    if options.profile:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            train_step(options.steps + 2)
        operators = sorted(seen.key_averages(), key=lambda o: -o.self_cpu_time_total)
        total = sum(operator.self_cpu_time_total for operator in operators)
        for operator in operators[:20]:
            own = operator.self_cpu_time_total
            print(f"{own / 1e3:8.0f} ms {own / total:6.1%} {operator.count:6} {operator.key}")


if __name__ == "__main__":
    main()
