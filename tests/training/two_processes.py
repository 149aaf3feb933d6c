"""Run by `test_two_processes.py`: four float64 steps of a method on one or two processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from methods.test_contract import VARIANTS, build
from patchkin.data.datasets import UnpairedBatch
from patchkin.method import Progress
from patchkin.randomness import SeededDraws
from patchkin.training import Updater
from patchkin.training.fabric import Fabric
from patchkin.training.reduction import Reduction
from support import random_batch


def main(variant: str, num_processes: int, target: Path) -> None:
    """Each process takes its share of the batches of 4 images."""
    fabric = Fabric(
        accelerator="cpu", devices=num_processes, strategy="ddp" if num_processes > 1 else "auto"
    )
    fabric.launch()
    torch.set_num_threads(1)
    Reduction.bucket_bytes = 4096  # small networks in several buckets
    assert variant in VARIANTS
    method = build(variant, dtype=torch.float64)
    update = Updater(method, fabric)
    for step in range(3):
        whole = random_batch(4, channels=method.channels, seed=step, dtype=torch.float64)
        mine = slice(fabric.global_rank, None, fabric.world_size)
        batch = UnpairedBatch(whole.a_BCHW[mine], whole.b_BCHW[mine])
        draws = SeededDraws(0, step, rank=fabric.global_rank, world_size=num_processes)
        progress = Progress.of_step(step, total_steps=3, draws=draws)
        update.begin_step(1.0)
        method.train_step(batch, update, progress)
    if fabric.is_global_zero:
        save_file({n: t.contiguous() for n, t in method.state_dict().items()}, target)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
