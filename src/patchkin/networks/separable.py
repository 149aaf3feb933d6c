"""The narrow generator of GAN Compression (Li et al., CVPR 2020): separable blocks, free widths.

CycleGAN's generator with nine residual blocks whose 3 x 3 convolutions are depthwise, then 1 x 1.
Eight numbers say how wide it is, the "channels" of the papers, written `16_16_32_16_32_32_16_16`:

    entry        layer                                      width = entry times
    c0           model.1, convolution 7x7                   1
    c1           model.4, convolution 3x3, stride 2         2
    c2           model.7, convolution 3x3, stride 2;        4
                 the trunk of all residual blocks
    c3, c4, c5   inside blocks 1-3, 4-6, 7-9 (model.10-18)  4
    c6           model.19, transposed convolution           2
    c7           model.22, transposed convolution           1

Six numbers [c0, c1, c2, b, c6, c7] stand for the same width b in all blocks. Indices and names of
the layers are those of the released networks, so released weights load by name.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from patchkin.errors import CheckpointError, ConfigError, ShapeError
from patchkin.networks.normalization import NormKind, norm_layer
from patchkin.networks.resampling import ReflectionPad2d

Channels = tuple[int, ...]
"""A configuration: eight numbers, see above."""

SeparableNorm = Literal["instance", "none"]
"""After a convolution. Slices of a supernet share no running statistics, so no batch norm."""

NUM_ENTRIES = 8
MULTIPLIERS = (1, 2, 4, 4, 4, 4, 2, 1)
"""Width of a layer = its entry times this."""
GROUP_SIZE = 3
"""Residual blocks that share an entry."""
MAPPING_TAPS = (9, 12, 15, 18)
"""Layers whose maps are compared when a student is distilled: the rectified map behind the second
strided convolution, and the sums after blocks 3, 6 and 9. All have 4 c2 channels."""
_EXAMPLE = "16_16_32_16_32_32_16_16"


def parse_channels(text: str) -> Channels:
    """The configuration that a text stands for; one of six entries is expanded to eight.

    Raises:
        ConfigError: it is not six or eight positive whole numbers joined by `_`.

    >>> parse_channels("16_16_32_8_24_16")
    (16, 16, 32, 8, 8, 8, 24, 16)
    """
    parts = text.strip().split("_")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(
            f"Channels are whole numbers joined by `_`, such as {_EXAMPLE}; got `{text}`."
        )
    return check_configuration(expand([int(part) for part in parts]))


def format_channels(channels: Sequence[int]) -> str:
    """A configuration as the papers write it.

    >>> format_channels((16, 16, 32, 16, 32, 32, 16, 16))
    '16_16_32_16_32_32_16_16'
    """
    return "_".join(map(str, channels))


def expand(channels: Sequence[int]) -> Channels:
    """Six entries as eight; any other number of entries as it is."""
    if len(channels) == NUM_ENTRIES - 2:
        first, second, trunk, inner, *last = channels
        return (first, second, trunk, inner, inner, inner, *last)
    return tuple(channels)


def check_configuration(channels: Sequence[int], *, largest: Channels | None = None) -> Channels:
    """The configuration, if it is one.

    Args:
        channels: eight entries.
        largest: widest entries of the network that it is cut from. Slicing beyond them would
            silently give less than was asked for.

    Raises:
        ConfigError: it has another number of entries, one below 1, or one above `largest`.

    >>> check_configuration((8, 8, 8, 9, 8, 8, 8, 8), largest=(8,) * 8)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: Channels 8_8_8_9_8_8_8_8: entry 4 is 9, but this supernet has 8
    there. Take at most 8_8_8_8_8_8_8_8.
    """
    if len(channels) != NUM_ENTRIES:
        raise ConfigError(
            f"Channels are {NUM_ENTRIES} numbers (or 6, with one for all blocks), such as "
            f"{_EXAMPLE}; got {len(channels)}: `{format_channels(channels)}`."
        )
    if min(channels) < 1:
        raise ConfigError(
            f"Every entry of the channels must be at least 1; got `{format_channels(channels)}`."
        )
    for place, (entry, most) in enumerate(zip(channels, largest or channels, strict=True)):
        if entry > most:
            raise ConfigError(
                f"Channels {format_channels(channels)}: entry {place + 1} is {entry}, but this "
                f"supernet has {most} there. Take at most {format_channels(largest or ())}."
            )
    return tuple(channels)


def channels_of(weights: Mapping[str, Tensor]) -> Channels:
    """The configuration of a generator's weights, read from their shapes.

    Released files hold bare weights; their configuration is told nowhere in them.

    Raises:
        CheckpointError: these are not the weights of such a generator.

    >>> channels_of(SeparableGenerator((1, 2, 3, 4, 5, 6, 7, 8)).state_dict())
    (1, 2, 3, 4, 5, 6, 7, 8)
    """
    places = (
        *(("model.1.weight", 0), ("model.4.weight", 0), ("model.7.weight", 0)),
        *((f"model.{block}.conv_block.1.conv.2.weight", 0) for block in (10, 13, 16)),
        *(("model.19.weight", 1), ("model.22.weight", 1)),
    )
    entries = []
    for (name, axis), multiplier in zip(places, MULTIPLIERS, strict=True):
        if name not in weights:
            raise CheckpointError(
                f"These are not the weights of a compressed generator: there is no `{name}`."
            )
        entry, rest = divmod(weights[name].shape[axis], multiplier)
        if rest:
            raise CheckpointError(
                f"These are not the weights of a compressed generator: `{name}` has "
                f"{weights[name].shape[axis]} channels, which is no multiple of {multiplier}."
            )
        entries.append(entry)
    return tuple(entries)


class SeparableConv(nn.Module):
    """A convolution in two: one 3 x 3 filter per channel, norm, then 1 x 1.

    Without padding of its own. In between stands an instance norm in networks of batch norm too,
    and both halves have biases there, as released.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: NormKind = "instance") -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 3, groups=in_channels),
            norm_layer("none" if norm == "none" else "instance", in_channels),
            nn.Conv2d(in_channels, out_channels, 1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Two pixels less on each side."""
        y_BCHW: Tensor = self.conv(x_BCHW)
        return y_BCHW


class SeparableBlock(nn.Module):
    """x + conv_block(x) with two separable convolutions, the first of which sets the inner width.

    The identity stands where the released networks have a dropout of rate 0.
    """

    def __init__(self, trunk: int, inner: int, norm: NormKind = "instance") -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            ReflectionPad2d(1),
            SeparableConv(trunk, inner, norm),
            norm_layer(norm, inner),
            nn.ReLU(),
            nn.Identity(),
            ReflectionPad2d(1),
            SeparableConv(inner, trunk, norm),
            norm_layer(norm, trunk),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape."""
        y_BCHW: Tensor = x_BCHW + self.conv_block(x_BCHW)
        return y_BCHW


def convolved(width_in: int, width_out: int, norm: NormKind, *, stride: int = 0) -> list[nn.Module]:
    """A 7 x 7 convolution without padding, or with a stride one of 3 x 3; norm and ReLU."""
    bias = norm != "batch"
    layer = (
        nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=bias)
        if stride
        else nn.Conv2d(width_in, width_out, 7, bias=bias)
    )
    return [layer, norm_layer(norm, width_out), nn.ReLU()]


