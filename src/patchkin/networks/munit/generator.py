"""The autoencoder of a domain: encoders of content and style, and a decoder.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style, N scales and shifts of
all layers.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.networks.munit.blocks import (
    ConvBlock,
    ImageLayerNorm2d,
    LinearBlock,
    ResidualBlocks,
    SpatialMean,
    StyledResidualBlocks,
)
from patchkin.networks.munit.config import MunitGeneratorConfig
from patchkin.networks.normalization import InstanceNorm2d
from patchkin.randomness import sent

_STYLE_HALVINGS = 4
_LEAST_STYLED = 2**_STYLE_HALVINGS


class StyleEncoder(nn.Module):
    """Images to style vectors: four halvings without norm, then the mean over all pixels.

    >>> import torch
    >>> StyleEncoder(3, width=4, style_width=8)(torch.zeros(2, 3, 16, 20)).shape
    torch.Size([2, 8])
    """

    min_size: int = _LEAST_STYLED
    """Shortest side: the last halving pads two pixels at least."""

    def __init__(self, in_channels: int, *, width: int, style_width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, *[4 * width] * (_STYLE_HALVINGS - 1)]
        layers: list[nn.Module] = [
            ConvBlock(in_channels, width, 7, padding=3, activation=nn.ReLU())
        ]
        for before, behind in pairwise(widths):
            layers.append(ConvBlock(before, behind, 4, stride=2, padding=1, activation=nn.ReLU()))
        layers += [SpatialMean(), nn.Conv2d(widths[-1], style_width, 1)]
        self.model = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Styles [B, S].

        Raises:
            ShapeError: if a side is below `min_size`.
        """
        if min(x_BCHW.shape[-2:]) < self.min_size:
            height, width = x_BCHW.shape[-2:]
            raise ShapeError(
                f"A style is read from images of at least {self.min_size} x {self.min_size} "
                f"pixels; got {height} x {width}. Enlarge them."
            )
        style_BS11: Tensor = self.model(x_BCHW)
        return style_BS11.flatten(1)


