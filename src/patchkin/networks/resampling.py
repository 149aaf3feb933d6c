"""Antialiased resampling with fixed binomial filters, and reflection padding.

The filters are buffers that are not saved: released checkpoints may or may not hold them.
On accelerators, torch adds up the gradients of reflection padding and of bilinear enlargement in no
fixed order. Where such a gradient is recorded the layers use an equal form whose sums are ordered,
so that a seeded run repeats bit for bit.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.errors import ConfigError

_BINOMIAL_ROWS = {
    1: (1.0,),
    2: (1.0, 1.0),
    3: (1.0, 2.0, 1.0),
    4: (1.0, 3.0, 3.0, 1.0),
    5: (1.0, 4.0, 6.0, 4.0, 1.0),
    6: (1.0, 5.0, 10.0, 10.0, 5.0, 1.0),
    7: (1.0, 6.0, 15.0, 20.0, 15.0, 6.0, 1.0),
}


def binomial_filter(taps: int) -> Tensor:
    """The two-dimensional binomial filter of `taps` x `taps` numbers that sum to one.

    Raises:
        ConfigError: if `taps` is not between 1 and 7.

    >>> binomial_filter(3) * 16
    tensor([[1., 2., 1.],
            [2., 4., 2.],
            [1., 2., 1.]])
    """
    if taps not in _BINOMIAL_ROWS:
        raise ConfigError(f"`taps` of a blur filter must be between 1 and 7; got {taps}.")
    row = torch.tensor(_BINOMIAL_ROWS[taps])
    filter_HW = torch.outer(row, row)
    return filter_HW / filter_HW.sum()


class ReflectionPad2d(nn.Module):
    """Extend an image by `padding` pixels on each side, mirrored at its border pixels.

    >>> ReflectionPad2d(1)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))[0, 0]
    tensor([[4., 3., 4., 3.],
            [2., 1., 2., 1.],
            [4., 3., 4., 3.],
            [2., 1., 2., 1.]])
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Pad `x_BCHW`, whose sides must be longer than the padding."""
        if _needs_ordered_sums(x_BCHW):
            return mirror(mirror(x_BCHW, self.padding, dim=-1), self.padding, dim=-2)
        return nnf.pad(x_BCHW, [self.padding] * 4, mode="reflect")

    def extra_repr(self) -> str:
        """The padding, for the printed network."""
        return str(self.padding)


class BlurDownsample(nn.Module):
    """Blur, then keep every second pixel: [B, C, H, W] to [B, C, ceil(H/2), ceil(W/2)].

    The binomial filter is applied per channel to the reflection-padded map (for the default 3 taps
    one pixel on each side).

    >>> BlurDownsample(1)(torch.ones(1, 1, 5, 4)).shape
    torch.Size([1, 1, 3, 2])
    """

    def __init__(self, channels: int, taps: int = 3, stride: int = 2) -> None:
        super().__init__()
        self.channels, self.taps, self.stride = channels, taps, stride
        before, after = (taps - 1) // 2, taps // 2
        self._pad = [before, after, before, after]
        filter_C1HW = binomial_filter(taps).repeat(channels, 1, 1, 1)
        self.register_buffer("filt", filter_C1HW, persistent=False)

    filt: Tensor

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Blur and subsample `x_BCHW`."""
        if _needs_ordered_sums(x_BCHW):
            before, after = self._pad[:2]
            padded_BCHW = mirror(mirror(x_BCHW, before, after, dim=-1), before, after, dim=-2)
        else:
            padded_BCHW = nnf.pad(x_BCHW, self._pad, mode="reflect")
        return nnf.conv2d(padded_BCHW, self.filt, stride=self.stride, groups=self.channels)

    def extra_repr(self) -> str:
        """The sizes, for the printed network."""
        return f"{self.channels}, taps={self.taps}, stride={self.stride}"


class BlurUpsample(nn.Module):
    """Enlarge twofold with the four-tap binomial filter: [B, C, H, W] to [B, C, 2H, 2W].

    The released layer pads by replication, applies a transposed convolution with
    [1, 3, 3, 1] x [1, 3, 3, 1] / 16 and crops; that is bilinear enlargement with pixel areas
    aligned (`align_corners=False`), which is computed here.

    >>> BlurUpsample()(torch.tensor([[[[0.0, 4.0]]]]))[0, 0]
    tensor([[0., 1., 3., 4.],
            [0., 1., 3., 4.]])
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Enlarge `x_BCHW`."""
        if _needs_ordered_sums(x_BCHW):
            return double(double(x_BCHW, dim=-1), dim=-2)
        return nnf.interpolate(x_BCHW, scale_factor=2, mode="bilinear", align_corners=False)


def _needs_ordered_sums(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled() and x.device.type != "cpu"


def mirror(x: Tensor, before: int, after: int | None = None, *, dim: int) -> Tensor:
    """Reflection padding of one axis by concatenation.

    >>> mirror(torch.tensor([1, 2, 3]), 2, dim=0)
    tensor([3, 2, 1, 2, 3, 2, 1])
    """
    after = before if after is None else after
    size = x.shape[dim]
    parts = [
        x.narrow(dim, 1, before).flip(dim),
        x,
        x.narrow(dim, size - 1 - after, after).flip(dim),
    ]
    return torch.cat(parts, dim)


def double(x: Tensor, *, dim: int) -> Tensor:
    """Twofold linear enlargement of one axis: each half of a pixel leans to its neighbour by 1/4.

    >>> double(torch.tensor([0.0, 4.0]), dim=0)
    tensor([0., 1., 3., 4.])
    """
    size = x.shape[dim]
    left = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, size - 1)], dim)
    right = torch.cat([x.narrow(dim, 1, size - 1), x.narrow(dim, size - 1, 1)], dim)
    halves = torch.stack([torch.lerp(x, left, 0.25), torch.lerp(x, right, 0.25)], dim % x.ndim + 1)
    return halves.flatten(dim % x.ndim, dim % x.ndim + 1)
