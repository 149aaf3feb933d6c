"""DRIT's networks: a content that two domains share, and an attribute of each (Lee et al. 2018).

In the form `concat` the attribute is drawn from a distribution that its encoder finds, and is laid
beside the features of the decoder, which changes colours and textures; in the form `mix` (released:
concat 0, for cats and dogs or portraits) it is a vector, as MUNIT's style, and changes shapes too.

The widths are the released ones, all counts of parameters agree. Not recorded and therefore ours:
padding by reflection (3 pixels at 7 x 7 convolutions of the encoder, 1 elsewhere), zero padding 1
and output padding 1 of the enlarging layers, the attribute behind the features in a concatenation,
and what the `mix` decoder does between its convolutions. The layers have names of their own:
released files cannot be imported.

Shape suffixes: B images, C channels, H and W pixels, S numbers of an attribute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.config import check_halvings, flag
from patchkin.errors import ConfigError, ShapeError
from patchkin.networks.munit import ConvBlock, ResidualBlock, SpatialMean, StyleEncoder
from patchkin.networks.normalization import EPSILON, InstanceNorm2d
from patchkin.networks.whole_image import given_moments
from patchkin.numerics import widened, without_autocast
from patchkin.randomness import sent

Side = Literal["A", "B"]
"""A domain."""

SIDES: tuple[Side, Side] = ("A", "B")
"""Both domains."""

_SLOPE = 0.01
"""Of the leaky ReLU (torch's default) everywhere but in the attribute encoder."""
_ATTRIBUTE_SLOPE = 0.2
_ATTRIBUTE_WIDTHS = (1, 2, 3, 4)
_HALVINGS = 2
_REDUCTION = 4
_LAST_KERNEL = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DritNetworkConfig:
    """Encoders and generator. Defaults are the released ones."""

    form: Literal["concat", "mix"] = "concat"
    """How the attribute enters: laid beside the features, or mixed into every block."""
    width: Annotated[int, flag("--ngf")] = 64
    """Channels at full resolution (dim); the content has four times as many."""
    blocks: Annotated[int, flag("--blocks")] = 3
    """Residual blocks that each domain's content encoder and decoder have for themselves. One more
    is shared by both domains, or in the `mix` decoder each domain's own."""
    attribute_width: int = 8
    """Numbers of an attribute (nz)."""
    mlp_width: int = 256
    """Of the layers between an attribute and the numbers that are mixed in (`mix`)."""

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "attribute_width", "mlp_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentDiscriminatorConfig:
    """Defaults are the released ones: 10,683,649 parameters."""

    layers: int = 3
    """Strided convolutions before the last 4 x 4."""
    kernel: int = 7
    """Of the strided convolutions. With three of 7 images need 209 pixels at least; one of 3 is
    enough for 64."""
    norm: Literal["none", "instance"] = "none"
    """Behind the strided convolutions. The released code means `instance` and never builds it."""

    def __post_init__(self) -> None:
        if self.layers < 0:
            raise ConfigError(f"`layers` must not be negative; got {self.layers}.")
        check_halvings(self, "layers")
        if self.kernel < 3:
            raise ConfigError(f"`kernel` must be at least 3; got {self.kernel}.")


class Attribute(NamedTuple):
    """What the attribute encoder finds in an image."""

    mean_BS: Tensor
    log_variance_BS: Tensor | None
    """None in the form `mix`, where the mean is the attribute."""

    def sample(self, noise_BS: Tensor) -> Tensor:
        """The mean plus deviation times noise, in float32 at least; the mean in the form `mix`.

        >>> Attribute(torch.ones(1, 2), torch.zeros(1, 2)).sample(torch.full((1, 2), 3.0))
        tensor([[4., 4.]])
        """
        if self.log_variance_BS is None:
            return self.mean_BS
        with without_autocast(self.mean_BS):
            deviation_BS = (0.5 * widened(self.log_variance_BS)).exp()
            return widened(self.mean_BS) + deviation_BS * sent(noise_BS, deviation_BS)


class ScaledLayerNorm2d(nn.Module):
    """Zero mean and unit variance per image over channels and pixels, then scale and shift.

    >>> ScaledLayerNorm2d(1)(torch.tensor([[[[1.0, 3.0]]]])).flatten().round(decimals=3)
    tensor([-1.,  1.], grad_fn=<RoundBackward1>)
    """

    whole_image: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise `x_BCHW`."""
        moments = given_moments(x_BCHW)
        if moments is not None:
            mean, variance = moments.over_channels()
            unit_BCHW = (x_BCHW - mean.to(x_BCHW.dtype)) * (variance + EPSILON).rsqrt().to(x_BCHW)
            return unit_BCHW * self.weight[:, None, None] + self.bias[:, None, None]
        y_BCHW = nnf.layer_norm(x_BCHW, x_BCHW.shape[1:], eps=EPSILON)
        return y_BCHW * self.weight[:, None, None] + self.bias[:, None, None]


class SharedContentEncoder(nn.Module):
    """Images of either domain to content maps with a quarter of the sides, rounded up.

    >>> encoder = SharedContentEncoder((3, 1), DritNetworkConfig(width=2, blocks=1))
    >>> encoder(torch.zeros(1, 1, 12, 9), "B").shape
    torch.Size([1, 8, 3, 3])
    """

    multiple_of: ClassVar[int] = _REDUCTION
    """Sides of which decoding the content gives back the size."""
    min_size: ClassVar[int] = _REDUCTION + 1
    """Shortest side: two places must be left for the reflection of the blocks."""

    def __init__(self, channels: tuple[int, int], config: DritNetworkConfig) -> None:
        super().__init__()
        self.channels = channels
        self.out_channels = _REDUCTION * config.width
        self.own = _for_each_side(
            lambda side: nn.Sequential(
                *_content_layers(channels[SIDES.index(side)], config.width, config.blocks)
            )
        )
        self.shared = ResidualBlock(self.out_channels)

    def map_shape(self, x_BCHW: Tensor) -> tuple[int, int, int]:
        """Channels, height and width of the content of these images."""
        height, width = x_BCHW.shape[-2:]
        return self.out_channels, -(-height // _REDUCTION), -(-width // _REDUCTION)

    def forward(self, x_BCHW: Tensor, side: Side) -> Tensor:
        """The content of images of domain `side`.

        Raises:
            ShapeError: if the channels or the sides do not fit.
        """
        expected = self.channels[SIDES.index(side)]
        channels, height, width = x_BCHW.shape[1:]
        if channels != expected or min(height, width) < self.min_size:
            raise ShapeError(
                f"Expected images of {expected} channels and at least {self.min_size} x "
                f"{self.min_size} pixels; got {channels} channels, {height} x {width}."
            )
        content_BCHW: Tensor = self.shared(self.own[side](x_BCHW))
        return content_BCHW


class AttributeEncoder(nn.Module):
    """Images of either domain to what tells them from others with the same content.

    >>> encoder = AttributeEncoder((3, 3), DritNetworkConfig(width=2))
    >>> attribute = encoder(torch.zeros(2, 3, 16, 20), "A")
    >>> attribute.mean_BS.shape, attribute.log_variance_BS.shape
    (torch.Size([2, 8]), torch.Size([2, 8]))
    """

    min_size: int = StyleEncoder.min_size
    """Shortest side, in both forms."""

    def __init__(self, channels: tuple[int, int], config: DritNetworkConfig) -> None:
        super().__init__()
        self.own = _for_each_side(
            lambda side: _attribute_encoder(channels[SIDES.index(side)], config)
        )

    def forward(self, x_BCHW: Tensor, side: Side) -> Attribute:
        """The attribute of images of domain `side`.

        Raises:
            ShapeError: if a side of the images is below `min_size`.
        """
        height, width = x_BCHW.shape[-2:]
        if min(height, width) < self.min_size:
            raise ShapeError(
                f"An attribute is read from images of at least {self.min_size} x {self.min_size} "
                f"pixels; got {height} x {width}. Enlarge them."
            )
        found = self.own[side](x_BCHW)
        return found if isinstance(found, Attribute) else Attribute(found, None)


class VariationalEncoder(nn.Module):
    """Images to mean and log variance of their attribute; pre-activation blocks without norm."""

    def __init__(self, in_channels: int, config: DritNetworkConfig) -> None:
        super().__init__()
        widths = [config.width * factor for factor in _ATTRIBUTE_WIDTHS]
        self.model = nn.Sequential(
            ConvBlock(in_channels, widths[0], 4, stride=2, padding=1),
            *(PooledBlock(before, behind) for before, behind in pairwise(widths)),
            nn.LeakyReLU(_ATTRIBUTE_SLOPE),
            SpatialMean(),
            nn.Flatten(1),
        )
        self.mean = nn.Linear(widths[-1], config.attribute_width)
        self.log_variance = nn.Linear(widths[-1], config.attribute_width)

    def forward(self, x_BCHW: Tensor) -> Attribute:
        """Of every image."""
        features_BC = self.model(x_BCHW)
        return Attribute(self.mean(features_BC), self.log_variance(features_BC))


class PooledBlock(nn.Module):
    """Activation before each of two 3 x 3 convolutions, then the mean of 2 x 2; with a shortcut.

    >>> PooledBlock(2, 3)(torch.zeros(1, 2, 5, 4)).shape
    torch.Size([1, 3, 2, 2])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.LeakyReLU(_ATTRIBUTE_SLOPE),
            ConvBlock(
                in_channels, in_channels, 3, padding=1, activation=nn.LeakyReLU(_ATTRIBUTE_SLOPE)
            ),
            ConvBlock(in_channels, out_channels, 3, padding=1),
            nn.AvgPool2d(2),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Half the sides, rounded down."""
        y_BCHW: Tensor = self.model(x_BCHW) + self.shortcut(x_BCHW)
        return y_BCHW


class DritGenerator(nn.Module):
    """Contents and attributes to images of either domain.

    >>> generator = DritGenerator((3, 1), DritNetworkConfig(width=2, blocks=1))
    >>> generator(torch.zeros(2, 8, 3, 4), torch.zeros(2, 8), "B").shape
    torch.Size([2, 1, 12, 16])
    """

    def __init__(self, channels: tuple[int, int], config: DritNetworkConfig) -> None:
        super().__init__()
        concatenates = config.form == "concat"
        decoder = ConcatDecoder if concatenates else MixDecoder
        self.shared = ResidualBlock(_REDUCTION * config.width) if concatenates else nn.Identity()
        self.own = _for_each_side(lambda side: decoder(channels[SIDES.index(side)], config))

    def forward(self, content_BCHW: Tensor, attribute_BS: Tensor, side: Side) -> Tensor:
        """Images of domain `side` in [-1, 1], with four times the sides of the content."""
        image_BCHW: Tensor = self.own[side](self.shared(content_BCHW), attribute_BS)
        return image_BCHW


class ConcatDecoder(nn.Module):
    """The attribute is laid beside the features before the blocks and before each enlarging."""

    def __init__(self, out_channels: int, config: DritNetworkConfig) -> None:
        super().__init__()
        extra = config.attribute_width
        width = _REDUCTION * config.width + extra
        stages: list[nn.Module] = [
            nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks)))
        ]
        for _ in range(_HALVINGS):
            stages.append(_enlarging(width + extra, (width + extra) // 2))
            width = (width + extra) // 2
        stages.append(nn.Sequential(nn.Conv2d(width + extra, out_channels, 1), nn.Tanh()))
        self.stages = nn.ModuleList(stages)

    def forward(self, content_BCHW: Tensor, attribute_BS: Tensor) -> Tensor:
        """Images."""
        for stage in self.stages:
            content_BCHW = stage(_beside(content_BCHW, attribute_BS))
        return content_BCHW


class MixDecoder(nn.Module):
    """Every block mixes numbers of its own, made from the attribute, into its features."""

    def __init__(self, out_channels: int, config: DritNetworkConfig) -> None:
        super().__init__()
        width, hidden = _REDUCTION * config.width, config.mlp_width
        blocks = config.blocks + 1
        self.mlp = nn.Sequential(
            nn.Linear(config.attribute_width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, blocks * width),
        )
        self.blocks = nn.ModuleList(MixedResidualBlock(width) for _ in range(blocks))
        stages: list[nn.Module] = []
        for _ in range(_HALVINGS):
            stages.append(_enlarging(width, width // 2))
            width //= 2
        self.stages = nn.Sequential(*stages, nn.Conv2d(width, out_channels, 1), nn.Tanh())

    def forward(self, content_BCHW: Tensor, attribute_BS: Tensor) -> Tensor:
        """Images."""
        numbers = self.mlp(attribute_BS).chunk(len(self.blocks), dim=1)
        for block, numbers_BC in zip(self.blocks, numbers, strict=True):
            content_BCHW = block(content_BCHW, numbers_BC)
        image_BCHW: Tensor = self.stages(content_BCHW)
        return image_BCHW


class MixedResidualBlock(nn.Module):
    """x + (convolution 3 x 3, instance norm, mixing) twice.

    Mixing lays C numbers beside the C features of every place: 1 x 1, ReLU, 1 x 1 back to C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            ConvBlock(channels, channels, 3, padding=1, norm=InstanceNorm2d()) for _ in range(2)
        )
        self.mixes = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(2 * channels, 2 * channels, 1),
                nn.ReLU(),
                nn.Conv2d(2 * channels, channels, 1),
            )
            for _ in range(2)
        )

    def forward(self, x_BCHW: Tensor, numbers_BC: Tensor) -> Tensor:
        """Same shape."""
        y_BCHW = x_BCHW
        for conv, mix in zip(self.convs, self.mixes, strict=True):
            y_BCHW = mix(_beside(conv(y_BCHW), numbers_BC))
        return x_BCHW + y_BCHW