class ContentEncoder(nn.Module):
    """Images to content maps, with sides divided by 2^halvings and rounded down."""

    def __init__(self, in_channels: int, config: MunitGeneratorConfig) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [
            ConvBlock(in_channels, width, 7, padding=3, norm=InstanceNorm2d(), activation=nn.ReLU())
        ]
        for _ in range(config.halvings):
            layers.append(
                ConvBlock(
                    width, 2 * width, 4,
                    stride=2, padding=1, norm=InstanceNorm2d(), activation=nn.ReLU(),
                )
            )  # fmt: skip
            width *= 2
        self.model = nn.Sequential(*layers, ResidualBlocks(width, config.blocks))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The content."""
        content_BCHW: Tensor = self.model(x_BCHW)
        return content_BCHW


class Decoder(nn.Module):
    """Content maps to images, in a style that enters as scales and shifts."""

    def __init__(self, out_channels: int, config: MunitGeneratorConfig) -> None:
        super().__init__()
        width = config.width * 2**config.halvings
        self.affine_width = 4 * width * config.blocks
        """N: two per channel, for two norms in each block."""
        layers: list[nn.Module] = [StyledResidualBlocks(width, config.blocks)]
        for _ in range(config.halvings):
            layers += [
                nn.Upsample(scale_factor=2, mode="nearest"),
                ConvBlock(
                    width, width // 2, 5,
                    padding=2, norm=ImageLayerNorm2d(width // 2), activation=nn.ReLU(),
                ),
            ]  # fmt: skip
            width //= 2
        layers.append(ConvBlock(width, out_channels, 7, padding=3, activation=nn.Tanh()))
        self.model = nn.Sequential(*layers)

    def forward(self, content_BCHW: Tensor, affine_BN: Tensor) -> Tensor:
        """Images in [-1, 1]."""
        styled, *rest = self.model
        x_BCHW: Tensor = styled(content_BCHW, affine_BN)
        for layer in rest:
            x_BCHW = layer(x_BCHW)
        return x_BCHW


class StyleMLP(nn.Module):
    """Style vectors to N numbers: two layers with ReLU and one without.

    >>> import torch
    >>> StyleMLP(8, 16, 40)(torch.zeros(2, 8)).shape
    torch.Size([2, 40])
    """

    def __init__(self, style_width: int, width: int, out_width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            LinearBlock(style_width, width, nn.ReLU()),
            LinearBlock(width, width, nn.ReLU()),
            LinearBlock(width, out_width),
        )

    def forward(self, style_BS: Tensor) -> Tensor:
        """[B, N]."""
        numbers_BN: Tensor = self.model(style_BS)
        return numbers_BN


class MunitGenerator(nn.Module):
    """The autoencoder of one domain: images to content and style, and back.

    >>> import torch
    >>> generator = MunitGenerator(3, MunitGeneratorConfig(width=2, blocks=1, mlp_width=4))
    >>> content_BCHW, style_BS = generator.encode(torch.zeros(1, 3, 16, 24))
    >>> content_BCHW.shape, style_BS.shape
    (torch.Size([1, 8, 4, 6]), torch.Size([1, 8]))
    >>> generator.decode(content_BCHW, style_BS).shape
    torch.Size([1, 3, 16, 24])
    """

    multiple_of: int
    """Sides of which decoding an encoded image gives back the size."""
    min_size: int
    """Shortest side that has a content; a style needs `StyleEncoder.min_size`."""

    def __init__(self, channels: int, config: MunitGeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MunitGeneratorConfig()
        self.channels = channels
        self.multiple_of = 2**config.halvings
        self.min_size = 2 ** (config.halvings + 1)
        self.enc_style = StyleEncoder(channels, width=config.width, style_width=config.style_width)
        self.enc_content = ContentEncoder(channels, config)
        self.dec = Decoder(channels, config)
        self.mlp = StyleMLP(config.style_width, config.mlp_width, self.dec.affine_width)

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Content [B, C, h, w] and style [B, S] of images in [-1, 1]."""
        return self.content(x_BCHW), self.style(x_BCHW)

    def content(self, x_BCHW: Tensor) -> Tensor:
        """The content alone.

        Raises:
            ShapeError: if the channels or the sides do not fit.
        """
        channels, height, width = x_BCHW.shape[1:]
        if channels != self.channels or min(height, width) < self.min_size:
            raise ShapeError(
                f"Expected images of {self.channels} channels and at least {self.min_size} x "
                f"{self.min_size} pixels; got {channels} channels, {height} x {width}."
            )
        content_BCHW: Tensor = self.enc_content(x_BCHW)
        return content_BCHW

    def style(self, x_BCHW: Tensor) -> Tensor:
        """The style alone.

        Raises:
            ShapeError: if a side is below `StyleEncoder.min_size`.
        """
        style_BS: Tensor = self.enc_style(x_BCHW)
        return style_BS

    def decode(self, content_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """Images of this domain with this content, of either domain, in this style."""
        image_BCHW: Tensor = self.dec(content_BCHW, self.mlp(style_BS))
        return image_BCHW

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Encode and decode."""
        return self.decode(*self.encode(x_BCHW))


def style_rows(styles_BS: Tensor | None, default_1S: Tensor, x_BCHW: Tensor) -> Tensor:
    """One style for each image, on its device.

    Args:
        styles_BS: one for each image, one for all of them, or None for the default.
        default_1S: what None stands for.
        x_BCHW: the images.

    Raises:
        ShapeError: if the styles fit neither the images nor the network.

    >>> import torch
    >>> style_rows(None, torch.zeros(1, 8), torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 8])
    """
    styles_BS = default_1S if styles_BS is None else styles_BS
    num_images, width = x_BCHW.shape[0], default_1S.shape[1]
    if torch.compiler.is_compiling():  # a test of sizes would fix them
        return styles_BS.to(x_BCHW).expand(num_images, width)
    if styles_BS.shape not in ((1, width), (num_images, width)):
        raise ShapeError(
            f"`styles_BS` must hold {width} numbers for each of the {num_images} images; got "
            f"{tuple(styles_BS.shape)}."
        )
    return sent(styles_BS, x_BCHW).expand(num_images, width)
