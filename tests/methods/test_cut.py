"""FastCUT in 16 bits: the encoder learns from the image, through weights that autocast has cast."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from patchkin.method import Progress
from patchkin.methods.cut import Cut, CutConfig
from patchkin.networks import InitConfig, PatchGANConfig, ResNetConfig
from patchkin.randomness import SeededDraws
from patchkin.training import Updater
from patchkin.training.fabric import Fabric
from support import cpu_fabric, random_batch

FASTCUT = CutConfig(
    generator=ResNetConfig(ngf=8, blocks=5),
    discriminator=PatchGANConfig(ndf=4),
    initialization=InitConfig(gain=1.0),
    head_width=16,
    num_patches=32,
    taps=(4, 8),
    identity=False,
    flip_equivariance=True,
    contrast_weight=10.0,
)


class Coins(SeededDraws):
    """All coins fall one way."""

    def __init__(self, flipped: bool) -> None:
        super().__init__(0, 3)
        self._flipped = flipped

    def coin(self) -> bool:
        return self._flipped


def gradients(config: CutConfig, precision: str, *, flipped: bool) -> dict[str, torch.Tensor]:
    """Of the encoder, through the contrast alone: the adversary is made to count nothing."""
    torch.manual_seed(0)
    method = Cut(replace(config, adversarial_weight=1e-12)).train()
    fabric = cpu_fabric(precision)
    update = Updater(method, fabric)
    update.begin_step(0.0)
    progress = Progress.of_step(3, total_steps=10, draws=Coins(flipped))
    with fabric.autocast():
        method.train_step(random_batch(2, size=(32, 40)), update, progress)
    return {
        name: weight.grad.flatten()
        for name, weight in method.G.named_parameters()
        if name in ("model.1.weight", "model.4.weight") and weight.grad is not None
    }


@pytest.mark.parametrize("flipped", [True, False])
def test_weights_that_autocast_keeps_have_their_graph(flipped, monkeypatch):
    """torch up to 2.10 hands weights that were cast without a graph, for the keys, to the pass of
    the queries: its encoder would learn nothing through its own weights.
    """
    kept = gradients(FASTCUT, "bf16-mixed", flipped=flipped)
    monkeypatch.setattr(
        Fabric,
        "autocast",
        lambda _: torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False),
    )
    cast_anew = gradients(FASTCUT, "bf16-mixed", flipped=flipped)
    assert kept.keys() == cast_anew.keys() == {"model.1.weight", "model.4.weight"}
    for name, gradient in cast_anew.items():
        assert torch.equal(kept[name], gradient), name
