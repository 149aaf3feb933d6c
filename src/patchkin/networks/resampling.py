"""Antialiased resampling with fixed binomial filters, and reflection padding.

The filters are buffers that are not saved: released checkpoints may or may not hold them.
All are linear, so their gradients need sizes and no maps: nothing of the size of a map is kept for
the backward pass. These gradients are written out here: torch's own are slow on a CPU, most of all
for 16-bit maps, and on accelerators they are added up in no fixed order, so that a seeded run would
not repeat bit for bit. The layers compute in the type of the map also under autocast, which would
widen it.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.networks.cpu.layout import layout_of

_BINOMIAL_ROWS = {
    1: (1.0,),
    2: (1.0, 1.0),
    3: (1.0, 2.0, 1.0),
    4: (1.0, 3.0, 3.0, 1.0),
    5: (1.0, 4.0, 6.0, 4.0, 1.0),
    6: (1.0, 5.0, 10.0, 10.0, 5.0, 1.0),
    7: (1.0, 6.0, 15.0, 20.0, 15.0, 6.0, 1.0),
}


def binomial_filter(taps: int, *, gain: float = 1.0) -> Tensor:
    """The two-dimensional binomial filter of `taps` x `taps` numbers that sum to `gain`.

    Raises:
        ConfigError: if `taps` is not between 1 and 7.

    >>> binomial_filter(3) * 16
    tensor([[1., 2., 1.],
            [2., 4., 2.],
            [1., 2., 1.]])
    """
    if taps not in _BINOMIAL_ROWS:
        raise ConfigError(f"`taps` of a blur filter must be between 1 and 7; got {taps}.")
    row = _BINOMIAL_ROWS[taps]
    total = sum(row) ** 2  # a power of two: the quotients are exact
    return torch.tensor([[gain * above * beside / total for beside in row] for above in row])


class _Reflected(torch.autograd.Function):
    """Reflection padding that keeps only the size of what it padded."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, padding: int) -> Tensor:
        ctx.padding = padding
        return nnf.pad(x_BCHW, [padding] * 4, mode="reflect")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _reflected_gradient(gradients[0], ctx.padding), None