def enlarging(width_in: int, width_out: int, norm: NormKind) -> list[nn.Module]:
    """A transposed convolution that doubles the sides, norm and ReLU."""
    layer = nn.ConvTranspose2d(
        width_in, width_out, 3, stride=2, padding=1, output_padding=1, bias=norm != "batch"
    )
    return [layer, norm_layer(norm, width_out), nn.ReLU()]


def separable_layers(
    channels: Channels, in_channels: int, out_channels: int, norm: NormKind = "instance"
) -> nn.Sequential:
    """The generator's layers, at the indices of the released networks."""
    first, second, trunk, *inner, enlarged, last = (
        entry * multiplier for entry, multiplier in zip(channels, MULTIPLIERS, strict=True)
    )

    return nn.Sequential(
        ReflectionPad2d(3),
        *convolved(in_channels, first, norm),
        *convolved(first, second, norm, stride=2),
        *convolved(second, trunk, norm, stride=2),
        *(SeparableBlock(trunk, width, norm) for width in inner for _ in range(GROUP_SIZE)),
        *enlarging(trunk, enlarged, norm),
        *enlarging(enlarged, last, norm),
        ReflectionPad2d(3),
        nn.Conv2d(last, out_channels, 7),
        nn.Tanh(),
    )


class SeparableGenerator(nn.Module):
    """A generator of fixed widths. Images are in [-1, 1].

    Args:
        channels: the configuration, eight entries.
        in_channels: of the source images.
        out_channels: of the target images.
        clamp: limit inputs to [-1, 1] first, as teachers, supernets and what is cut from them do.
            The released trainer of `mobile` teachers does not.
        norm: after every convolution but the last; batch norm is of students of OMGD only.

    >>> generator = SeparableGenerator((16, 16, 32, 16, 32, 32, 16, 16))
    >>> sum(weight.numel() for weight in generator.parameters())
    356867
    >>> generator(torch.zeros(1, 3, 16, 24)).shape
    torch.Size([1, 3, 16, 24])
    """

    multiple_of: ClassVar[int] = 4
    """Sides of which the output keeps the size."""
    min_size: ClassVar[int] = 5
    """Shortest side: a quarter of it, rounded up, must exceed the blocks' reflection of 1 pixel."""

    def __init__(
        self,
        channels: Channels,
        in_channels: int = 3,
        out_channels: int = 3,
        *,
        clamp: bool = True,
        norm: NormKind = "instance",
    ) -> None:
        super().__init__()
        self.channels = check_configuration(channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.clamp, self.norm = clamp, norm
        self.model = separable_layers(self.channels, in_channels, out_channels, norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Translate `x_BCHW`.

        Raises:
            ShapeError: the channels are not `in_channels` or a side is below `min_size`.
        """
        y_BCHW: Tensor = self.model(prepared_input(x_BCHW, self.in_channels, clamp=self.clamp))
        return y_BCHW

    def forward_with_taps(
        self, x_BCHW: Tensor, taps: Sequence[int] = MAPPING_TAPS
    ) -> tuple[Tensor, list[Tensor]]:
        """The translation, and the maps that the layers at `taps` give, in their order.

        Raises:
            ConfigError: a tap is no layer.
            ShapeError: as `forward`.
        """
        *maps, y_BCHW = self.maps_at(x_BCHW, (*taps, len(self.model) - 1))
        return y_BCHW, maps

    def maps_at(self, x_BCHW: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """The maps that the layers at `taps` give; those behind the last are not computed.

        Raises:
            ConfigError: a tap is no layer.
            ShapeError: as `forward`.
        """
        check_taps(taps, len(self.model))
        x_BCHW = prepared_input(x_BCHW, self.in_channels, clamp=self.clamp)
        maps: list[Tensor] = []
        for layer in self.model[: max(taps) + 1]:
            x_BCHW = layer(x_BCHW)
            maps.append(x_BCHW)
        return [maps[tap] for tap in taps]


def check_taps(taps: Sequence[int], layers: int) -> None:
    """Refuse taps that are no layers of a generator.

    Raises:
        ConfigError: there is one.
    """
    for tap in taps:
        if not 0 <= tap < layers:
            raise ConfigError(
                f"`taps` must be layers of the generator, 0 to {layers - 1}; got {tap}."
            )


def prepared_input(x_BCHW: Tensor, in_channels: int, *, clamp: bool = True) -> Tensor:
    """Images as the first layer takes them.

    Raises:
        ShapeError: the channels are not `in_channels` or a side is too short.
    """
    if not torch.compiler.is_compiling():  # sizes are symbols there
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != in_channels:
            raise ShapeError(
                f"`x_BCHW` must be [B, {in_channels}, H, W] for this generator; "
                f"got {tuple(x_BCHW.shape)}."
            )
        if min(x_BCHW.shape[2:]) < SeparableGenerator.min_size:
            raise ShapeError(
                f"Images must be at least {SeparableGenerator.min_size} x "
                f"{SeparableGenerator.min_size} pixels for the generator; got {x_BCHW.shape[2]} x "
                f"{x_BCHW.shape[3]}. Pad or enlarge them."
            )
    return x_BCHW.clamp(-1, 1) if clamp else x_BCHW
