"""What E and D have in common: residual blocks down to one pixel at `image_size`."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.networks.starganv2.blocks import SLOPE, ResBlock
from patchkin.networks.starganv2.config import INNERMOST, StyleNetworksConfig


def trunk(config: StyleNetworksConfig) -> list[nn.Module]:
    """What E and D have in common: down to one pixel at `image_size`."""
    widths = config.widths(_levels(config.image_size))
    return [
        nn.Conv2d(config.channels, widths[0], 3, padding=1),
        *(ResBlock(i, o, down=True) for i, o in pairwise(widths)),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(widths[-1], widths[-1], INNERMOST),
        nn.LeakyReLU(SLOPE),
    ]


def out_width(config: StyleNetworksConfig) -> int:
    """Channels of the last map.

    >>> out_width(StyleNetworksConfig(image_size=32, base_width=2))
    16
    """
    return config.widths(_levels(config.image_size))[-1]


def check_side(x_BCHW: Tensor, least: int) -> None:
    """Refuse images of which the trunk leaves nothing.

    Raises:
        ShapeError: if a side is below `least`.
    """
    if min(x_BCHW.shape[2:]) < least:
        raise ShapeError(
            f"Images must be at least {least} x {least} pixels for networks made for `image_size` "
            f"{least}; got {x_BCHW.shape[2]} x {x_BCHW.shape[3]}."
        )


def _levels(image_size: int) -> int:
    """How often E and D halve their maps."""
    return int(math.log2(image_size // INNERMOST))
