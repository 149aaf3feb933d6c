"""Normalisation layers, with the one kernel fault that they must be guarded against.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

NormKind = Literal["instance", "batch", "none"]
"""Which layer follows a convolution."""

EPSILON = 1e-5
"""Added to the variance (CycleGAN, CUT and torch's default)."""


class _ContiguousGradient(torch.autograd.Function):
    """The identity, whose incoming gradient is laid out contiguously before it goes on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


def contiguous_gradient(x: Tensor) -> Tensor:
    """`x`, whose gradient reaches what computed it contiguously; also for higher orders.

    >>> x = torch.ones(2, 2, requires_grad=True)
    >>> seen = []
    >>> middle = x * 1
    >>> _ = middle.register_hook(lambda gradient: seen.append(gradient.is_contiguous()))
    >>> (contiguous_gradient(middle).mT * torch.ones(2, 2)).sum().backward()
    >>> seen
    [True]
    """
    y: Tensor = _ContiguousGradient.apply(x)
    return y


class InstanceNorm2d(nn.Module):
    """Zero mean and unit variance per image and channel, without learned scale or shift.

    torch's CPU backward of `instance_norm` at batch 1 is silently wrong (relative error above 1, in
    float64 too; seen in 2.13.0 and 2.14.1) when the incoming gradient has channels-last strides,
    which is what sampling patches by permute and index produces. The gradient is therefore made
    contiguous at the output; nothing is added when no gradient is recorded.

    >>> y_BCHW = InstanceNorm2d()(torch.arange(8.0).reshape(1, 2, 2, 2))
    >>> y_BCHW[0, 0].flatten()
    tensor([-1.3416, -0.4472,  0.4472,  1.3416])
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise `x_BCHW` over its pixels."""
        y_BCHW = nnf.instance_norm(x_BCHW, eps=EPSILON)
        if y_BCHW.requires_grad and torch.is_grad_enabled():
            y_BCHW = contiguous_gradient(y_BCHW)
        return y_BCHW


def norm_layer(kind: NormKind, channels: int) -> nn.Module:
    """The layer that `kind` names; "none" is an identity, so that indices of layers stay.

    >>> norm_layer("none", 8)
    Identity()
    """
    if kind == "instance":
        return InstanceNorm2d()
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps=EPSILON)
    return nn.Identity()


def uses_bias(kind: NormKind) -> bool:
    """Whether a convolution before this norm has a bias: in the released networks iff instance.

    Batch norm has its own shift. Instance norm makes the bias useless too (its gradient is zero
    unless a tap reads the convolution), and "none" could use one; released weights decide.
    """
    return kind == "instance"
