"""Where NEGCUT's negatives come from, beyond the contract."""

from __future__ import annotations

import pytest
import torch

from patchkin.data.datasets import UnpairedBatch
from patchkin.method import Progress
from patchkin.methods.negcut import NegCut, NegCutConfig
from patchkin.networks import InitConfig, PatchGANConfig, ResNetConfig
from patchkin.randomness import SeededDraws
from support import random_batch

SMALL = {
    "generator": ResNetConfig(ngf=4, blocks=5),
    "discriminator": PatchGANConfig(ndf=4),
    "initialization": InitConfig(gain=1.0),
    "head_width": 8,
    "num_patches": 12,
    "noise_width": 6,
}


def probed(kind, probe, batch=None, **options):
    """What `probe` finds of the negatives of A in a step of G, before the copy of F moves."""
    torch.manual_seed(0)
    method, seen, found = NegCut(NegCutConfig(**SMALL, negatives_of=kind, **options)), [], []
    contrast = method._contrast

    def remembering(branch, draws):
        seen.append(contrast(branch, draws))
        return seen[-1]

    def update(*networks, loss):
        if networks == ("G", "F"):
            loss()
            found.append(probe(method, seen[0][1]))

    method._contrast = remembering
    progress = Progress.of_step(0, total_steps=2, draws=SeededDraws(0, 0))
    method.train_step(batch or random_batch(2), update, progress)
    assert hasattr(method, "F_average") == (kind == "momentum")
    return found[0]


def taught(method, negatives):
    """Whether the encoder's first layer, and the head, learn from the negatives."""
    weights = [method.G.model[1].weight, next(method.F.parameters())]
    total = sum((row * torch.arange(row.shape[-1])).sum() for row in negatives)
    return [g is not None for g in torch.autograd.grad(total, weights, allow_unused=True)]


def differing(method, negatives):
    return {not torch.equal(row[0], row[1]) for row in negatives}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("momentum", [True, False]),
        ("projection", [True, True]),
        ("features", [True, False]),
        ("free", [False, False]),
    ],
)
def test_what_learns_through_the_negatives(kind, expected):
    assert probed(kind, taught) == expected
    assert probed(kind, taught, detached_negatives=True) == [False, False]
    assert probed(kind, differing) == {kind != "free"}


def test_every_image_has_noise_of_its_own():
    """Twice the same image, which describes itself alike: only the noise can differ."""
    one = random_batch(1)
    twice = UnpairedBatch(one.a_BCHW.repeat(2, 1, 1, 1), one.b_BCHW.repeat(2, 1, 1, 1))
    assert probed("momentum", differing, batch=twice) == {True}
    assert probed("free", differing, batch=twice) == {False}
