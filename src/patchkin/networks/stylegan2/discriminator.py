"""SinCUT's discriminator.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.networks.stylegan2.config import FINAL_SIDE, StyleGan2DiscriminatorConfig
from patchkin.networks.stylegan2.layers import EqualLinear, ResidualBlock, conv_layer


class StyleGan2Discriminator(nn.Module):
    """Residual blocks down to 4 x 4, then two linear layers: one logit per image.

    >>> import torch
    >>> network = StyleGan2Discriminator(StyleGan2DiscriminatorConfig(ndf=1, working_size=16))
    >>> network(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 1])
    """

    size: int
    """Side of the images it takes."""

    def __init__(self, config: StyleGan2DiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StyleGan2DiscriminatorConfig()
        self.size = config.working_size
        halvings = int(math.log2(self.size // FINAL_SIDE))
        widths = [config.width(self.size >> halving) for halving in range(halvings + 1)]
        self.convs = nn.Sequential(
            conv_layer(config.in_channels, widths[0], 1),
            *(ResidualBlock(wide, deep, down=True) for wide, deep in pairwise(widths)),
        )
        last = widths[-1]
        self.final_conv = conv_layer(last, last, 3)
        self.final_linear = nn.Sequential(
            EqualLinear(last * FINAL_SIDE**2, last, activate=True), EqualLinear(last, 1)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, 1].

        Raises:
            ShapeError: if the images are not square of the side `working_size`.
        """
        wanted = (self.config.in_channels, self.size, self.size)
        if x_BCHW.ndim != 4 or tuple(x_BCHW.shape[1:]) != wanted:
            raise ShapeError(
                f"The discriminator judges images [B, {wanted[0]}, {self.size}, {self.size}]; got "
                f"{tuple(x_BCHW.shape)}. Train at its `working_size` (--size {self.size}), or set "
                "`working_size` to the size of the images."
            )
        y_BCHW: Tensor = self.final_conv(self.convs(x_BCHW))
        logits_B1: Tensor = self.final_linear(y_BCHW.flatten(1))
        return logits_B1
