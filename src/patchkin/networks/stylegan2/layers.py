"""Layers of StyleGAN2 whose N(0, 1) weights are scaled where they are used.

Shape suffixes: B images, C channels, H and W pixels, O output and I input channels of a weight.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.networks.resampling import binomial_filter
from patchkin.randomness import sent

_SLOPE = 0.2
GAIN = math.sqrt(2)
"""Of the activation: keeps the variance that the leaky slope takes away."""
BLUR_TAPS = 4


def leaky(x: Tensor) -> Tensor:
    """sqrt(2) LeakyReLU(x), slope 0.2: the activation of all layers here.

    >>> leaky(torch.tensor([1.0, -1.0]))
    tensor([ 1.4142, -0.2828])
    """
    return nnf.leaky_relu(x, _SLOPE) * GAIN


class EqualConv2d(nn.Module):
    """A convolution without bias whose N(0, 1) weight is scaled by 1 / sqrt(C k k) at run time."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.stride, self.padding = stride, padding

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve `x_BCHW`."""
        scale = 1 / math.sqrt(self.weight[0].numel())
        return nnf.conv2d(x_BCHW, self.weight * scale, stride=self.stride, padding=self.padding)


class EqualLinear(nn.Module):
    """A linear layer whose N(0, 1) weight is scaled by 1 / sqrt(C) at run time."""

    def __init__(self, width_in: int, width_out: int, *, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in))
        self.bias = nn.Parameter(torch.zeros(width_out))
        self.activate = activate

    def forward(self, x_BC: Tensor) -> Tensor:
        """Map `x_BC`."""
        scale = 1 / math.sqrt(self.weight.shape[1])
        y_BC = nnf.linear(x_BC, self.weight * scale, self.bias)
        return leaky(y_BC) if self.activate else y_BC


class BiasedLeaky(nn.Module):
    """A bias per channel, then `leaky`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Activate `x_BCHW`."""
        return leaky(x_BCHW + self.bias)


class Blur(nn.Module):
    """Each channel with [1, 3, 3, 1] x [1, 3, 3, 1], with zeros around the map.

    >>> Blur(padding=1, gain=1.0)(torch.ones(1, 1, 4, 4))[0, 0, 1]
    tensor([0.8750, 1.0000, 0.8750])
    """

    def __init__(self, *, padding: int, gain: float = 1.0, stride: int = 1) -> None:
        super().__init__()
        self.padding, self.stride, self.gain = padding, stride, gain
        self.register_buffer("kernel", self.constants()["kernel"], persistent=False)

    kernel: Tensor

    def constants(self) -> dict[str, Tensor]:
        """The filter: no file holds it."""
        return {"kernel": binomial_filter(BLUR_TAPS).mul_(self.gain)}

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """H x W becomes (H + 2 padding - 3) x (W + 2 padding - 3), then every `stride`-th."""
        channels = x_BCHW.shape[1]
        kernel_C1HW = self.kernel.expand(channels, 1, BLUR_TAPS, BLUR_TAPS)
        return nnf.conv2d(
            x_BCHW, kernel_C1HW, padding=self.padding, stride=self.stride, groups=channels
        )


def conv_layer(
    channels_in: int, channels_out: int, kernel: int, *, down: bool = False, activate: bool = True
) -> nn.Sequential:
    """A convolution that keeps the sides, or (`down`) a blur and one of stride 2 that halves them.

    >>> conv_layer(3, 5, 3)(torch.zeros(1, 3, 7, 6)).shape
    torch.Size([1, 5, 7, 6])
    >>> conv_layer(3, 5, 1, down=True)(torch.zeros(1, 3, 7, 6)).shape
    torch.Size([1, 5, 3, 3])
    """
    layers: list[nn.Module] = []
    if not down:
        layers.append(EqualConv2d(channels_in, channels_out, kernel, padding=kernel // 2))
    elif kernel == 1:  # the blur skips what the convolution would
        layers += [Blur(padding=1, stride=2), EqualConv2d(channels_in, channels_out, 1)]
    else:
        padding = (BLUR_TAPS - 2 + kernel - 1) // 2
        layers += [Blur(padding=padding), EqualConv2d(channels_in, channels_out, kernel, stride=2)]
    if activate:
        layers.append(BiasedLeaky(channels_out))
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """(conv2(conv1(x)) + skip(x)) / sqrt(2); with `down` both ways halve the sides."""

    def __init__(self, channels_in: int, channels_out: int, *, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.conv1 = conv_layer(channels_in, channels_in, 3)
        self.conv2 = conv_layer(channels_in, channels_out, 3, down=down)
        keeps = channels_in == channels_out and not down
        self.skip = (
            nn.Identity()
            if keeps
            else conv_layer(channels_in, channels_out, 1, down=down, activate=False)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The scaled sum; the variance of `x_BCHW` is kept."""
        y_BCHW: Tensor = (self.conv2(self.conv1(x_BCHW)) + self.skip(x_BCHW)) / GAIN
        return y_BCHW


class ModulatedUpConv2d(nn.Module):
    """Double the sides by a transposed convolution of normalised weights, then blur.

    StyleGAN2's modulated convolution where all styles are 1: the weights of an output channel are
    divided by their length.

    >>> ModulatedUpConv2d(2, 3)(torch.zeros(1, 2, 5, 4)).shape
    torch.Size([1, 3, 10, 8])
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels_out, channels_in, kernel, kernel))
        self.blur = Blur(padding=1, gain=4.0)  # three of four values to blur are new zeros

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Enlarge `x_BCHW`."""
        weight_OIHW = self.weight[0] / math.sqrt(self.weight[0, 0].numel())
        energy_O111 = weight_OIHW.square().sum(dim=(1, 2, 3), keepdim=True)
        weight_OIHW = weight_OIHW * (energy_O111 + 1e-8).rsqrt()
        wide_BCHW = nnf.conv_transpose2d(x_BCHW, weight_OIHW.transpose(0, 1), stride=2)
        y_BCHW: Tensor = self.blur(wide_BCHW)
        return y_BCHW


class Noise(nn.Module):
    """Noise times a learned weight, the same for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW: Tensor, noise_B1HW: Tensor) -> Tensor:
        """The sum of `x_BCHW` and its noise."""
        return x_BCHW + self.weight * sent(noise_B1HW, x_BCHW)


class StyledConv(nn.Module):
    """Doubled sides, noise, bias and activation."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = ModulatedUpConv2d(channels_in, channels_out)
        self.noise = Noise()
        self.activate = BiasedLeaky(channels_out)

    def forward(self, x_BCHW: Tensor, noise_B1HW: Tensor | None) -> Tensor:
        """Enlarge `x_BCHW`; without noise if there is none."""
        y_BCHW = self.conv(x_BCHW)
        if noise_B1HW is not None:
            y_BCHW = self.noise(y_BCHW, noise_B1HW)
        activated_BCHW: Tensor = self.activate(y_BCHW)
        return activated_BCHW
