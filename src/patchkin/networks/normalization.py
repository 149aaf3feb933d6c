"""Normalisation layers, with the one kernel fault that they must be guarded against.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
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
        if _is_one_image_in_channels_last(x_BCHW):
            # For one image batch norm is instance norm, and torch has it in this layout.
            return torch.native_batch_norm(
                x_BCHW, *_wide_unit_scale(x_BCHW), None, None, True, 0.0, EPSILON
            )[0]
        y_BCHW = nnf.instance_norm(x_BCHW, eps=EPSILON)
        if y_BCHW.requires_grad and torch.is_grad_enabled():
            y_BCHW = contiguous_gradient(y_BCHW)
        return y_BCHW


class _NormalizedRectified(torch.autograd.Function):
    """Instance norm, then a (leaky) ReLU, keeping one map for the backward pass instead of two.

    The sign of a normalised value is that of its distance to the mean, so the ReLU's mask comes
    from the norm's input. Means and deviations are float32 or wider for maps of 16 bits.
    """

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, slope: float) -> Tensor:
        num_maps = x_BCHW.shape[0] * x_BCHW.shape[1]
        flat_1NHW = x_BCHW.reshape(1, num_maps, *x_BCHW.shape[2:])
        scale_N, shift_N = _wide_unit_scale(flat_1NHW)
        y_1NHW, mean_N, inverse_N = torch.native_batch_norm(
            flat_1NHW, scale_N, shift_N, None, None, True, 0.0, EPSILON
        )
        ctx.save_for_backward(x_BCHW, mean_N, inverse_N)
        ctx.slope = slope
        return nnf.leaky_relu_(y_1NHW, slope).view(x_BCHW.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x_BCHW, mean_N, inverse_N = ctx.saved_tensors
        shape_1NHW = (1, len(mean_N), *x_BCHW.shape[2:])
        flat_1NHW = x_BCHW.reshape(shape_1NHW)
        scale_N, shift_N = _wide_unit_scale(flat_1NHW)
        centred_1NHW = torch.batch_norm(  # x - mean, in one pass over maps of any type
            flat_1NHW.detach(), scale_N, shift_N, mean_N, torch.ones_like(mean_N),
            False, 0.0, 0.0, False,
        )  # fmt: skip
        passed_1NHW = torch.ops.aten.leaky_relu_backward(
            gradients[0].reshape(shape_1NHW), centred_1NHW, ctx.slope, False
        )
        gradient_x, *_ = torch.ops.aten.native_batch_norm_backward(
            passed_1NHW.contiguous(), flat_1NHW, scale_N, None, None,
            mean_N, inverse_N, True, EPSILON, [True, False, False],
        )  # fmt: skip
        return gradient_x.view(x_BCHW.shape), None


def _wide_unit_scale(x_1NHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """A scale of one, a shift of zero in float32: the statistics of 16-bit maps stay wide."""
    if x_1NHW.dtype not in (torch.bfloat16, torch.float16):
        return None, None
    ones_N = torch.ones(x_1NHW.shape[1], device=x_1NHW.device)
    return ones_N, torch.zeros_like(ones_N)


def _is_one_image_in_channels_last(x_BCHW: Tensor) -> bool:
    """Whether to normalise without a gradient where `instance_norm` would change the layout."""
    return (
        not torch.compiler.is_compiling()
        and x_BCHW.device.type == "cpu"
        and not (x_BCHW.requires_grad and torch.is_grad_enabled())
        and x_BCHW.shape[0] == 1
        and x_BCHW.shape[2] * x_BCHW.shape[3] > 1
        and not x_BCHW.is_contiguous()
        and x_BCHW.is_contiguous(memory_format=torch.channels_last)
    )


def apply_layers(layers: Iterable[nn.Module], x_BCHW: Tensor) -> Tensor:
    """The layers in order, as `nn.Sequential`; an instance norm and its ReLU are one operation.

    The result is the same; the backward pass needs one map less for each such pair.
    """
    rest = iter(layers)
    for layer in rest:
        if not (isinstance(layer, InstanceNorm2d) and _records(x_BCHW)):
            x_BCHW = layer(x_BCHW)
            continue
        follower = next(rest, None)
        match follower:
            case nn.ReLU():
                x_BCHW = _NormalizedRectified.apply(x_BCHW, 0.0)
            case nn.LeakyReLU():
                x_BCHW = _NormalizedRectified.apply(x_BCHW, follower.negative_slope)
            case None:
                x_BCHW = layer(x_BCHW)
            case _:
                x_BCHW = follower(layer(x_BCHW))
    return x_BCHW


def _records(x: Tensor) -> bool:
    """Whether autograd, and not a compiler, records a gradient of a map that has a variance."""
    return (
        x.requires_grad
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.device.type in ("cpu", "cuda")
        and x.shape[2] * x.shape[3] > 1
    )


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
