"""G: images and a style -> images.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks.starganv2.blocks import (
    SLOPE,
    AffineInstanceNorm2d,
    DownBlock,
    ResBlock,
    StyledResBlock,
    UpBlock,
)
from patchkin.networks.starganv2.config import StyleNetworksConfig


class StyleGenerator(nn.Module):
    """G: encodes images, and decodes them in a style. Any height and width.

    Nothing bounds the output; images are clamped when they are saved.

    >>> import torch
    >>> small = StyleNetworksConfig(image_size=64, base_width=4, style_width=5)
    >>> G = StyleGenerator(small)
    >>> G(torch.zeros(2, 3, 32, 48), torch.zeros(2, 5)).shape, G.multiple_of
    (torch.Size([2, 3, 32, 48]), 4)
    >>> [map_BCHW.shape[2] for map_BCHW in G.encodings(torch.zeros(1, 3, 64, 64))]
    [32, 16, 16, 16]
    """

    def __init__(self, config: StyleNetworksConfig | None = None) -> None:
        super().__init__()
        config = config or StyleNetworksConfig()
        self.channels, self.style_width = config.channels, config.style_width
        paper = config.generator == "paper"
        levels = int(math.log2(config.image_size)) - 4 if paper else 2
        widths = config.widths(levels)
        first, last = widths[0], widths[-1]
        steps = list(pairwise(widths))
        down: list[nn.Module]
        up: list[nn.Module]
        if paper:
            down = [ResBlock(i, o, norm=True, down=True) for i, o in steps]
            up = [StyledResBlock(o, i, config.style_width, up=True) for i, o in steps]
        else:
            down = [DownBlock(i, o) for i, o in steps]
            up = [UpBlock(o, i) for i, o in steps]
        unchanged = range(2 if paper else 4)
        self._tap_widths = [*widths[1:], *(last for _ in unchanged)]
        down += [ResBlock(last, last, norm=True) for _ in unchanged]
        up += [StyledResBlock(last, last, config.style_width) for _ in unchanged]
        self.from_rgb = nn.Conv2d(config.channels, first, 3, padding=1)
        self.encode = nn.ModuleList(down)
        self.decode = nn.ModuleList(reversed(up))
        self.to_rgb = nn.Sequential(
            AffineInstanceNorm2d(first), nn.LeakyReLU(SLOPE), nn.Conv2d(first, config.channels, 1)
        )
        self.multiple_of = 2**levels
        """Sides of which the output keeps the size."""
        self.min_size = 2 * self.multiple_of
        """Shortest side: instance norm needs more than one pixel on the innermost map."""

    def forward(self, x_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """Images in the styles given.

        Raises:
            ShapeError: if channels, sides or the style do not fit.
        """
        return self.decoded(self.encodings(x_BCHW)[-1], style_BS)

    def encodings(self, x_BCHW: Tensor) -> list[Tensor]:
        """The map behind every block of the encoder; the last one is what is decoded.

        Raises:
            ShapeError: if channels or sides do not fit.
        """
        multiple = self.multiple_of
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != self.channels:
            raise ShapeError(
                f"Images must be [B, {self.channels}, H, W] for this generator; "
                f"got {tuple(x_BCHW.shape)}."
            )
        if min(x_BCHW.shape[2:]) < self.min_size or any(n % multiple for n in x_BCHW.shape[2:]):
            raise ShapeError(
                f"Sides must be multiples of {multiple}, at least {self.min_size}; got "
                f"{x_BCHW.shape[2]} x {x_BCHW.shape[3]}. Pad or resize the images."
            )
        maps = [self.from_rgb(x_BCHW)]
        for block in self.encode:
            maps.append(block(maps[-1]))
        return maps[1:]

    def decoded(self, encoding_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """The images that an encoding becomes in the styles given.

        Raises:
            ShapeError: if there is not one style of the right length for each image.
        """
        fits = torch.compiler.is_compiling() or style_BS.shape == (
            len(encoding_BCHW),  # which would fix the number of images there
            self.style_width,
        )
        if not fits:
            raise ShapeError(
                f"`style_BS` must be {(len(encoding_BCHW), self.style_width)}, a style for each "
                f"image; got {tuple(style_BS.shape)}."
            )
        for block in self.decode:
            encoding_BCHW = block(encoding_BCHW, style_BS)
        y_BCHW: Tensor = self.to_rgb(encoding_BCHW)
        return y_BCHW

    def check_taps(self, taps: Sequence[int]) -> None:
        """Refuse blocks that the encoder does not have.

        Raises:
            ConfigError: there is no such block, or none is named.
        """
        if not taps or not all(0 <= tap < len(self.encode) for tap in taps):
            raise ConfigError(
                f"`layers` must name blocks of the encoder, 0 to {len(self.encode) - 1} for this "
                f"generator; got {list(taps)}. Choose them with --method.layers."
            )

    def tap_channels(self, taps: Sequence[int]) -> list[int]:
        """Channels of the maps behind these blocks of the encoder.

        >>> StyleGenerator(StyleNetworksConfig(base_width=2, max_width=8)).tap_channels((0, 5))
        [4, 8]
        """
        self.check_taps(taps)
        return [self._tap_widths[tap] for tap in taps]

    def tap_fields(self, taps: Sequence[int]) -> list[int]:
        """Sides in pixels of what a place behind these blocks depends on, norms apart."""
        fields, field, jump = [], 3, 1
        for block in self.encode:
            if isinstance(block, DownBlock):
                field, jump = field + 3 * jump, 2 * jump
            else:  # a convolution, perhaps a pooling of 2 x 2, a convolution
                field += 2 * jump
                if block.down:
                    field, jump = field + jump, 2 * jump
                field += 2 * jump
            fields.append(field)
        return [fields[tap] for tap in taps]
