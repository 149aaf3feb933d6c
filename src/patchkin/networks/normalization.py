"""Normalisation layers, with the one kernel fault that they must be guarded against.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.networks.cpu.kept_inputs import Operation, convolved
from patchkin.networks.cpu.layout import layout_of
from patchkin.networks.resampling import BlurDownsample, BlurUpsample, ReflectionPad2d
from patchkin.networks.whole_batch import BatchNorm2d
from patchkin.networks.whole_image import given_moments, normalized_by

_REPEATABLE = (nn.ReLU, nn.LeakyReLU, ReflectionPad2d, BlurDownsample, BlurUpsample)
"""Layers behind a norm that are cheap beside a convolution and give the same again."""

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

    whole_image: ClassVar[bool] = True
    """It takes statistics over all pixels of an image; see `Method.tiling`."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise `x_BCHW` over its pixels, or those of the image that it is a part of."""
        moments = given_moments(x_BCHW)
        if moments is not None:
            return normalized_by(x_BCHW, moments, epsilon=EPSILON)
        if _keeps_channels_last(x_BCHW):
            normalized_BCHW: Tensor = _Normalized.apply(x_BCHW, None)
            return normalized_BCHW
        y_BCHW = nnf.instance_norm(x_BCHW, eps=EPSILON)
        if y_BCHW.requires_grad and torch.is_grad_enabled():
            y_BCHW = contiguous_gradient(y_BCHW)
        return y_BCHW


class _Normalized(torch.autograd.Function):
    """Instance norm and, if a slope is given, a (leaky) ReLU: one kept map for the backward pass.

    The sign of a normalised value is that of its distance to the mean, so the ReLU's mask comes
    from the norm's input. Means and deviations are float32 or wider for maps of 16 bits. The layout
    of the map in memory, contiguous or channels-last, is that of the result and of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, slope: float | None) -> Tensor:
        layout = layout_of(x_BCHW)
        y_BCHW, moments = torch.empty_like(x_BCHW, memory_format=layout), []
        for part, y_1NHW in zip(
            _as_one_image(x_BCHW, layout), _as_one_image(y_BCHW, layout), strict=True
        ):
            scale_N, shift_N = _wide_unit_scale(part)
            mean_N, inverse_N = _moments_like(part)
            torch.native_batch_norm(
                part, scale_N, shift_N, None, None, True, 0.0, EPSILON,
                out=(y_1NHW, mean_N, inverse_N),
            )  # fmt: skip
            moments += [mean_N, inverse_N]
        if slope is not None:
            nnf.leaky_relu_(y_BCHW, slope)
        ctx.save_for_backward(x_BCHW, *moments)
        ctx.slope = slope
        return y_BCHW

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x_BCHW, *moments = ctx.saved_tensors
        # The layouts must agree: see the fault of torch's kernel at `InstanceNorm2d`.
        layout = layout_of(x_BCHW)
        gradient_BCHW = gradients[0].contiguous(memory_format=layout)
        parts = []
        for part, gradient, mean_N, inverse_N in zip(
            _as_one_image(x_BCHW, layout), _as_one_image(gradient_BCHW, layout),
            moments[::2], moments[1::2], strict=True,
        ):  # fmt: skip
            scale_N, shift_N = _wide_unit_scale(part)
            passed_1NHW = gradient
            if ctx.slope is not None:
                centred_1NHW = torch.batch_norm(  # x - mean, in one pass over maps of any type
                    part.detach(), scale_N, shift_N, mean_N, torch.ones_like(mean_N),
                    False, 0.0, 0.0, False,
                )  # fmt: skip
                passed_1NHW = torch.ops.aten.leaky_relu_backward(
                    gradient, centred_1NHW, ctx.slope, False
                )
            gradient_1NHW, *_ = torch.ops.aten.native_batch_norm_backward(
                passed_1NHW, part, scale_N, None, None, mean_N, inverse_N, True, EPSILON,
                [True, False, False],
            )  # fmt: skip
            parts.append(gradient_1NHW)
        return _together(parts, x_BCHW), None


def _as_one_image(x_BCHW: Tensor, layout: torch.memory_format) -> tuple[Tensor, ...]:
    """Views [1, N, H, W] of which batch norm is instance norm: all maps as channels of one image,
    or image by image where the channels of a pixel lie together.
    """
    if layout == torch.channels_last:
        return torch.split(x_BCHW, 1)
    return (x_BCHW.reshape(1, -1, *x_BCHW.shape[2:]),)


def _together(parts: list[Tensor], like_BCHW: Tensor) -> Tensor:
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    if whole.shape == like_BCHW.shape:
        return whole  # a view of the same shape may lose what tells its layout
    return whole.view(like_BCHW.shape)


def _wide_unit_scale(x_1NHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """A scale of one, a shift of zero in float32: the statistics of 16-bit maps stay wide."""
    if x_1NHW.dtype not in (torch.bfloat16, torch.float16):
        return None, None
    ones_N = torch.ones(x_1NHW.shape[1], device=x_1NHW.device)
    return ones_N, torch.zeros_like(ones_N)


def _moments_like(x_1NHW: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the mean and the inverse deviation of each map."""
    narrow = x_1NHW.dtype in (torch.bfloat16, torch.float16)
    mean_N = x_1NHW.new_empty(x_1NHW.shape[1], dtype=torch.float32 if narrow else x_1NHW.dtype)
    return mean_N, torch.empty_like(mean_N)