class ContentDiscriminator(nn.Module):
    """Tells from which domain a content came: one logit, or several for large maps.

    >>> network = ContentDiscriminator(8)
    >>> network(torch.zeros(1, 8, 54, 64)).shape, network.min_size
    (torch.Size([1, 1, 1, 2]), 53)
    """

    min_size: int
    """Shortest side of a content map."""

    def __init__(self, channels: int, config: ContentDiscriminatorConfig | None = None) -> None:
        super().__init__()
        config = config or ContentDiscriminatorConfig()
        self.min_size = _LAST_KERNEL
        for _ in range(config.layers):
            self.min_size = 2 * (self.min_size - 1) + config.kernel - 2
        strided = [
            ConvBlock(
                channels, channels, config.kernel,
                stride=2, padding=1,
                norm=InstanceNorm2d() if config.norm == "instance" else None,
                activation=nn.LeakyReLU(_SLOPE),
            )
            for _ in range(config.layers)
        ]  # fmt: skip
        self.model = nn.Sequential(
            *strided,
            nn.Conv2d(channels, channels, _LAST_KERNEL),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(channels, 1, 1),
        )

    def forward(self, content_BCHW: Tensor) -> Tensor:
        """Logits [B, 1, h, w]."""
        logits_B1hw: Tensor = self.model(content_BCHW)
        return logits_B1hw


