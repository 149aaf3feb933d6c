"""Time training steps of one method in this process, with whatever patchkin is on the path.

    PYTHONPATH=CHECKOUT/src python benchmarks/speed/step.py --precision bf16-mixed

For comparing two checkouts, or one with and without an option, in turns; `patchkin bench` measures
an installed version. Published settings, 256 pixels, batch 1, random images.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import torch

from patchkin import devices
from patchkin.data.datasets import UnpairedBatch
from patchkin.method import Progress
from patchkin.methods import METHODS
from patchkin.training import Updater
from patchkin.training.fabric import Fabric


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", default="semantic-relation")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--return-memory", action="store_true", help="give freed memory back")
    options = parser.parse_args()
    if not options.return_memory and hasattr(devices, "keep_freed_memory"):
        devices.keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1, precision=options.precision)
    kind = METHODS[options.method]
    method = kind(next(iter(kind.presets.values())).method)
    update = Updater(method, fabric)
    images = torch.rand(2, 1, 3, options.size, options.size) * 2 - 1
    batch = UnpairedBatch(images[0], images[1])
    times = []
    for step in range(options.steps + 2):
        start = time.perf_counter()
        update.begin_step(1.0)
        with fabric.autocast():
            method.train_step(batch, update, Progress.of_step(step, total_steps=10**6))
        times.append(time.perf_counter() - start)
    result = {
        "median_s": round(statistics.median(times[2:]), 3),
        "least_s": round(min(times[2:]), 3),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }
    print(json.dumps({**vars(options), **result}))


if __name__ == "__main__":
    main()
