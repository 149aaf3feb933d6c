"""The deeper teachers of OMGD (Ren et al., ICCV 2021): the student's width, more layers.

Where the student has a layer, they have the layer and *expansion blocks* beside it. Names of the
layers are those of the released networks; indices of `DeeperGenerator.model`:

    1, 4, 11                convolutions 7x7 3 -> n, 3x3 stride 2 n -> 2n, 2n -> 4n
    7, 8;  14, 15           expansion block and 3x3 convolution at 2n; at 4n
    18-21; 22, 23; 24-28    four separable blocks, two expansion blocks, five separable blocks
    29; 32, 33              transposed convolution 4n -> 2n; expansion block and convolution
    36; 39, 40              the same 2n -> n
    44                      convolution 7x7 n -> 3, tanh

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.networks.normalization import NormKind, norm_layer
from patchkin.networks.resampling import ReflectionPad2d
from patchkin.networks.separable import (
    SeparableBlock,
    SeparableGenerator,
    convolved,
    enlarging,
    prepared_input,
)
from patchkin.networks.unet import UNet, UNetConfig

_EXPANSION = 4
"""Inner width of an expansion block, in widths of what it is given."""


class ExpansionBlock(nn.Module):
    """x + conv_block(x): 1 x 1 to four times the width, 3 x 3, 1 x 1 back, 3 x 3.

    The padding of the first 3 x 3 stands before the 1 x 1 convolution, so the border passes through
    convolution, norm and ReLU first, as released. The identity stands where the released block has
    a dropout of rate 0.

    >>> import torch
    >>> ExpansionBlock(2)(torch.zeros(1, 2, 3, 4)).shape
    torch.Size([1, 2, 3, 4])
    """

    def __init__(self, width: int, norm: NormKind = "instance") -> None:
        super().__init__()
        inner, bias = _EXPANSION * width, norm != "batch"
        self.conv_block = nn.Sequential(
            ReflectionPad2d(1),
            nn.Conv2d(width, inner, 1, bias=bias),
            norm_layer(norm, inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, bias=bias),
            norm_layer(norm, inner),
            nn.ReLU(),
            nn.Conv2d(inner, width, 1, bias=bias),
            norm_layer(norm, width),
            nn.ReLU(),
            nn.Identity(),
            ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            norm_layer(norm, width),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape."""
        y_BCHW: Tensor = x_BCHW + self.conv_block(x_BCHW)
        return y_BCHW


class DeeperGenerator(nn.Module):
    """The deeper teacher beside a separable student of the same `ngf`. Images are in [-1, 1].

    Args:
        ngf: channels of the first layer.
        in_channels: of the source images.
        out_channels: of the target images.
        norm: after every convolution but the last.

    >>> sum(weight.numel() for weight in DeeperGenerator(16).parameters())
    2547123
    """

    multiple_of: ClassVar[int] = SeparableGenerator.multiple_of
    """Sides of which the output keeps the size."""
    min_size: ClassVar[int] = SeparableGenerator.min_size
    """Shortest side."""

    def __init__(
        self,
        ngf: int = 16,
        in_channels: int = 3,
        out_channels: int = 3,
        *,
        norm: NormKind = "instance",
    ) -> None:
        super().__init__()
        if ngf < 1:
            raise ConfigError(f"`ngf` must be at least 1; got {ngf}.")
        self.in_channels = in_channels

        def expanded(width: int) -> list[nn.Module]:
            return [ExpansionBlock(width, norm), *convolved(width, width, norm, stride=1)]

        def separable(count: int) -> list[nn.Module]:
            return [SeparableBlock(4 * ngf, 4 * ngf, norm) for _ in range(count)]

        self.model = nn.Sequential(
            ReflectionPad2d(3),
            *convolved(in_channels, ngf, norm),
            *convolved(ngf, 2 * ngf, norm, stride=2),
            *expanded(2 * ngf),
            *convolved(2 * ngf, 4 * ngf, norm, stride=2),
            *expanded(4 * ngf),
            *separable(4),
            ExpansionBlock(4 * ngf, norm),
            ExpansionBlock(4 * ngf, norm),
            *separable(5),
            *enlarging(4 * ngf, 2 * ngf, norm),
            *expanded(2 * ngf),
            *enlarging(2 * ngf, ngf, norm),
            *expanded(ngf),
            ReflectionPad2d(3),
            nn.Conv2d(ngf, out_channels, 7),
            nn.Tanh(),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Translate `x_BCHW`, which is not clamped.

        Raises:
            ShapeError: the channels are not `in_channels` or a side is below `min_size`.
        """
        y_BCHW: Tensor = self.model(prepared_input(x_BCHW, self.in_channels, clamp=False))
        return y_BCHW


def deeper_unet(config: UNetConfig) -> UNet:
    """The deeper teacher beside a U-Net: two expansion blocks behind every halving and doubling.

    The innermost level has none; the outermost has its second two before its last ReLU.

    >>> import torch
    >>> deeper = deeper_unet(UNetConfig(ngf=2, levels=3, dropout=False))
    >>> deeper(torch.zeros(2, 3, 16, 24)).shape
    torch.Size([2, 3, 16, 24])
    """
    return UNet(config, behind=lambda width: [ExpansionBlock(width, config.norm) for _ in range(2)])
