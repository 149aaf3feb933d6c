"""Narrower generators from the important channels of wider ones."""

from __future__ import annotations

import pytest
import torch

from patchkin.compression.transfer import transfer_weights
from patchkin.errors import ConfigError
from patchkin.networks.separable import SeparableGenerator
from patchkin.networks.supernet import Supernet

WIDE = (5, 4, 6, 3, 7, 2, 5, 4)


def generator(channels):
    torch.manual_seed(0)
    return SeparableGenerator(channels).double()


def test_at_equal_widths_the_function_stays_and_the_channels_are_ranked():
    wide, again = generator(WIDE), generator(WIDE)
    transfer_weights(wide, again)
    x_BCHW = torch.rand(2, 3, 16, 20, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(again(x_BCHW), wide(x_BCHW), rtol=1e-9, atol=1e-12)
    strength_C = again.model[1].weight.abs().sum(dim=(1, 2, 3))
    assert torch.equal(strength_C, strength_C.sort(descending=True).values)
    assert not torch.equal(again.model[1].weight, wide.model[1].weight)


def test_follows_the_kept_channels_through_a_block():
    """The first block's depthwise filters, by a loop over the ranking of the layers before."""
    wide, narrow = generator(WIDE), generator((3, 2, 4, 1, 2, 1, 2, 3))
    transfer_weights(wide, narrow)
    kept = [0, 1, 2]
    for place, width in ((1, 3), (4, 4), (7, 16)):
        weight = wide.model[place].weight
        scores = [
            sum(float(weight[o, i].detach().abs().sum()) for i in kept) for o in range(len(weight))
        ]
        kept = sorted(range(len(weight)), key=lambda o: -scores[o])[:width]
    depthwise = wide.model[10].conv_block[1].conv[0]
    ours = narrow.model[10].conv_block[1].conv[0]
    assert torch.equal(ours.weight, depthwise.weight[kept])
    assert torch.equal(ours.bias, depthwise.bias[kept])
    last = narrow.model[18].conv_block[6].conv[2]
    assert torch.equal(last.bias, wide.model[18].conv_block[6].conv[2].bias[kept])


def test_a_supernet_starts_from_a_generator():
    wide = generator((6,) * 8)
    supernet = Supernet(ngf=6).double()
    transfer_weights(wide, supernet)
    x_BCHW = torch.rand(1, 3, 16, 16, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(supernet(x_BCHW), wide(x_BCHW), rtol=1e-9, atol=1e-12)


def test_wider_targets_and_other_images_are_refused():
    with pytest.raises(ConfigError, match="wide to narrow; got 2_2_2_2_2_2_2_2 -> 3_3_3_3_3_3_3_3"):
        transfer_weights(generator((2,) * 8), generator((3,) * 8))
    with pytest.raises(ConfigError, match="same images"):
        transfer_weights(generator((2,) * 8), SeparableGenerator((2,) * 8, in_channels=1))
