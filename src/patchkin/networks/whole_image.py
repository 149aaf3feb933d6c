"""Norms over an image of which only parts are at hand.

Layers that take statistics over all pixels of an image (`whole_image`) ask here for those of the
image first. Outside of `normalizing_by` there are none, and a layer takes those of what it has.

Shape suffixes: B images, or parts of one, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.numerics import widened


@dataclass(frozen=True)
class Moments:
    """Of a map of one image."""

    mean_C: Tensor
    """Of each channel."""
    variance_C: Tensor
    """With the number of pixels in the denominator."""
    pixels: int
    """Of the map, not counting channels."""

    @classmethod
    def of(cls, x_BCHW: Tensor) -> Moments:
        """Of all pixels of all images of the batch together, in float64 where there is such.

        >>> moments = Moments.of(torch.tensor([[[[1.0, 2.0]]], [[[3.0, 6.0]]]]))
        >>> moments.mean_C.item(), moments.variance_C.item(), moments.pixels
        (3.0, 3.5, 4)
        """
        variance_C, mean_C = torch.var_mean(widened(x_BCHW), dim=(0, 2, 3), correction=0)
        if x_BCHW.device.type != "mps":
            variance_C, mean_C = variance_C.double(), mean_C.double()
        return cls(mean_C, variance_C, x_BCHW.numel() // x_BCHW.shape[1])

    def joined(self, other: Moments) -> Moments:
        """Of the pixels of both (Chan, Golub and LeVeque 1979).

        >>> two, one = (Moments.of(torch.tensor([[[row]]])) for row in ([1.0, 2.0], [6.0]))
        >>> both = two.joined(one)
        >>> both.mean_C.item(), round(both.variance_C.item(), 4), both.pixels
        (3.0, 4.6667, 3)
        """
        pixels = self.pixels + other.pixels
        share = other.pixels / pixels
        apart_C = other.mean_C - self.mean_C
        variance_C = self.variance_C * (1 - share) + other.variance_C * share
        return Moments(
            self.mean_C + apart_C * share,
            variance_C + apart_C.square() * share * (1 - share),
            pixels,
        )

    def over_channels(self) -> tuple[Tensor, Tensor]:
        """Mean and variance over all channels and pixels.

        >>> moments = Moments.of(torch.tensor([[[[1.0, 2.0]], [[3.0, 6.0]]]]))
        >>> [value.item() for value in moments.over_channels()]
        [3.0, 3.5]
        """
        mean = self.mean_C.mean()
        return mean, (self.variance_C + (self.mean_C - mean).square()).mean()


MomentsOf = Callable[[Tensor], Moments]
"""What a norm is given [B, C, H, W], to the moments of the whole map. It is called once for every
norm of a forward pass, in the order of the computation."""

_moments_of: ContextVar[MomentsOf | None] = ContextVar("moments_of", default=None)


@contextmanager
def normalizing_by(moments_of: MomentsOf) -> Iterator[None]:
    """Inside, in this thread, norms over an image take these moments in place of their own."""
    before = _moments_of.set(moments_of)
    try:
        yield
    finally:
        _moments_of.reset(before)


def given_moments(x_BCHW: Tensor) -> Moments | None:
    """The moments that a norm of `x_BCHW` is to use; None for those of `x_BCHW` itself."""
    if torch.compiler.is_compiling():
        return None
    moments_of = _moments_of.get()
    return None if moments_of is None else moments_of(x_BCHW)


def normalized_by(
    x_BCHW: Tensor,
    moments: Moments,
    *,
    weight_C: Tensor | None = None,
    bias_C: Tensor | None = None,
    epsilon: float,
) -> Tensor:
    """Zero mean and unit variance by these moments, then scale and shift.

    >>> moments = Moments(torch.tensor([1.0]), torch.tensor([4.0]), 9)
    >>> normalized_by(torch.tensor([[[[1.0, 5.0]]]]), moments, epsilon=0.0).flatten()
    tensor([0., 2.])
    """
    narrow = x_BCHW.dtype in (torch.bfloat16, torch.float16)
    dtype = torch.float32 if narrow else x_BCHW.dtype
    channels = len(moments.mean_C)
    if narrow and weight_C is None:  # else batch norm would take 16 bits for the moments too
        weight_C = torch.ones(channels, dtype=dtype, device=x_BCHW.device)
        bias_C = torch.zeros_like(weight_C)
    return nnf.batch_norm(
        x_BCHW,
        moments.mean_C.to(x_BCHW.device, dtype),
        moments.variance_C.to(x_BCHW.device, dtype),
        None if weight_C is None else weight_C.to(dtype),
        None if bias_C is None else bias_C.to(dtype),
        training=False,
        eps=epsilon,
    )
