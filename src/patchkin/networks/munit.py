"""MUNIT's networks: an image is a content map and a style vector (Huang et al. 2018).

Each domain has one generator: two encoders, and a decoder whose residual blocks take scale and
shift of every channel from the style. Layer names are those of the released networks, so released
weights load by name, except `norm.running_mean` and `norm.running_var` below `dec.model.0`, which
hold nothing that is used. Scale and shift are arguments here and never written into a layer, so one
decoder can serve several threads.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style, N scales and shifts of
all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.config import flag
from patchkin.errors import ConfigError, ShapeError
from patchkin.networks.normalization import EPSILON, InstanceNorm2d
from patchkin.networks.resampling import ReflectionPad2d
from patchkin.numerics import widened, without_autocast

_STYLE_HALVINGS = 4
_LEAST_STYLED = 2**_STYLE_HALVINGS


@dataclass(frozen=True, kw_only=True, slots=True)
class MunitGeneratorConfig:
    """Defaults are the released ones: 15,026,187 parameters."""

    width: Annotated[int, flag("--ngf")] = 64
    """Channels at full resolution (dim); the content has 2^halvings times as many."""
    halvings: int = 2
    """Strided layers of the content encoder. The style encoder always has four."""
    blocks: Annotated[int, flag("--blocks")] = 4
    """Residual blocks of the content encoder, and of the decoder."""
    style_width: int = 8
    """Numbers of a style."""
    mlp_width: int = 256
    """Of the layers between a style and the decoder's scales and shifts."""

    def __post_init__(self) -> None:
        for name in ("width", "halvings", "blocks", "style_width", "mlp_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiScaleConfig:
    """Defaults are MUNIT's discriminator: 8,271,171 parameters."""

    width: Annotated[int, flag("--ndf")] = 64
    """Channels of the first layer (dim); every further one doubles them."""
    layers: int = 4
    """Strided layers of each network."""
    scales: int = 3
    """Networks; each sees half the resolution of the one before."""
    slope: float = 0.2
    """Of the leaky ReLU (DRIT: 0.01)."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "scales"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if not 0 <= self.slope < 1:
            raise ConfigError(f"`slope` must be in [0, 1); got {self.slope}.")


class ImageLayerNorm2d(nn.Module):
    """Zero mean and unit deviation per image over channels and pixels, then scale and shift.

        y = gamma (x - mean) / (std + 1e-5) + beta,   std with n - 1 in the denominator.

    The gradient is finite for a constant image too, where that of a square root is not.

    >>> norm = ImageLayerNorm2d(1)
    >>> _ = nn.init.ones_(norm.gamma)
    >>> norm(torch.tensor([[[[1.0, 2.0, 3.0]]]])).flatten().round(decimals=3)
    tensor([-1.,  0.,  1.], grad_fn=<RoundBackward1>)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise `x_BCHW`, in float32 at least."""
        with without_autocast(x_BCHW):
            x_BCHW = widened(x_BCHW)
            centred_BCHW = x_BCHW - x_BCHW.mean(dim=(1, 2, 3), keepdim=True)
            length_B111 = torch.linalg.vector_norm(centred_BCHW, dim=(1, 2, 3), keepdim=True)
            deviation_B111 = length_B111 / max(x_BCHW[0].numel() - 1, 1) ** 0.5
            unit_BCHW = centred_BCHW / (deviation_B111 + EPSILON)
            y_BCHW: Tensor = unit_BCHW * self.gamma[:, None, None] + self.beta[:, None, None]
            return y_BCHW


class AdaptiveInstanceNorm2d(nn.Module):
    """Instance norm whose shift and scale come with the image (AdaIN, Huang and Belongie 2017).

    The instance norm is `InstanceNorm2d`, guarded against torch's faulty CPU gradient at batch 1.
    Writing AdaIN as a batch norm of one image with B * C channels has the same fault.

    >>> x_BCHW = torch.tensor([[[[-1.0, 1.0]]]])
    >>> AdaptiveInstanceNorm2d()(x_BCHW, torch.tensor([[10.0, 2.0]])).flatten()  # shift, scale
    tensor([ 8.0000, 12.0000])
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = InstanceNorm2d()

    def forward(self, x_BCHW: Tensor, affine_BN: Tensor) -> Tensor:
        """Normalise, scale and shift.

        Args:
            x_BCHW: a map.
            affine_BN: the shifts of the C channels, then their scales: N = 2 C.
        """
        shift_BC, scale_BC = affine_BN.chunk(2, dim=1)
        y_BCHW: Tensor = self.norm(x_BCHW)
        return y_BCHW * scale_BC[:, :, None, None] + shift_BC[:, :, None, None]


class ConvBlock(nn.Module):
    """Reflection padding, a convolution with bias, a norm, an activation.

    >>> ConvBlock(3, 8, 4, stride=2, padding=1)(torch.zeros(1, 3, 9, 8)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.pad = ReflectionPad2d(padding)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride)
        self.norm = norm or nn.Identity()
        self.activation = activation or nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """All four in this order."""
        y_BCHW: Tensor = self.activation(self.norm(self.conv(self.pad(x_BCHW))))
        return y_BCHW


class StyledConvBlock(nn.Module):
    """Reflection padding, a 3 x 3 convolution, AdaIN, an activation."""

    def __init__(self, channels: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.pad = ReflectionPad2d(1)
        self.conv = nn.Conv2d(channels, channels, 3)
        self.norm = AdaptiveInstanceNorm2d()
        self.activation = activation or nn.Identity()

    def forward(self, x_BCHW: Tensor, affine_BN: Tensor) -> Tensor:
        """All four in this order."""
        y_BCHW: Tensor = self.activation(self.norm(self.conv(self.pad(x_BCHW)), affine_BN))
        return y_BCHW


class ResidualBlock(nn.Module):
    """x + two 3 x 3 convolutions with instance norm; no activation after the sum.

    >>> ResidualBlock(2)(torch.ones(1, 2, 3, 5)).shape
    torch.Size([1, 2, 3, 5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            ConvBlock(
                channels, channels, 3, padding=1, norm=InstanceNorm2d(), activation=nn.ReLU()
            ),
            ConvBlock(channels, channels, 3, padding=1, norm=InstanceNorm2d()),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The sum of `x_BCHW` and what the block makes of it; same shape."""
        y_BCHW: Tensor = x_BCHW + self.model(x_BCHW)
        return y_BCHW


class StyledResidualBlock(nn.Module):
    """`ResidualBlock` with AdaIN; it takes 4 C scales and shifts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.ModuleList(
            [StyledConvBlock(channels, nn.ReLU()), StyledConvBlock(channels)]
        )

    def forward(self, x_BCHW: Tensor, affine_BN: Tensor) -> Tensor:
        """The sum of `x_BCHW` and what the block makes of it; same shape."""
        y_BCHW = x_BCHW
        for block, part_BN in zip(self.model, affine_BN.chunk(2, dim=1), strict=True):
            y_BCHW = block(y_BCHW, part_BN)
        return x_BCHW + y_BCHW


class ResidualBlocks(nn.Module):
    """Residual blocks, one behind the other."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape."""
        y_BCHW: Tensor = self.model(x_BCHW)
        return y_BCHW


class StyledResidualBlocks(nn.Module):
    """Residual blocks with AdaIN, one behind the other; each takes its 4 C scales and shifts."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.model = nn.ModuleList(StyledResidualBlock(channels) for _ in range(blocks))

    def forward(self, x_BCHW: Tensor, affine_BN: Tensor) -> Tensor:
        """Same shape."""
        for block, part_BN in zip(self.model, affine_BN.chunk(len(self.model), dim=1), strict=True):
            x_BCHW = block(x_BCHW, part_BN)
        return x_BCHW


class SpatialMean(nn.Module):
    """The mean over all pixels, [B, C, 1, 1]."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """A mean rather than a pooling layer, whose CUDA gradient has no fixed order of sums."""
        return x_BCHW.mean(dim=(2, 3), keepdim=True)


class StyleEncoder(nn.Module):
    """Images to style vectors: four halvings without norm, then the mean over all pixels.

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


class LinearBlock(nn.Module):
    """A linear layer and an activation."""

    def __init__(self, in_width: int, out_width: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(in_width, out_width)
        self.activation = activation or nn.Identity()

    def forward(self, x_BS: Tensor) -> Tensor:
        """Both in this order."""
        y_BN: Tensor = self.activation(self.fc(x_BS))
        return y_BN


class StyleMLP(nn.Module):
    """Style vectors to N numbers: two layers with ReLU and one without.

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


class MultiScaleDiscriminator(nn.Module):
    """Patch logits at several resolutions (Wang et al. 2018), without norms.

    Between the scales images are averaged over 3 x 3 pixels, stride 2, what lies outside not
    counted.

    >>> network = MultiScaleDiscriminator(3, MultiScaleConfig(width=2, scales=2))
    >>> [logits.shape for logits in network(torch.zeros(1, 3, 64, 36))]
    [torch.Size([1, 1, 4, 2]), torch.Size([1, 1, 2, 1])]
    >>> network.min_size
    31
    """

    min_size: int
    """Shortest side: the last halving at the coarsest scale pads two pixels at least."""

    def __init__(self, in_channels: int, config: MultiScaleConfig | None = None) -> None:
        super().__init__()
        config = config or MultiScaleConfig()
        self.min_size = 2 ** (config.scales - 1) * (2**config.layers - 1) + 1
        self.cnns = nn.ModuleList(_judge(in_channels, config) for _ in range(config.scales))

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Logits [B, 1, h, w], the finest scale first."""
        logits = []
        for scale, network in enumerate(self.cnns):
            if scale:
                x_BCHW = nnf.avg_pool2d(x_BCHW, 3, stride=2, padding=1, count_include_pad=False)
            logits.append(network(x_BCHW))
        return logits


def _judge(in_channels: int, config: MultiScaleConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = config.width
    for layer in range(config.layers):
        width_in = width if layer else in_channels
        width = 2 * width if layer else width
        layers.append(
            ConvBlock(
                width_in, width, 4, stride=2, padding=1, activation=nn.LeakyReLU(config.slope)
            )
        )
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1))


def judge_scales_together(
    network: MultiScaleDiscriminator, *images_BCHW: Tensor
) -> list[list[Tensor]]:
    """What the network says of several batches, each at all scales, in one pass if sizes allow.

    >>> network = MultiScaleDiscriminator(3, MultiScaleConfig(width=2, layers=2, scales=2))
    >>> fake, real = judge_scales_together(network, torch.zeros(2, 3, 8, 8), torch.ones(1, 3, 8, 8))
    >>> [len(logits) for logits in fake], [len(logits) for logits in real]
    ([2, 2], [1, 1])
    """
    if len({images.shape[1:] for images in images_BCHW}) > 1:
        return [network(images) for images in images_BCHW]
    counts = [len(images) for images in images_BCHW]
    scales = [logits.split(counts) for logits in network(torch.cat(images_BCHW))]
    return [list(batch) for batch in zip(*scales, strict=True)]


def style_rows(styles_BS: Tensor | None, default_1S: Tensor, x_BCHW: Tensor) -> Tensor:
    """One style for each image, on its device.

    Args:
        styles_BS: one for each image, one for all of them, or None for the default.
        default_1S: what None stands for.
        x_BCHW: the images.

    Raises:
        ShapeError: if the styles fit neither the images nor the network.

    >>> style_rows(None, torch.zeros(1, 8), torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 8])
    """
    styles_BS = default_1S if styles_BS is None else styles_BS
    num_images, width = len(x_BCHW), default_1S.shape[1]
    if styles_BS.shape not in ((1, width), (num_images, width)):
        raise ShapeError(
            f"`styles_BS` must hold {width} numbers for each of the {num_images} images; got "
            f"{tuple(styles_BS.shape)}."
        )
    return styles_BS.to(x_BCHW).expand(num_images, width)
