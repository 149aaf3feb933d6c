"""Batch norm and dropout of a batch that several processes share, as of one that has all of it.

With one process they are torch's own layers, bit for bit. With several, `join` tells them of the
others: batch norm takes the statistics of all images, and dropout leaves out what it would in the
whole batch. Both call on the others in their forward (batch norm in its backward too), so that all
processes must pass the same layers in the same order, as those of a training step do. In evaluation
nobody is called on.

Shape suffixes: B images of this process, C channels; more axes may follow.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.numerics import widened, without_autocast


class Processes(Protocol):
    """Those that share a batch: process r of N has its rows r, r + N, ..."""

    @property
    def rank(self) -> int:
        """Of this one."""
        ...

    @property
    def count(self) -> int:
        """Of all, N."""
        ...

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, with graph: a gradient reaches each of them."""
        ...

    def drawing_alike(self) -> AbstractContextManager[None]:
        """Inside, torch's generators give the same numbers in all processes."""
        ...


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over the rows of all processes."""

    processes: Processes | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Normalise over rows: [B, C]."""
        if self.training and self.processes is not None:
            return _uncompiled(_normalized)(self, input, self.processes)
        return super().forward(input)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the images of all processes."""

    processes: Processes | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Normalise over images and pixels: [B, C, H, W]."""
        if self.training and self.processes is not None:
            return _uncompiled(_normalized)(self, input, self.processes)
        return super().forward(input)


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` as of the whole batch."""

    processes: Processes | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Drop a share `p` of the values while training: [B, ...]."""
        if self.training and self.p > 0 and self.processes is not None:
            return input * _uncompiled(_kept)(input, self.p, self.processes)
        return super().forward(input)


def join(network: nn.Module, processes: Processes) -> None:
    """Tell the layers of a network, or of all networks of a method, of the other processes."""
    for layer in network.modules():
        if isinstance(layer, (BatchNorm1d, BatchNorm2d, Dropout)):
            layer.processes = processes


def alone(network: nn.Module) -> list[str]:
    """What layers of torch's own do otherwise in several processes, in words.

    >>> alone(nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.0)))
    ["batch norm takes the statistics of a process's own images"]
    >>> alone(nn.Sequential(BatchNorm2d(3), Dropout()))
    []
    """
    layers = list(network.modules())
    words = []
    if any(
        isinstance(layer, nn.modules.batchnorm._BatchNorm)
        and not isinstance(layer, (BatchNorm1d, BatchNorm2d, nn.SyncBatchNorm))
        for layer in layers
    ):
        words.append("batch norm takes the statistics of a process's own images")
    if any(
        isinstance(layer, nn.modules.dropout._DropoutNd)
        and not isinstance(layer, Dropout)
        and layer.p > 0
        for layer in layers
    ):
        words.append("dropout leaves out other values")
    return words


def _uncompiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compilers leave it out: it calls on other processes, or sets generators.

    Decorated once and for all, it would import the compiler: 1 s and 240 MB in every process.
    """
    if not torch.compiler.is_compiling():
        return function
    outside: Callable[..., Tensor] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return outside


def _normalized(layer: BatchNorm1d | BatchNorm2d, x_BC: Tensor, processes: Processes) -> Tensor:
    """Mean and variance in two sums over processes: squares of numbers that are centred already."""
    axes = [0, *range(2, x_BC.ndim)]

    def by_channel(values_C: Tensor) -> Tensor:
        return values_C.reshape(-1, *[1] * (x_BC.ndim - 2))

    with without_autocast(x_BC):
        wide_BC = widened(x_BC)
        here = wide_BC.new_tensor([wide_BC.numel() / wide_BC.shape[1]])
        sums = processes.total(torch.cat([wide_BC.sum(axes), here]))
        mean_C, number = sums[:-1] / sums[-1], sums[-1].detach()
        centred_BC = wide_BC - by_channel(mean_C)
        variance_C = processes.total(centred_BC.square().sum(axes)) / number
        y_BC = centred_BC * by_channel((variance_C + layer.eps).rsqrt())
        if layer.affine:
            y_BC = y_BC * by_channel(layer.weight) + by_channel(layer.bias)
        _remember(layer, mean_C.detach(), variance_C.detach() * number / (number - 1))
    return y_BC.to(x_BC.dtype)


def _remember(layer: BatchNorm1d | BatchNorm2d, mean_C: Tensor, unbiased_C: Tensor) -> None:
    """Move the running statistics, as torch does with a momentum."""
    if layer.running_mean is None or layer.running_var is None:
        return
    assert layer.momentum is not None, "the mean of all batches is used nowhere"
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    layer.running_mean.lerp_(mean_C.to(layer.running_mean.dtype), layer.momentum)
    layer.running_var.lerp_(unbiased_C.to(layer.running_var.dtype), layer.momentum)


def _kept(x_B: Tensor, p: float, processes: Processes) -> Tensor:
    """0 or 1 / (1 - p) for each value: the rows here of what one process would draw for all.

    The whole batch is drawn in the layout of its images, by the operation that one process uses, so
    that it is the same draw.
    """
    ones = torch.ones_like(x_B).repeat(processes.count, *[1] * (x_B.ndim - 1))
    if x_B.ndim == 4 and x_B.is_contiguous(memory_format=torch.channels_last):
        ones = ones.contiguous(memory_format=torch.channels_last)
    with processes.drawing_alike():
        return nnf.dropout(ones, p)[processes.rank :: processes.count]


__all__ = ["BatchNorm1d", "BatchNorm2d", "Dropout", "Processes", "alone", "join"]