def _keeps_channels_last(x_BCHW: Tensor) -> bool:
    """Whether to normalise in channels-last layout, which `instance_norm` would change on a CPU."""
    return (
        not torch.compiler.is_compiling()
        and x_BCHW.device.type == "cpu"
        and x_BCHW.shape[2] * x_BCHW.shape[3] > 1
        and layout_of(x_BCHW) == torch.channels_last
    )


def apply_layers(layers: Iterable[nn.Module], x_BCHW: Tensor) -> Tensor:
    """The layers in order, as `nn.Sequential`, with less to keep for the backward pass.

    An instance norm and its ReLU are one operation. In 16 bit on a CPU, what a convolution reads
    behind a norm, a ReLU, padding or enlargement is made again from the norm's input, unless it is
    smaller than that (see `cpu.kept_inputs`). Results and gradients are the same, bit for bit.
    """
    rest = list(layers)
    source_BCHW = x_BCHW  # the last norm's input
    since: list[Operation] = []  # and what followed
    while rest:
        layer, *rest = rest
        operation: Operation = layer
        if isinstance(layer, InstanceNorm2d) and _records(x_BCHW):
            slope = _slope_of(rest[0]) if rest else None
            operation = partial(_normalized, slope=slope)
            rest = rest[slope is not None :]
            source_BCHW, since = x_BCHW, [operation]
        elif since and isinstance(layer, nn.Conv2d):
            operation = partial(convolved, layer, source_BCHW=source_BCHW, operations=since)
            since = []
        elif since and isinstance(layer, _REPEATABLE):
            since = [*since, operation]
        else:
            since = []
        x_BCHW = operation(x_BCHW)
    return x_BCHW


def _slope_of(layer: nn.Module) -> float | None:
    """Of a (leaky) ReLU below zero; None for any other layer."""
    match layer:
        case nn.ReLU():
            return 0.0
        case nn.LeakyReLU():
            return layer.negative_slope
    return None


def _normalized(x_BCHW: Tensor, slope: float | None) -> Tensor:
    y_BCHW: Tensor = _Normalized.apply(x_BCHW, slope)
    return y_BCHW


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
        return BatchNorm2d(channels, eps=EPSILON)
    return nn.Identity()


def uses_bias(kind: NormKind) -> bool:
    """Whether a convolution before this norm has a bias: in the released networks iff instance.

    Batch norm has its own shift. Instance norm makes the bias useless too (its gradient is zero
    unless a tap reads the convolution), and "none" could use one; released weights decide.
    """
    return kind == "instance"