class _Blurred(torch.autograd.Function):
    """Reflection padding and a fixed depthwise filter, keeping no map."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, filter_C1HW: Tensor, taps: int, stride: int) -> Tensor:
        ctx.sides, ctx.taps, ctx.stride = x_BCHW.shape[2:], taps, stride
        return _blur(x_BCHW, filter_C1HW, taps, stride)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        height, width = ctx.sides
        gradient = _spread(gradients[0], ctx.taps, ctx.stride, size=width, dim=3)
        return _spread(gradient, ctx.taps, ctx.stride, size=height, dim=2), None, None, None


class _Doubled(torch.autograd.Function):
    """Twofold bilinear enlargement, keeping no map."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, filter_HW: Tensor) -> Tensor:
        ctx.filter_HW = filter_HW
        return nnf.interpolate(x_BCHW, scale_factor=2, mode="bilinear", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # What a pixel was spread over is gathered by the same weights.
        gradient_BCHW = gradients[0]
        channels = gradient_BCHW.shape[1]
        filter_C1HW = ctx.filter_HW.to(gradient_BCHW.dtype).repeat(channels, 1, 1, 1)
        padded_BCHW = nnf.pad(gradient_BCHW, [1] * 4, mode="replicate")
        return nnf.conv2d(padded_BCHW, filter_C1HW, stride=2, groups=channels), None


def _blur(x_BCHW: Tensor, filter_C1HW: Tensor, taps: int, stride: int) -> Tensor:
    before, after = (taps - 1) // 2, taps // 2
    padded_BCHW = nnf.pad(x_BCHW, [before, after, before, after], mode="reflect")
    return nnf.conv2d(padded_BCHW, filter_C1HW, stride=stride, groups=len(filter_C1HW))


def _reflected_gradient(gradient_BCHW: Tensor, padding: int) -> Tensor:
    """Add the gradients of the border's mirror images to those of the pixels they show.

    Several times as fast on a CPU as torch's own, which visits pixel after pixel.
    """
    inner, near, far = slice(padding, -padding), slice(0, padding), slice(-padding, None)
    at_near, at_far = slice(1, padding + 1), slice(-padding - 1, -1)
    x_BCHW = gradient_BCHW[..., inner, inner].clone(memory_format=layout_of(gradient_BCHW))
    for strip, at in ((near, at_near), (far, at_far)):
        x_BCHW[..., at, :] += gradient_BCHW[..., strip, inner].flip(-2)
        columns = gradient_BCHW[..., strip].flip(-1)
        side = columns[..., inner, :].clone()
        for rows, at_rows in ((near, at_near), (far, at_far)):
            side[..., at_rows, :] += columns[..., rows, :].flip(-2)
        x_BCHW[..., at] += side
    return x_BCHW


def _spread(gradient_BCHW: Tensor, taps: int, stride: int, *, size: int, dim: int) -> Tensor:
    """The gradient of blurring one axis of length `size`, which was reflected at its ends."""
    before = (taps - 1) // 2
    row = _BINOMIAL_ROWS[taps]
    sides = list(gradient_BCHW.shape)
    count, sides[dim] = sides[dim], size
    x_BCHW = torch.empty(
        sides,
        dtype=gradient_BCHW.dtype,
        device=gradient_BCHW.device,
        memory_format=layout_of(gradient_BCHW),
    ).zero_()
    for tap, weight in enumerate(row):
        shift = tap - before  # output i sees pixel i * stride + shift
        first = -(min(shift, 0) // stride)
        last = min(count - 1, (size - 1 - shift) // stride)
        inside = gradient_BCHW.narrow(dim, first, last + 1 - first)
        index = [slice(None)] * x_BCHW.ndim
        start = first * stride + shift
        index[dim] = slice(start, start + (last - first) * stride + 1, stride)
        x_BCHW[tuple(index)].add_(inside, alpha=weight / sum(row))
        for outside in (*range(first), *range(last + 1, count)):
            pixel = abs(outside * stride + shift)
            pixel = min(pixel, 2 * (size - 1) - pixel)
            mirrored = gradient_BCHW.narrow(dim, outside, 1)
            x_BCHW.narrow(dim, pixel, 1).add_(mirrored, alpha=weight / sum(row))
    return x_BCHW


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
                padded_BCHW: Tensor = _Reflected.apply(x_BCHW, self.padding)
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
        self.register_buffer("filt", self.constants()["filt"], persistent=False)

    filt: Tensor

    def constants(self) -> dict[str, Tensor]:
        """The filter: no file holds it."""
        filter_C1HW = torch.empty(self.channels, 1, self.taps, self.taps)
        return {"filt": filter_C1HW.copy_(binomial_filter(self.taps))}

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Blur and subsample `x_BCHW`."""
        if _needs_ordered_sums(x_BCHW):
            before, after = (self.taps - 1) // 2, self.taps // 2
            padded_BCHW = mirror(mirror(x_BCHW, before, after, dim=-1), before, after, dim=-2)
            return nnf.conv2d(padded_BCHW, self.filt, stride=self.stride, groups=self.channels)
        with _own_type(x_BCHW):
            filt = self.filt.to(x_BCHW.dtype)
            if _records(x_BCHW):
                blurred_BCHW: Tensor = _Blurred.apply(x_BCHW, filt, self.taps, self.stride)
                return blurred_BCHW
            return _blur(x_BCHW, filt, self.taps, self.stride)

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

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filt", self.constants()["filt"], persistent=False)

    filt: Tensor

    def constants(self) -> dict[str, Tensor]:
        """The filter of the gradient: no file holds it."""
        return {"filt": binomial_filter(4, gain=4.0)}

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Enlarge `x_BCHW`."""
        if _needs_ordered_sums(x_BCHW):
            return double(double(x_BCHW, dim=-1), dim=-2)
        with _own_type(x_BCHW):
            if _records(x_BCHW):
                doubled_BCHW: Tensor = _Doubled.apply(x_BCHW, self.filt)
                return doubled_BCHW
            return nnf.interpolate(x_BCHW, scale_factor=2, mode="bilinear", align_corners=False)


def _needs_ordered_sums(x: Tensor) -> bool:
    """Whether a compiler would take torch's own gradient, on an accelerator."""
    compiles = torch.compiler.is_compiling() and x.device.type != "cpu"
    return compiles and x.requires_grad and torch.is_grad_enabled()


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
