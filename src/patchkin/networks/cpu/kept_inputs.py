"""Convolutions whose input is made again in the backward pass, and not kept for it.

Behind a norm, what a convolution reads follows from the norm's input, which is kept anyway, by
layers that are cheap beside the convolution. In 16 bit on a CPU that saves more than it costs (in
float32 it would cost 2 % of the time).

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

Operation: TypeAlias = Callable[[Tensor], Tensor]


def convolved(
    convolution: nn.Conv2d,
    x_BCHW: Tensor,
    *,
    source_BCHW: Tensor,
    operations: Sequence[Operation],
) -> Tensor:
    """`convolution(x)`, whose backward pass makes x again from its source where that pays.

    Args:
        convolution: also one whose `forward` does more than convolve.
        x_BCHW: what it reads; receives the gradient.
        source_BCHW: what x was made of.
        operations: what was done to the source, in order; they give the same again.

    >>> x_BCHW = torch.ones(1, 1, 2, 2).bfloat16().requires_grad_()
    >>> double = lambda x: 2 * x
    >>> convolution = nn.Conv2d(1, 1, 2).bfloat16()
    >>> y_BCHW = convolved(convolution, double(x_BCHW), source_BCHW=x_BCHW, operations=[double])
    >>> y_BCHW.backward()
    >>> convolution.weight.grad.flatten()
    tensor([2., 2., 2., 2.], dtype=torch.bfloat16)
    """
    if not (convolution.weight.requires_grad and _is_spared(x_BCHW, source_BCHW)):
        y_BCHW: Tensor = convolution(x_BCHW)
        return y_BCHW
    spared = weakref.ref(x_BCHW)  # autograd keeps `keep`, which must not keep the map in turn

    def keep(tensor: Tensor) -> Tensor | None:
        return None if is_same_map(tensor, spared()) else tensor

    @torch.no_grad()
    def restore(kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept
        made_BCHW = source_BCHW.detach()
        for operation in operations:
            made_BCHW = operation(made_BCHW)
        return made_BCHW

    with torch.autograd.graph.saved_tensors_hooks(keep, restore):
        y_BCHW = convolution(x_BCHW)
    return y_BCHW


def is_same_map(tensor: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors show the same memory as the same numbers; nothing does if one is gone.

    Storage, offset, shape, strides and type decide. The address alone would not do: a part or the
    transpose of a map begins where the map does, and memory that was freed is given out again.

    >>> x_BCHW = torch.zeros(1, 1, 2, 2)
    >>> is_same_map(x_BCHW.detach(), x_BCHW), is_same_map(x_BCHW.mT, x_BCHW)
    (True, False)
    """
    return other is not None and tensor.dtype == other.dtype and tensor.is_set_to(other)


def _is_spared(x_BCHW: Tensor, source_BCHW: Tensor) -> bool:
    """Whether to make x again in the backward pass."""
    narrow = x_BCHW.dtype in (torch.bfloat16, torch.float16)
    return narrow and x_BCHW.device.type == "cpu" and x_BCHW.numel() >= source_BCHW.numel()
