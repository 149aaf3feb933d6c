"""One tiny model of every family of generators, as a model file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from patchkin.compression import COMPRESSED_METHODS
from patchkin.compression.compressed import CompressedResNetConfig
from patchkin.config import to_plain
from patchkin.method import Method
from patchkin.methods.cut import Cut, CutConfig
from patchkin.methods.cyclegan import CycleGan, CycleGanConfig
from patchkin.methods.drit import Drit, DritConfig
from patchkin.methods.munit import Munit, MunitConfig
from patchkin.methods.pix2pix import Pix2Pix, Pix2PixConfig
from patchkin.methods.sincut import SinCut, SinCutConfig
from patchkin.methods.starganv2 import StarGanV2, StarGanV2Config
from patchkin.networks import (
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    ResNetConfig,
    StyleGan2DiscriminatorConfig,
    StyleGan2GeneratorConfig,
    UNetConfig,
)
from patchkin.networks.drit import ContentDiscriminatorConfig, DritNetworkConfig
from patchkin.networks.munit import MultiScaleConfig, MunitGeneratorConfig
from patchkin.networks.starganv2 import StyleNetworksConfig
from patchkin.storage.checkpoint import ModelHeader, write_tensors

GAIN = InitConfig(gain=1.0)
PATCHES = PatchGANConfig(ndf=2, layers=1)
RESNET = ResNetConfig(ngf=2, blocks=1, in_channels=3, out_channels=3)
UNET = UNetConfig(ngf=2, levels=3, norm="batch")
TWO_SCALES = MultiScaleConfig(width=2, layers=1, scales=1)


def unet_method(unet: UNetConfig) -> Pix2Pix:
    discriminator = PatchGANConfig(in_channels=6, ndf=2, layers=1, antialias=False)
    config = Pix2PixConfig(generator=unet, discriminator=discriminator, initialization=GAIN)
    return Pix2Pix(config)


def resnet_method(**changes: object) -> Cut:
    generator = replace(RESNET, **changes)
    discriminator = replace(PATCHES, in_channels=generator.out_channels)
    config = CutConfig(
        generator=generator,
        discriminator=discriminator,
        initialization=GAIN,
        taps=(0, 4),
        head_width=4,
    )
    return Cut(config)


FAMILIES: dict[str, Callable[[], Method]] = {
    "resnet": resnet_method,
    "resnet without blur": lambda: CycleGan(
        CycleGanConfig(
            generator=replace(RESNET, antialias_down=False, antialias_up=False),
            discriminator=PATCHES,
            initialization=GAIN,
            pool=ImagePoolConfig(capacity=0),
        )
    ),
    "unet": lambda: unet_method(UNET),
    "stylegan2": lambda: SinCut(
        SinCutConfig(
            generator=StyleGan2GeneratorConfig(ngf=1, blocks=2, working_size=16),
            discriminator=StyleGan2DiscriminatorConfig(ndf=1, working_size=16),
            taps=(0, 2),
            head_width=4,
            head_initialization=GAIN,
        )
    ),
    "munit": lambda: Munit(
        MunitConfig(
            generator=MunitGeneratorConfig(width=2, blocks=1, style_width=3, mlp_width=4),
            discriminator=TWO_SCALES,
        )
    ),
    "drit": lambda: Drit(
        DritConfig(
            networks=DritNetworkConfig(width=2, blocks=1, attribute_width=3, mlp_width=4),
            discriminator=TWO_SCALES,
            content_discriminator=ContentDiscriminatorConfig(layers=1, kernel=3),
            initialization=GAIN,
        )
    ),
    "starganv2": lambda: StarGanV2(
        StarGanV2Config(
            networks=StyleNetworksConfig(
                num_domains=3,
                image_size=16,
                base_width=2,
                max_width=4,
                style_width=5,
                latent_width=3,
                hidden_width=6,
            )
        )
    ),
    "compressed": lambda: COMPRESSED_METHODS["compressed-resnet"](
        CompressedResNetConfig(channels=(2, 2, 2, 2, 2, 2, 2, 2))
    ),
}
STYLED = {"munit", "drit", "starganv2"}


def saved(folder: Path, model: str | Method, **encoding: object) -> Path:
    """The file of a model: of a family, or of a method at hand."""
    torch.manual_seed(3)
    method = FAMILIES[model]() if isinstance(model, str) else model
    with torch.no_grad():
        for parameter in method.parameters():  # none stays at the zero that it may start with
            parameter.add_(0.1 * torch.randn_like(parameter))
    header = ModelHeader(
        method=method.name, config=to_plain(method.config), step=7, size=32, encoding=encoding
    )
    path = folder / "model.safetensors"
    write_tensors(path, method.state_dict(), header.to_metadata())
    return path
