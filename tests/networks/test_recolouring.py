"""Other colours, against torchvision."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as colours

from patchkin.networks.recolouring import with_other_hue


@pytest.mark.parametrize("turn", [-0.3, -0.1234, 0.0, 0.05, 0.2999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hue_is_turned_to_the_bit_as_in_torchvision(turn, dtype):
    """Random colours, and a grid with greys, ties of two channels, black and white."""
    generator = torch.Generator().manual_seed(0)
    random_BCHW = torch.rand(2, 3, 24, 25, generator=generator, dtype=dtype)
    grid_BCHW = torch.cartesian_prod(*[torch.linspace(0, 1, 5)] * 3).T.reshape(1, 3, 25, 5)
    for x_BCHW in (random_BCHW, grid_BCHW.to(dtype), random_BCHW[:, :1]):
        assert torch.equal(with_other_hue(x_BCHW, turn), colours.adjust_hue(x_BCHW, turn))


def test_hue_of_a_colour_worked_out_by_hand():
    """The hue of (0.8, 0.4, 0.2) is 20 degrees; 100 further is that of green."""
    x_BCHW = torch.tensor([0.8, 0.4, 0.2]).view(1, 3, 1, 1)
    turned = with_other_hue(x_BCHW, 100 / 360).flatten()
    torch.testing.assert_close(turned, torch.tensor([0.2, 0.8, 0.2]))
