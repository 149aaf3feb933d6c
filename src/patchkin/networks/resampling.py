"""Antialiased resampling with fixed binomial filters, and reflection padding.

The filters are buffers that are not saved: released checkpoints may or may not hold them.
On accelerators, torch adds up the gradients of reflection padding and of bilinear enlargement in no
fixed order. Where such a gradient is recorded the layers use an equal form whose sums are ordered,
so that a seeded run repeats bit for bit.

Both are linear, so their gradients need sizes and no maps: nothing of the size of a map is kept for
the backward pass. They compute in the type of the map also under autocast, which would widen it.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any

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


class _Reflected(torch.autograd.Function):
    """Reflection padding that keeps only the size of what it padded."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, padding: list[int]) -> Tensor:
        ctx.shape, ctx.padding = x_BCHW.shape, padding
        return nnf.pad(x_BCHW, padding, mode="reflect")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_BCHW,) = gradients
        like_x = gradient_BCHW.new_empty(ctx.shape)  # only its size is read
        return _reflected_gradient(gradient_BCHW, like_x, ctx.padding), None


class _Blurred(torch.autograd.Function):
    """Reflection padding and a fixed depthwise filter, keeping no map."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, filter_C1HW: Tensor, padding: list[int], stride: int
    ) -> Tensor:
        padded_BCHW = nnf.pad(x_BCHW, padding, mode="reflect")
        ctx.shapes, ctx.padding, ctx.stride = (x_BCHW.shape, padded_BCHW.shape), padding, stride
        ctx.save_for_backward(filter_C1HW)
        return nnf.conv2d(padded_BCHW, filter_C1HW, stride=stride, groups=len(filter_C1HW))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_BCHW,), (filter_C1HW,) = gradients, ctx.saved_tensors
        like_x, like_padded = (gradient_BCHW.new_empty(shape) for shape in ctx.shapes)
        padded_gradient, *_ = torch.ops.aten.convolution_backward(
            gradient_BCHW, like_padded, filter_C1HW, None, [ctx.stride] * 2, [0, 0], [1, 1],
            False, [0, 0], len(filter_C1HW), [True, False, False],
        )  # fmt: skip
        return _reflected_gradient(padded_gradient, like_x, ctx.padding), None, None, None


def _reflected_gradient(gradient_BCHW: Tensor, like_x: Tensor, padding: list[int]) -> Tensor:
    folded: Tensor = torch.ops.aten.reflection_pad2d_backward(gradient_BCHW, like_x, padding)
    return folded


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
        with _own_type(x_BCHW):
            if _records(x_BCHW):
                padded_BCHW: Tensor = _Reflected.apply(x_BCHW, [self.padding] * 4)
                return padded_BCHW
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
            return nnf.conv2d(padded_BCHW, self.filt, stride=self.stride, groups=self.channels)
        with _own_type(x_BCHW):
            filt = self.filt.to(x_BCHW.dtype)
            if _records(x_BCHW):
                blurred_BCHW: Tensor = _Blurred.apply(x_BCHW, filt, self._pad, self.stride)
                return blurred_BCHW
            padded_BCHW = nnf.pad(x_BCHW, self._pad, mode="reflect")
            return nnf.conv2d(padded_BCHW, filt, stride=self.stride, groups=self.channels)

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
        with _own_type(x_BCHW):
            return nnf.interpolate(x_BCHW, scale_factor=2, mode="bilinear", align_corners=False)


def _needs_ordered_sums(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled() and x.device.type != "cpu"


def _records(x: Tensor) -> bool:
    """Whether a gradient is recorded, by autograd and not by a compiler."""
    return x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _own_type(x: Tensor) -> torch.autocast:
    """Without autocast."""
    return torch.autocast(x.device.type, enabled=False)


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
