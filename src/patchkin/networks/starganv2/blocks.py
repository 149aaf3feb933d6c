"""Residual blocks of G, E and D, and the norms in them.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.networks.normalization import EPSILON, contiguous_gradient
from patchkin.networks.whole_image import given_moments, normalized_by

SLOPE = 0.2
"""Of the leaky rectifiers."""


class AffineInstanceNorm2d(nn.Module):
    """Instance norm with a learned scale and shift per channel.

    >>> AffineInstanceNorm2d(2)(torch.arange(16.0).reshape(1, 2, 2, 4)).shape
    torch.Size([1, 2, 2, 4])
    """

    whole_image: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise each image over its pixels, then scale and shift."""
        moments = given_moments(x_BCHW)
        if moments is not None:
            return normalized_by(
                x_BCHW, moments, weight_C=self.weight, bias_C=self.bias, epsilon=EPSILON
            )
        return _normalized(x_BCHW, self.weight, self.bias)


class AdaptiveInstanceNorm2d(nn.Module):
    """Instance norm whose scale and shift come from a style: (1 + gamma) norm(x) + beta.

    >>> norm = AdaptiveInstanceNorm2d(channels=4, style_width=3)
    >>> norm(torch.randn(2, 4, 5, 5), torch.zeros(2, 3)).shape
    torch.Size([2, 4, 5, 5])
    """

    whole_image: ClassVar[bool] = True

    def __init__(self, channels: int, style_width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(style_width, 2 * channels)

    def forward(self, x_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """Normalise each image over its pixels and dress it in its style."""
        gamma_BC, beta_BC = self.fc(style_BS).to(x_BCHW.dtype).chunk(2, dim=1)
        moments = given_moments(x_BCHW)
        if moments is not None:
            unit_BCHW = normalized_by(x_BCHW, moments, epsilon=EPSILON)
            dressed_BCHW: Tensor = (
                unit_BCHW * (1 + gamma_BC)[:, :, None, None] + beta_BC[:, :, None, None]
            )
            return dressed_BCHW
        # All maps of the batch as channels of one image: one operation that keeps one map.
        maps_1NHW = x_BCHW.reshape(1, -1, *x_BCHW.shape[2:])
        y_1NHW = _normalized(maps_1NHW, (1 + gamma_BC).flatten(), beta_BC.flatten())
        return y_1NHW.view(x_BCHW.shape)


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut, their sum scaled by 1 / sqrt(2); `down` halves."""

    def __init__(self, channels: int, out: int, *, norm: bool = False, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm1 = AffineInstanceNorm2d(channels) if norm else nn.Identity()
        self.norm2 = AffineInstanceNorm2d(channels) if norm else nn.Identity()
        self.conv1x1 = nn.Conv2d(channels, out, 1, bias=False) if channels != out else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The next map."""
        shortcut_BCHW = x_BCHW if self.conv1x1 is None else self.conv1x1(x_BCHW)
        y_BCHW = self.conv1(_rectified(self.norm1(x_BCHW)))
        if self.down:
            shortcut_BCHW = nnf.avg_pool2d(shortcut_BCHW, 2)
            y_BCHW = nnf.avg_pool2d(y_BCHW, 2)
        y_BCHW = self.conv2(_rectified(self.norm2(y_BCHW)))
        sum_BCHW: Tensor = shortcut_BCHW + y_BCHW
        return sum_BCHW / math.sqrt(2)


class StyledResBlock(nn.Module):
    """A `ResBlock` whose norms follow a style; `up` doubles before anything is learned."""

    def __init__(self, channels: int, out: int, style_width: int, *, up: bool = False) -> None:
        super().__init__()
        self.up = up
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.norm1 = AdaptiveInstanceNorm2d(channels, style_width)
        self.norm2 = AdaptiveInstanceNorm2d(out, style_width)
        self.conv1x1 = nn.Conv2d(channels, out, 1, bias=False) if channels != out else None

    def forward(self, x_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """The next map."""
        y_BCHW = _rectified(self.norm1(x_BCHW, style_BS))
        if self.up:
            x_BCHW, y_BCHW = _doubled(x_BCHW), _doubled(y_BCHW)
        shortcut_BCHW = x_BCHW if self.conv1x1 is None else self.conv1x1(x_BCHW)
        y_BCHW = self.conv2(_rectified(self.norm2(self.conv1(y_BCHW), style_BS)))
        sum_BCHW: Tensor = shortcut_BCHW + y_BCHW
        return sum_BCHW / math.sqrt(2)


class DownBlock(nn.Module):
    """Norm, rectifier, a 4 x 4 convolution that halves; without a shortcut (`released`)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 4, stride=2, padding=1)
        self.norm1 = AffineInstanceNorm2d(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The next map."""
        y_BCHW: Tensor = self.conv1(_rectified(self.norm1(x_BCHW)))
        return y_BCHW


class UpBlock(nn.Module):
    """Doubles, then norm, rectifier and convolution; does not see the style (`released`)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm1 = AffineInstanceNorm2d(channels)

    def forward(self, x_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """The next map; `style_BS` is not read."""
        y_BCHW: Tensor = self.conv1(_rectified(self.norm1(_doubled(x_BCHW))))
        return y_BCHW


def _normalized(x_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor) -> Tensor:
    """Guarded like `InstanceNorm2d` against the wrong gradients of torch's kernel at batch 1."""
    y_BCHW = nnf.instance_norm(x_BCHW, weight=scale_C, bias=shift_C, eps=EPSILON)
    recorded = y_BCHW.requires_grad and torch.is_grad_enabled()
    return contiguous_gradient(y_BCHW) if recorded else y_BCHW


def _rectified(x_BCHW: Tensor) -> Tensor:
    return nnf.leaky_relu(x_BCHW, SLOPE)


def _doubled(x_BCHW: Tensor) -> Tensor:
    return nnf.interpolate(x_BCHW, scale_factor=2, mode="nearest")
