"""What stands between the maps of a student and of its teacher in OMGD and DCD.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class NormedAdaptors(nn.Module):
    """Per tap a 1 x 1 convolution without bias, batch norm with scale and shift, and a ReLU.

    Images of a batch are normalised together, as released; at a batch of one these are the
    statistics of its own pixels.

    Args:
        into: channels of each map that comes.
        out: channels of each map that goes.

    >>> import torch
    >>> maps = NormedAdaptors(into=(8, 4), out=(5, 5))([torch.zeros(1, c, 2, 3) for c in (8, 4)])
    >>> [tuple(map_BCHW.shape) for map_BCHW in maps]
    [(1, 5, 2, 3), (1, 5, 2, 3)]
    """

    def __init__(self, into: Sequence[int], out: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(came, goes, 1, bias=False), nn.BatchNorm2d(goes), nn.ReLU())
            for came, goes in zip(into, out, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """A map of the same height and width for each map."""
        return [conv(map_BCHW) for conv, map_BCHW in zip(self.convs, maps, strict=True)]
