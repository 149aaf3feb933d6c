"""Convolutions, residual blocks and norms, plain and with a style.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style, N scales and shifts of
all layers.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from patchkin.networks.normalization import EPSILON, InstanceNorm2d
from patchkin.networks.resampling import ReflectionPad2d
from patchkin.networks.whole_image import given_moments
from patchkin.numerics import widened, without_autocast


class ImageLayerNorm2d(nn.Module):
    """Zero mean and unit deviation per image over channels and pixels, then scale and shift.

        y = gamma (x - mean) / (std + 1e-5) + beta,   std with n - 1 in the denominator.

    The gradient is finite for a constant image too, where that of a square root is not.

    >>> norm = ImageLayerNorm2d(1)
    >>> _ = nn.init.ones_(norm.gamma)
    >>> norm(torch.tensor([[[[1.0, 2.0, 3.0]]]])).flatten().round(decimals=3)
    tensor([-1.,  0.,  1.], grad_fn=<RoundBackward1>)
    """

    whole_image: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise `x_BCHW`, in float32 at least."""
        with without_autocast(x_BCHW):
            x_BCHW = widened(x_BCHW)
            moments = given_moments(x_BCHW)
            if moments is not None:
                mean, variance = moments.over_channels()
                numbers = moments.pixels * x_BCHW.shape[1]
                deviation = (variance * numbers / max(numbers - 1, 1)).sqrt().to(x_BCHW.dtype)
                unit_BCHW = (x_BCHW - mean.to(x_BCHW.dtype)) / (deviation + EPSILON)
                return unit_BCHW * self.gamma[:, None, None] + self.beta[:, None, None]
            centred_BCHW = x_BCHW - x_BCHW.mean(dim=(1, 2, 3), keepdim=True)
            length_B111 = torch.linalg.vector_norm(centred_BCHW, dim=(1, 2, 3), keepdim=True)
            deviation_B111 = length_B111 / max(x_BCHW[0].numel() - 1, 1) ** 0.5
            unit_BCHW = centred_BCHW / (deviation_B111 + EPSILON)
            y_BCHW: Tensor = unit_BCHW * self.gamma[:, None, None] + self.beta[:, None, None]
            return y_BCHW


class AdaptiveInstanceNorm2d(nn.Module):
    """Instance norm whose shift and scale come with the image (AdaIN, Huang and Belongie 2017).

    The instance norm is `InstanceNorm2d`, guarded against torch's faulty CPU gradient at batch 1.
    Writing AdaIN as a batch norm of one image with B * C channels has the same fault.

    >>> x_BCHW = torch.tensor([[[[-1.0, 1.0]]]])
    >>> AdaptiveInstanceNorm2d()(x_BCHW, torch.tensor([[10.0, 2.0]])).flatten()  # shift, scale
    tensor([ 8.0000, 12.0000])
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = InstanceNorm2d()

    def forward(self, x_BCHW: Tensor, affine_BN: Tensor) -> Tensor:
        """Normalise, scale and shift.

        Args:
            x_BCHW: a map.
            affine_BN: the shifts of the C channels, then their scales: N = 2 C.
        """
        shift_BC, scale_BC = affine_BN.chunk(2, dim=1)
        y_BCHW: Tensor = self.norm(x_BCHW)
        return y_BCHW * scale_BC[:, :, None, None] + shift_BC[:, :, None, None]


class ConvBlock(nn.Module):
    """Reflection padding, a convolution with bias, a norm, an activation.

    >>> ConvBlock(3, 8, 4, stride=2, padding=1)(torch.zeros(1, 3, 9, 8)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.pad = ReflectionPad2d(padding)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride)
        self.norm = norm or nn.Identity()
        self.activation = activation or nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """All four in this order."""
        y_BCHW: Tensor = self.activation(self.norm(self.conv(self.pad(x_BCHW))))
        return y_BCHW


class StyledConvBlock(nn.Module):
    """Reflection padding, a 3 x 3 convolution, AdaIN, an activation."""

    def __init__(self, channels: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.pad = ReflectionPad2d(1)
        self.conv = nn.Conv2d(channels, channels, 3)
        self.norm = AdaptiveInstanceNorm2d()
        self.activation = activation or nn.Identity()

    def forward(self, x_BCHW: Tensor, affine_BN: Tensor) -> Tensor:
        """All four in this order."""
        y_BCHW: Tensor = self.activation(self.norm(self.conv(self.pad(x_BCHW)), affine_BN))
        return y_BCHW


class ResidualBlock(nn.Module):
    """x + two 3 x 3 convolutions with instance norm; no activation after the sum.

    >>> ResidualBlock(2)(torch.ones(1, 2, 3, 5)).shape
    torch.Size([1, 2, 3, 5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            ConvBlock(
                channels, channels, 3, padding=1, norm=InstanceNorm2d(), activation=nn.ReLU()
            ),
            ConvBlock(channels, channels, 3, padding=1, norm=InstanceNorm2d()),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The sum of `x_BCHW` and what the block makes of it; same shape."""
        y_BCHW: Tensor = x_BCHW + self.model(x_BCHW)
        return y_BCHW


class StyledResidualBlock(nn.Module):
    """`ResidualBlock` with AdaIN; it takes 4 C scales and shifts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.ModuleList(
            [StyledConvBlock(channels, nn.ReLU()), StyledConvBlock(channels)]
        )

    def forward(self, x_BCHW: Tensor, affine_BN: Tensor) -> Tensor:
        """The sum of `x_BCHW` and what the block makes of it; same shape."""
        y_BCHW = x_BCHW
        for block, part_BN in zip(self.model, affine_BN.chunk(2, dim=1), strict=True):
            y_BCHW = block(y_BCHW, part_BN)
        return x_BCHW + y_BCHW


class ResidualBlocks(nn.Module):
    """Residual blocks, one behind the other."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape."""
        y_BCHW: Tensor = self.model(x_BCHW)
        return y_BCHW


class StyledResidualBlocks(nn.Module):
    """Residual blocks with AdaIN, one behind the other; each takes its 4 C scales and shifts."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.model = nn.ModuleList(StyledResidualBlock(channels) for _ in range(blocks))

    def forward(self, x_BCHW: Tensor, affine_BN: Tensor) -> Tensor:
        """Same shape."""
        for block, part_BN in zip(self.model, affine_BN.chunk(len(self.model), dim=1), strict=True):
            x_BCHW = block(x_BCHW, part_BN)
        return x_BCHW


class SpatialMean(nn.Module):
    """The mean over all pixels, [B, C, 1, 1]."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """A mean rather than a pooling layer, whose CUDA gradient has no fixed order of sums."""
        return x_BCHW.mean(dim=(2, 3), keepdim=True)


class LinearBlock(nn.Module):
    """A linear layer and an activation."""

    def __init__(self, in_width: int, out_width: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(in_width, out_width)
        self.activation = activation or nn.Identity()

    def forward(self, x_BS: Tensor) -> Tensor:
        """Both in this order."""
        y_BN: Tensor = self.activation(self.fc(x_BS))
        return y_BN
