"""Discriminators that judge patches: PatchGAN (Isola et al. 2017) and its one-pixel form.

Layer names are those of the released networks, so their weights load by name.

Shape suffixes: B images, C channels, H and W pixels, h and w patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from patchkin.config import check_halvings, flag
from patchkin.errors import ConfigError
from patchkin.networks.normalization import NormKind, apply_layers, norm_layer, uses_bias
from patchkin.networks.resampling import BlurDownsample

_KERNEL = 4
_SLOPE = 0.2
_WIDEST = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchGANConfig:
    """Defaults are CUT's discriminator: 2,764,737 parameters."""

    in_channels: int = 3
    """Channels of the images it judges."""
    ndf: Annotated[int, flag("--ndf")] = 64
    """Channels of the first layer; each stage doubles them, up to eight times."""
    layers: int = 3
    """Halving stages ("basic" only). 3 stages see 70 x 70 pixels without antialiasing."""
    norm: NormKind = "instance"
    """After every convolution but the first and the last."""
    antialias: bool = True
    """Blur before subsampling (CUT); CycleGAN strides the convolution instead ("basic" only)."""
    kind: Literal["basic", "pixel"] = "basic"
    """Judge overlapping patches, or each pixel alone."""
    features: Literal["none", "alexnet", "random"] = "none"
    """Judge by features that know ImageNet as well (vision-aided, Kumari et al. 2022): AlexNet's,
    or those of its layers with seeded weights. Ours: no method here was published with it."""
    alexnet_weights: str | None = None
    """File with torchvision's AlexNet, or its features."""
    patch_votes: int = 3
    """How often the judgement of patches counts where that by a layer of features counts once."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "ndf", "layers", "patch_votes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        check_halvings(self, "layers")
        if self.features != "none" and self.kind == "pixel":
            raise ConfigError("`features` judge patches, not pixels: use `kind` basic with them.")
        if self.features != "none" and self.in_channels not in (1, 3):
            raise ConfigError(
                f"`features` are of images in colour or grey; got `in_channels` {self.in_channels}."
            )


class PatchGAN(nn.Module):
    """One logit per overlapping patch, from 4 x 4 convolutions with zero padding 1.

    >>> import torch
    >>> network = PatchGAN(PatchGANConfig(ndf=2))
    >>> network(torch.zeros(1, 3, 64, 32)).shape
    torch.Size([1, 1, 6, 2])
    >>> network.min_size
    24
    """

    keeps_channels_last: ClassVar[bool] = True
    """See `networks.cpu.layout`."""
    min_size: int
    """Shortest side that yields a logit: 3 pixels must be left after the halving stages."""

    def __init__(self, config: PatchGANConfig | None = None) -> None:
        super().__init__()
        config = config or PatchGANConfig()
        self.min_size = 3 * 2**config.layers
        stages = [min(2**stage, _WIDEST) * config.ndf for stage in range(config.layers + 1)]
        model: list[nn.Module] = []
        width_in = config.in_channels
        for stage, width in enumerate(stages):
            halve = stage < config.layers
            first = stage == 0
            stride = 2 if halve and not config.antialias else 1
            bias = first or uses_bias(config.norm)
            model.append(nn.Conv2d(width_in, width, _KERNEL, stride=stride, padding=1, bias=bias))
            if not first:
                model.append(norm_layer(config.norm, width))
            model.append(nn.LeakyReLU(_SLOPE))
            if halve and config.antialias:
                model.append(BlurDownsample(width))
            width_in = width
        model.append(nn.Conv2d(width_in, 1, _KERNEL, padding=1))
        self.model = nn.Sequential(*model)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, 1, h, w], one per patch."""
        return apply_layers(self.model, x_BCHW)

    def rectified(self, x_BCHW: Tensor) -> list[Tensor]:
        """The maps behind its rectifiers, the widest last: what a discriminator sees in images."""
        maps: list[Tensor] = []
        for layer in self.model[:-1]:
            x_BCHW = layer(x_BCHW)
            if isinstance(layer, nn.LeakyReLU):
                maps.append(x_BCHW)
        return maps


class PixelDiscriminator(nn.Module):
    """One logit per pixel, from 1 x 1 convolutions.

    >>> import torch
    >>> PixelDiscriminator(PatchGANConfig(ndf=2, kind="pixel"))(torch.zeros(1, 3, 5, 4)).shape
    torch.Size([1, 1, 5, 4])
    """

    min_size: int
    """Shortest side: instance norm needs more than one pixel."""

    def __init__(self, config: PatchGANConfig | None = None) -> None:
        super().__init__()
        config = config or PatchGANConfig(kind="pixel")
        self.min_size = 2 if config.norm == "instance" else 1
        bias = uses_bias(config.norm)
        self.net = nn.Sequential(
            nn.Conv2d(config.in_channels, config.ndf, 1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(config.ndf, 2 * config.ndf, 1, bias=bias),
            norm_layer(config.norm, 2 * config.ndf),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(2 * config.ndf, 1, 1, bias=bias),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, 1, H, W], one per pixel."""
        return apply_layers(self.net, x_BCHW)