def least_image(least_map: int) -> int:
    """The shortest side of an image whose content has `least_map` places on a side.

    >>> least_image(53)
    209
    """
    return _REDUCTION * (least_map - 1) + 1


def _content_layers(in_channels: int, width: int, blocks: int) -> list[nn.Module]:
    layers: list[nn.Module] = [
        ConvBlock(in_channels, width, 7, padding=3, activation=nn.LeakyReLU(_SLOPE))
    ]
    for _ in range(_HALVINGS):
        layers.append(
            ConvBlock(
                width, 2 * width, 3,
                stride=2, padding=1, norm=InstanceNorm2d(), activation=nn.ReLU(),
            )
        )  # fmt: skip
        width *= 2
    return [*layers, *(ResidualBlock(width) for _ in range(blocks))]


def _attribute_encoder(in_channels: int, config: DritNetworkConfig) -> nn.Module:
    if config.form == "concat":
        return VariationalEncoder(in_channels, config)
    return StyleEncoder(in_channels, width=config.width, style_width=config.attribute_width)


def _enlarging(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1),
        ScaledLayerNorm2d(out_channels),
        nn.ReLU(),
    )


def _beside(x_BCHW: Tensor, numbers_BS: Tensor) -> Tensor:
    """The numbers as maps behind the channels."""
    maps_BSHW = numbers_BS[:, :, None, None].expand(-1, -1, *x_BCHW.shape[2:])
    return torch.cat([x_BCHW, maps_BSHW.to(x_BCHW.dtype)], dim=1)


def _for_each_side(make: Callable[[Side], nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({side: make(side) for side in SIDES})
