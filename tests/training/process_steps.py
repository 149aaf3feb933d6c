"""Run by `test_process_promises.py`: what one or two processes differentiate, for many variants."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from methods.test_contract import (
    CUT,
    DCLGAN,
    DISTANCEGAN,
    LSESIM,
    NEGCUT,
    PIX2PIX,
    RELATION,
    SIMDCL,
    SINCUT,
    SMALL_POOL,
    VARIANTS,
    batch_for,
    rows_of,
)
from patchkin.method import Method, Progress
from patchkin.methods import METHODS
from patchkin.methods.travelgan import TravelGanConfig
from patchkin.networks import PatchGANConfig, ResNetConfig, UNetConfig
from patchkin.networks.siamese import ShiftBatchNorm2d
from patchkin.randomness import SeededDraws
from patchkin.training import Updater
from patchkin.training.collectives import batch_of_all, mean_over_processes
from patchkin.training.fabric import Fabric

WHOLE_BATCH: dict[str, tuple[str, object]] = {
    "cut-all-negatives": ("cut", replace(CUT, all_negatives=True)),
    "cut-all-negatives-bank": (
        "cut",
        replace(CUT, all_negatives=True, negatives_from="both", bank_size=40),
    ),
    "cut-no-contrast": ("cut", replace(CUT, contrast_weight=0.0)),
    "relation-all-negatives": ("semantic-relation", replace(RELATION, all_negatives=True)),
    "relation-all-negatives-paper": (
        "semantic-relation",
        replace(RELATION, all_negatives=True, weights="paper", branches="in_turn"),
    ),
    "relation-all-negatives-transport": (
        "semantic-relation",
        replace(RELATION, all_negatives=True, negatives="optimal-transport"),
    ),
    "dclgan-all-negatives": ("dclgan", replace(DCLGAN, all_negatives=True)),
    "simdcl-all-negatives": ("simdcl", replace(SIMDCL, all_negatives=True)),
    "sincut-relation-all": ("sincut", replace(SINCUT, contrast="relation")),
    "distancegan-released": (
        "distancegan",
        replace(DISTANCEGAN, averaging="released", distance="self"),
    ),
    "fsesim-slope-pool": ("lsesim", replace(LSESIM, slope_weight=2.0, pool=SMALL_POOL)),
    "negcut-no-contrast": ("negcut", replace(NEGCUT, contrast_weight=0.0)),
    "travelgan-without-batch-norm": (
        "travelgan",
        TravelGanConfig(width=2, vector_width=5, travel_weight=0.1),
    ),
    "pix2pix-dropout": (
        "pix2pix",
        replace(
            PIX2PIX,
            generator=UNetConfig(ngf=2, levels=6),
            discriminator=PatchGANConfig(in_channels=6, ndf=4, antialias=False, norm="batch"),
        ),
    ),
    "pix2pix-residual-dropout": (
        "pix2pix",
        replace(PIX2PIX, generator=ResNetConfig(ngf=2, blocks=2, norm="batch", dropout=True)),
    ),
    "cut-batch-norm-r1": (
        "cut",
        replace(CUT, discriminator=PatchGANConfig(ndf=4, norm="batch"), r1_weight=0.5),
    ),
}
"""Losses and norms over the whole batch, and what else only several processes meet."""
ALL = {**VARIANTS, **WHOLE_BATCH}


class Differentiator(Updater):
    """Remembers the gradients of every update, and steps nothing."""

    def __init__(self, method: Method, fabric: Fabric) -> None:
        super().__init__(method, fabric)
        self.found: dict[str, Tensor] = {}
        self.turn = 0

    def _step(self, optimizers, parameters):
        self.turn += 1
        for place, tensor in enumerate(p for group in parameters for p in group):
            if tensor.grad is not None:
                self.found[f"{self.turn}.{place}"] = tensor.grad.clone()


def build(name: str) -> Method:
    """A float64 method; networks without any norm over images where the name says so."""
    kind, config = ALL[name]
    torch.manual_seed(0)
    method = METHODS[kind](config).double()
    if name.endswith("-without-batch-norm"):
        for module in method.modules():
            if isinstance(module, ShiftBatchNorm2d):
                module.norm = nn.Identity()
    return method


def differentiated(name: str, fabric: Fabric) -> dict[str, Tensor]:
    """Terms and gradients of two steps with whole batches of 4 images, and prepared tensors."""
    rank, processes = fabric.global_rank, fabric.world_size
    method = build(name)
    size = (max(32, method.min_size),) * 2
    mine = slice(rank, None, processes)

    def batch(seed: int):
        whole = batch_for(method, 4, seed=seed, size=size, dtype=torch.float64)
        return rows_of(whole, mine)

    method.prepare((batch_of_all(fabric, batch(50 + i)) for i in range(6)), SeededDraws(0, -1))
    update = Differentiator(method, fabric)
    for step in (2, 3):
        draws = SeededDraws(0, step, rank=rank, world_size=processes)
        update.begin_step(1.0)
        update.seed_layers(0, step)
        method.train_step(batch(step), update, Progress.of_step(step, total_steps=9, draws=draws))
        for term, value in update.terms.items():
            if "." not in term:  # reported, perhaps in float32
                continue
            update.found[f"{step}.{term}"] = mean_over_processes(fabric, value.double())
    buffers = dict(method.named_buffers())
    return {**update.found, **{f"buffer.{n}": b.clone() for n, b in buffers.items()}}


def main(target: Path, names: Sequence[str]) -> None:
    """Two processes; the first writes."""
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    torch.set_num_threads(1)
    found = {
        f"{n}/{k}": t.contiguous() for n in names for k, t in differentiated(n, fabric).items()
    }
    if fabric.is_global_zero:
        save_file(found, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
