"""TraVeLGAN's networks: the siamese S, its generator and its discriminator.

All halve with 4 x 4 convolutions, padded as TensorFlow's "same": a side n becomes ceil(n / 2).
The widths and norms are the released ones. The released code was not recorded on these points,
which are ours: no bias before a norm, a norm behind every enlarging layer but the last, features
before the ones handed across in a concatenation, running statistics when translating.

Shape suffixes: B images, C channels, H and W pixels, D numbers of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.networks.whole_batch import BatchNorm2d
from patchkin.numerics import without_autocast

_KERNEL = 4
_SLOPE = 0.2
_GRID = 4
"""Rows and columns that are left of an image of 128 pixels."""


class ShiftBatchNorm2d(nn.Module):
    """Batch norm with a learned shift and no scale, epsilon 1e-3 and decay 0.9.

    >>> list(ShiftBatchNorm2d(2).state_dict())[:3]
    ['shift_C', 'norm.running_mean', 'norm.running_var']
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, eps=1e-3, momentum=0.1, affine=False)
        self.shift_C = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise over images and pixels, then shift."""
        y_BCHW: Tensor = self.norm(x_BCHW) + self.shift_C[:, None, None]
        return y_BCHW


class Halving(nn.Module):
    """Convolution with stride 2, batch norm unless `first`, leaky ReLU.

    >>> Halving(3, 8, first=True)(torch.zeros(1, 3, 7, 4)).shape
    torch.Size([1, 8, 4, 2])
    """

    def __init__(self, in_channels: int, out_channels: int, *, first: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, _KERNEL, stride=2, bias=first)
        self.norm = nn.Identity() if first else ShiftBatchNorm2d(out_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Half the sides, rounded up."""
        height, width = x_BCHW.shape[2:]
        padded_BCHW = nnf.pad(x_BCHW, (1, 1 + width % 2, 1, 1 + height % 2))
        return nnf.leaky_relu(self.norm(self.conv(padded_BCHW)), _SLOPE)


class Siamese(nn.Module):
    """S: an image becomes D numbers whose differences the generators must keep.

    The first convolution is a domain's own, the rest is shared. Images of other sides than 128
    leave a map of other than 4 x 4, which is averaged to that.

    Args:
        channels: of the two domains.
        width: of the first layer; then 2, 4, 8, 8 times as many.
        vector_width: D.

    >>> network = Siamese((3, 1), width=2, vector_width=10)
    >>> network(torch.zeros(4, 1, 48, 64), domain=1).shape
    torch.Size([4, 10])
    """

    def __init__(
        self, channels: tuple[int, int], width: int = 64, vector_width: int = 1000
    ) -> None:
        super().__init__()
        widths = [factor * width for factor in (1, 2, 4, 8, 8)]
        self.first = nn.ModuleList(Halving(count, width, first=True) for count in channels)
        self.shared = nn.Sequential(
            *(Halving(narrow, wide, first=False) for narrow, wide in pairwise(widths))
        )
        self.vector = nn.Linear(widths[-1] * _GRID**2, vector_width)

    def forward(self, x_BCHW: Tensor, *, domain: int) -> Tensor:
        """[B, D] of images of domain 0 or 1."""
        features_BC = _grid(self.shared(self.first[domain](x_BCHW)))
        with without_autocast(x_BCHW):  # what counts are small differences of these numbers
            x_BD: Tensor = self.vector(features_BC.to(self.vector.weight.dtype))
            return x_BD


class GlobalDiscriminator(nn.Module):
    """One logit per image.

    Args:
        in_channels: of the images.
        width: a half of the first layer's channels; then 4, 8, 16, 16 times as many.

    >>> GlobalDiscriminator(3, width=2)(torch.zeros(4, 3, 48, 64)).shape
    torch.Size([4, 1])
    """

    def __init__(self, in_channels: int, width: int = 64) -> None:
        super().__init__()
        widths = [factor * width for factor in (2, 4, 8, 16, 16)]
        self.model = nn.Sequential(*_halvings([in_channels, *widths]))
        self.logit = nn.Linear(widths[-1] * _GRID**2, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, 1]."""
        logits_B1: Tensor = self.logit(_grid(self.model(x_BCHW)))
        return logits_B1


class TravelGenerator(nn.Module):
    """A U-Net of four halvings; any height and width.

    Args:
        in_channels: of the source domain.
        out_channels: of the target domain.
        width: of the first layer; then 2, 4, 4 times as many.

    >>> TravelGenerator(3, 1, width=2)(torch.zeros(1, 3, 33, 50)).shape
    torch.Size([1, 1, 33, 50])
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 64) -> None:
        super().__init__()
        self.in_channels = in_channels
        widths = [factor * width for factor in (1, 2, 4, 4)]
        self.down = nn.ModuleList(_halvings([in_channels, *widths]))
        first, second, third, fourth = widths
        enlarged = [(fourth, third), (2 * third, second), (2 * second, first)]
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(wide, narrow, _KERNEL, stride=2, padding=1, bias=False),
                ShiftBatchNorm2d(narrow),
                nn.ReLU(),
            )
            for wide, narrow in enlarged
        )
        self.last = nn.ConvTranspose2d(2 * first, out_channels, _KERNEL, stride=2, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Translate `x_BCHW`.

        Raises:
            ShapeError: if the channels are not `in_channels`.
        """
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != self.in_channels:
            raise ShapeError(
                f"`x_BCHW` must be [B, {self.in_channels}, H, W] for this generator; "
                f"got {tuple(x_BCHW.shape)}."
            )
        height, width = x_BCHW.shape[2:]
        across = []
        for layer in self.down:
            x_BCHW = layer(x_BCHW)
            across.append(x_BCHW)
        across.pop()
        for layer in self.up:
            skipped = across.pop()
            enlarged = layer(x_BCHW)[..., : skipped.shape[2], : skipped.shape[3]]
            x_BCHW = torch.cat([enlarged, skipped], dim=1)
        return torch.tanh(self.last(x_BCHW)[..., :height, :width])


def _halvings(widths: Sequence[int]) -> list[Halving]:
    return [
        Halving(narrow, wide, first=index == 0)
        for index, (narrow, wide) in enumerate(pairwise(widths))
    ]


def _grid(x_BCHW: Tensor) -> Tensor:
    """The map averaged to 4 x 4, as one row per image."""
    if x_BCHW.shape[2:] != (_GRID, _GRID):
        x_BCHW = nnf.adaptive_avg_pool2d(x_BCHW, _GRID)
    return x_BCHW.flatten(1)
