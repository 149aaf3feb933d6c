"""A generator whose widths are chosen at every call (once-for-all; Cai et al. 2020).

One set of weights holds every narrower generator: a layer of width w uses the leading w of its
filters. Instance norm has no weights of its own, so slices need no statistics.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.networks.separable import (
    GROUP_SIZE,
    MAPPING_TAPS,
    MULTIPLIERS,
    NUM_ENTRIES,
    Channels,
    SeparableBlock,
    SeparableConv,
    SeparableGenerator,
    SeparableNorm,
    check_configuration,
    check_taps,
    expand,
    prepared_input,
    separable_layers,
)

_FIRST_BLOCK = 10
_NUM_BLOCKS = GROUP_SIZE * 3


class Supernet(nn.Module):
    """Every `SeparableGenerator` up to `ngf` wide, in one. Inputs are clamped to [-1, 1].

    Args:
        ngf: largest entry of a configuration.
        in_channels: of the source images.
        out_channels: of the target images.
        norm: after every convolution but the last.

    >>> supernet = Supernet(ngf=8)
    >>> x_BCHW = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    >>> narrow = supernet.export((2, 3, 4, 1, 2, 3, 5, 2))
    >>> with torch.no_grad():
    ...     torch.equal(supernet(x_BCHW, narrow.channels), narrow(x_BCHW))
    True
    """

    multiple_of: ClassVar[int] = SeparableGenerator.multiple_of
    min_size: ClassVar[int] = SeparableGenerator.min_size

    def __init__(
        self,
        ngf: int = 64,
        in_channels: int = 3,
        out_channels: int = 3,
        *,
        norm: SeparableNorm = "instance",
    ) -> None:
        super().__init__()
        if ngf < 1:
            raise ConfigError(f"`ngf` must be at least 1; got {ngf}.")
        self.channels: Channels = (ngf,) * NUM_ENTRIES
        """The widest configuration."""
        self.in_channels, self.out_channels = in_channels, out_channels
        self.norm = norm
        self.model = separable_layers(self.channels, in_channels, out_channels, norm)

    def forward(self, x_BCHW: Tensor, channels: Sequence[int] | None = None) -> Tensor:
        """Translate with a configuration of eight or six entries; the widest unless given.

        Raises:
            ConfigError: the configuration is none, or wider than this network.
            ShapeError: the images have other channels or are too small.
        """
        return self.forward_with_taps(x_BCHW, channels, taps=())[0]

    def forward_with_taps(
        self,
        x_BCHW: Tensor,
        channels: Sequence[int] | None = None,
        taps: Sequence[int] = MAPPING_TAPS,
    ) -> tuple[Tensor, list[Tensor]]:
        """The translation, and the maps that the layers at `taps` give, in their order.

        Raises:
            ConfigError: as `forward`, or a tap that is no layer.
            ShapeError: as `forward`.
        """
        check_taps(taps, len(self.model))
        widths = self._widths(self.checked(channels))
        x_BCHW = prepared_input(x_BCHW, self.in_channels)
        maps: dict[int, Tensor] = {}
        for index, layer in enumerate(self.model):
            x_BCHW = _sliced(layer, x_BCHW, widths.get(index, 0))
            if index in taps:
                maps[index] = x_BCHW
        return x_BCHW, [maps[tap] for tap in taps]

    def checked(self, channels: Sequence[int] | None) -> Channels:
        """The configuration in eight entries; the widest for None.

        Raises:
            ConfigError: it is none, or wider than this network.
        """
        if channels is None:
            return self.channels
        return check_configuration(expand(channels), largest=self.channels)

    @torch.no_grad()
    def export(self, channels: Sequence[int] | None = None) -> SeparableGenerator:
        """A plain generator with copies of the leading weights; it gives equal images.

        Raises:
            ConfigError: as `forward`.
        """
        generator = SeparableGenerator(
            self.checked(channels), self.in_channels, self.out_channels, norm=self.norm
        ).to(next(self.parameters()))
        own = self.state_dict()
        for name, weight in generator.state_dict().items():
            weight.copy_(own[name][tuple(slice(length) for length in weight.shape)])
        return generator.train(self.training)

    def _widths(self, channels: Channels) -> Mapping[int, int]:
        """Index of a layer -> channels that it gives; of a block: its inner ones."""
        first, second, trunk, *inner, enlarged, last = (
            entry * multiplier for entry, multiplier in zip(channels, MULTIPLIERS, strict=True)
        )
        behind = _FIRST_BLOCK + _NUM_BLOCKS
        return {
            **{1: first, 4: second, 7: trunk},
            **{_FIRST_BLOCK + b: inner[b // GROUP_SIZE] for b in range(_NUM_BLOCKS)},
            **{behind: enlarged, behind + 3: last, behind + 7: self.out_channels},
        }


def _sliced(layer: nn.Module, x_BCHW: Tensor, width: int) -> Tensor:
    """What the leading part of a layer makes of `x_BCHW`; layers without weights take any width."""
    match layer:
        case nn.Conv2d():
            return _convolved(layer, x_BCHW, width)
        case nn.ConvTranspose2d():
            weight, bias = layer.weight[: x_BCHW.shape[1], :width], layer.bias
            return nnf.conv_transpose2d(
                x_BCHW, weight, None if bias is None else bias[:width], stride=2, padding=1,
                output_padding=1,
            )  # fmt: skip
        case SeparableConv():
            depthwise, norm, pointwise = layer.conv
            assert isinstance(depthwise, nn.Conv2d)
            assert isinstance(pointwise, nn.Conv2d)
            x_BCHW = _convolved(depthwise, x_BCHW, x_BCHW.shape[1], depthwise=True)
            return _convolved(pointwise, norm(x_BCHW), width)
        case SeparableBlock():
            trunk = inner_BCHW = x_BCHW
            for place, part in enumerate(layer.conv_block):
                out = width if place == 1 else trunk.shape[1]
                inner_BCHW = _sliced(part, inner_BCHW, out)
            return trunk + inner_BCHW
    y_BCHW: Tensor = layer(x_BCHW)
    return y_BCHW


def _convolved(layer: nn.Conv2d, x_BCHW: Tensor, width: int, *, depthwise: bool = False) -> Tensor:
    count = x_BCHW.shape[1]
    weight = layer.weight[:width] if depthwise else layer.weight[:width, :count]
    bias = None if layer.bias is None else layer.bias[:width]
    return nnf.conv2d(
        x_BCHW, weight, bias, layer.stride, layer.padding, groups=count if depthwise else 1
    )
