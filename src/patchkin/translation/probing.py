"""What a network needs: how far it sees, and how much memory it takes.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from patchkin.networks.whole_image import Moments, normalizing_by
from patchkin.translation.live_maps import LiveMaps
from patchkin.translation.translator import Translator

SIDES = (256, 512)
"""Of the images that are tried; the second where the first is too small to tell."""
WORKSPACE, NARROW_WORKSPACE = 2.1, 2.6
"""Memory of a process as a multiple of that of its maps, with networks in 32 and in 16 bits:
convolutions on a CPU copy what they read into a layout of their own, and freed memory leaves gaps.
A tenth above the largest that were measured for 1024 x 1024 pixels, 1.88 and 2.35
(`benchmarks/tiles/workspace_2026-11-27.md`)."""


@dataclass(frozen=True)
class Needs:
    """Of a network that translates."""

    halo: int | None
    """Pixels beyond its own place that a pixel of the translation depends on, norms over the image
    aside; None for more than half of the largest image that was tried."""
    bytes_per_pixel: float
    """Memory that a translation takes beside the images themselves, by their pixels."""
    workspace: float = WORKSPACE
    """What of that is not maps: all of it as a multiple of them."""

    def bytes_of(self, height: int, width: int) -> int:
        """To translate an image at once."""
        return round(self.bytes_per_pixel * height * width)


def needs_of(translator: Translator, *, sides: tuple[int, ...] = SIDES) -> Needs:
    """Find out by trying it on an image with a hole of NaN, which spreads as far as a pixel counts.

    >>> from patchkin.methods.cut import Cut, CutConfig
    >>> from patchkin.networks import ResNetConfig
    >>> config = ResNetConfig(ngf=2, blocks=1, antialias_down=False, antialias_up=False)
    >>> needs_of(Translator(Cut(CutConfig(generator=config)))).halo
    22
    """
    grid = translator.method.multiple_of
    workspace = WORKSPACE if translator.dtype is None else NARROW_WORKSPACE
    for least in sides:
        side = max(-(-least // grid), 3) * grid
        start = side // 2 // grid * grid
        hole = slice(start, start + grid)
        x_BCHW = torch.zeros(1, translator.channels[0], side, side)
        x_BCHW[..., hole, hole] = torch.nan
        with LiveMaps() as live, normalizing_by(_unit):
            y_BCHW = translator(x_BCHW)
        rows = y_BCHW.isnan().any(dim=1)[0].any(dim=1).nonzero().flatten().tolist()
        columns = y_BCHW.isnan().any(dim=1)[0].any(dim=0).nonzero().flatten().tolist()
        first, last = min(rows + columns), max(rows + columns)
        bytes_per_pixel = workspace * live.peak / side**2
        if first > 0 and last < side - 1:
            # The hole is `grid` wide, and any of its pixels may be the one that counts.
            halo = max(hole.stop - 1 - first, last - hole.start)
            return Needs(halo, bytes_per_pixel, workspace)
    return Needs(None, bytes_per_pixel, workspace)


def _unit(x_BCHW: Tensor) -> Moments:
    """That leave a map as it is."""
    zeros_C = x_BCHW.new_zeros(x_BCHW.shape[1])
    return Moments(zeros_C, torch.ones_like(zeros_C), x_BCHW.numel() // x_BCHW.shape[1])
