"""Time training steps with compiled networks and without, in turns in one process.

    python benchmarks/speed/compiled.py --precision bf16-mixed [--cuda-graphs]

Random images, batch 1. Ratios are plain / compiled: above 1 the compiled step is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from functools import partial

import torch

from patchkin.data.datasets import UnpairedBatch
from patchkin.devices import keep_freed_memory
from patchkin.method import Progress
from patchkin.methods.semantic_relation import SemanticRelation, SemanticRelationConfig
from patchkin.networks import PatchGANConfig, ResNetConfig
from patchkin.training import TrainingConfig, Updater
from patchkin.training.compilation import CompiledSteps
from patchkin.training.launch import launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--ngf", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--cuda-graphs", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    config = TrainingConfig(
        precision=options.precision,
        device=options.device,
        compile=True,
        cuda_graphs=options.cuda_graphs,
    )
    fabric, said = launch(config), []
    runs = {}
    for name in ("plain", "compiled"):
        torch.manual_seed(0)
        method = SemanticRelation(
            replace(
                SemanticRelationConfig(),
                generator=ResNetConfig(ngf=options.ngf),
                discriminator=PatchGANConfig(ndf=options.ngf),
            )
        ).to(fabric.device)
        update = Updater(method, fabric)
        training = config if name == "compiled" else TrainingConfig()
        steps = CompiledSteps(
            method, update, training, fabric.device, say=said.append, trial_steps=options.warmup
        )
        runs[name] = (method, update, steps)
    images = torch.rand(2, 1, 3, options.size, options.size, device=fabric.device) * 2 - 1
    batch = UnpairedBatch(images[0], images[1])

    def step(method: SemanticRelation, update: Updater, number: int) -> None:
        update.begin_step(1.0)
        with fabric.autocast():
            method.train_step(batch, update, Progress.of_step(number, total_steps=10**6))

    times = {name: [] for name in runs}
    for number in range(options.warmup + options.steps):
        for name, (method, update, steps) in runs.items():
            start = time.perf_counter()
            steps(partial(step, method, update, number))
            if fabric.device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(round(time.perf_counter() - start, 4))
    plain, compiled = (statistics.median(t[options.warmup :]) for t in times.values())
    result = {
        "plain_s": plain,
        "compiled_s": compiled,
        "ratio": round(plain / compiled, 3),
        "warmup_s": {name: t[: options.warmup] for name, t in times.items()},
        "steps_s": {name: t[options.warmup :] for name, t in times.items()},
        "said": said,
    }
    print(json.dumps({**vars(options), **result}))


if __name__ == "__main__":
    main()
