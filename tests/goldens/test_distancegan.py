"""DistanceGAN: statistics, pairwise and self-distance of the released code, with gradients."""

from __future__ import annotations

import pytest
import torch

from goldens.fixtures import Golden, assert_close_to_maximum, golden_files
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses.distance import distance_preservation
from patchkin.methods.distancegan import DistanceGan, DistanceGanConfig
from patchkin.networks import ImagePoolConfig, PatchGANConfig, ResNetConfig
from patchkin.randomness import SeededDraws

RELATIVE = 1e-4


def _one_process(tensor):
    """There is nothing to gather."""
    return tensor


@pytest.mark.parametrize("path", golden_files("distancegan_pairs", "distancegan_self"))
def test_statistics_losses_and_gradients(path):
    golden = Golden(path)
    options = golden.options
    channels = golden["in/real_A"].shape[1]
    method = DistanceGan(
        DistanceGanConfig(
            generator=ResNetConfig(ngf=1, blocks=1, in_channels=channels, out_channels=channels),
            discriminator=PatchGANConfig(ndf=1, in_channels=channels),
            pool=ImagePoolConfig(capacity=0),
            distance="self" if options["self_distance"] else "pairs",
            standardized=options["normalize"],
            averaging="released",
            statistics_items=options["max_items"],
        )
    ).double()
    if options["normalize"]:
        items = (golden.tensor(f"in/stat_{domain}") for domain in "AB")
        batches = [UnpairedBatch(*pair) for pair in zip(*items, strict=True)]
        method.prepare(iter(batches), SeededDraws(0, -1))
    for domain in "AB":
        for ours, theirs in (("expectation", "expectation"), ("deviation", "std")):
            if f"out/{theirs}_{domain}" in golden:
                value = method.get_buffer(f"{ours}_{domain}")
                expected = golden.tensor(f"out/{theirs}_{domain}")
                assert_close_to_maximum(value, expected, relative=RELATIVE)
    for source, target in ("AB", "BA"):
        fake = golden.tensor(f"in/fake_{target}").requires_grad_()
        loss = distance_preservation(
            method._distances(golden.tensor(f"in/real_{source}"), _one_process),
            method._distances(fake, _one_process),
            method._spread_of(source),
            method._spread_of(target),
        )
        stored = golden.tensor(f"out/loss_distance_{source}")
        assert_close_to_maximum(loss.detach(), stored, relative=RELATIVE)
        (gradient,) = torch.autograd.grad(loss, fake)
        expected = golden.tensor(f"grad/fake_{target}")
        assert_close_to_maximum(gradient, expected, relative=RELATIVE)
