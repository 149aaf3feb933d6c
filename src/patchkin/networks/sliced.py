"""Layers that take maps of fewer channels than they were made for, by their leading weights.

They stand between a student whose width changes from step to step and a teacher.

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.networks.projection import Places, patches_at
from patchkin.numerics import unit_rows, without_autocast


class Adaptors(nn.Module):
    """A 1 x 1 convolution per tap: student maps in the channels of the teacher's.

    Args:
        taps: number of maps.
        student: most channels of a student's map.
        teacher: channels of a teacher's map.

    >>> import torch
    >>> maps = Adaptors(taps=2, student=8, teacher=5)([torch.zeros(1, 6, 2, 3)] * 2)
    >>> [tuple(map_BCHW.shape) for map_BCHW in maps]
    [(1, 5, 2, 3), (1, 5, 2, 3)]
    """

    def __init__(self, taps: int, student: int, teacher: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(student, teacher, 1) for _ in range(taps))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, teacher, H, W] of maps with at most `student` channels, one per tap."""
        return [
            self._adapted(conv, map_BCHW) for conv, map_BCHW in zip(self.convs, maps, strict=True)
        ]

    def _adapted(self, conv: nn.Module, map_BCHW: Tensor) -> Tensor:
        weight, count = conv.get_parameter("weight"), map_BCHW.shape[1]
        _check_width(count, weight.shape[1])
        return nnf.conv2d(map_BCHW, weight[:, :count], conv.get_parameter("bias"))


class SlicedHead(nn.Module):
    """A two-layer perceptron on patches of maps of any width up to `widest`, then unit length.

    It runs in float32 under autocast, as `ProjectionHead`.

    >>> import torch
    >>> head = SlicedHead(widest=8, width=4)
    >>> head(torch.randn(2, 6, 3, 5), torch.tensor([14, 0])).shape
    torch.Size([2, 2, 4])
    """

    def __init__(self, widest: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(widest, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, map_BCHW: Tensor, places: Places) -> Tensor:
        """Rows x / (||x|| + 1e-7) at the places, [B, K, width].

        Raises:
            ShapeError: the map has more channels than `widest`, or a place is outside of it.
        """
        weight = self.mlp.get_parameter("0.weight")
        count = map_BCHW.shape[1]
        _check_width(count, weight.shape[1])
        rows_BKC = patches_at(map_BCHW, places)
        with without_autocast(rows_BKC):
            inner = nnf.linear(
                rows_BKC.to(weight.dtype), weight[:, :count], self.mlp.get_parameter("0.bias")
            )
            return unit_rows(self.mlp[2](self.mlp[1](inner)))


class SlicedHeads(nn.Module):
    """A `SlicedHead` per tap."""

    def __init__(self, taps: int, widest: int, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(SlicedHead(widest, width) for _ in range(taps))

    def forward(self, maps: Sequence[Tensor], places: Sequence[Places]) -> list[Tensor]:
        """Embedded patches [B, K, width] per tap."""
        return [
            head(map_BCHW, chosen)
            for head, map_BCHW, chosen in zip(self.heads, maps, places, strict=True)
        ]


def _check_width(count: int, widest: int) -> None:
    if count > widest:
        raise ShapeError(
            f"A map has {count} channels, but this layer takes at most {widest}. Was it made for "
            "a narrower student?"
        )
