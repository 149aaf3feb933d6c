"""Networks of methods that translate in both directions, from the settings of one.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.networks.discriminator import Discriminator, discriminator
from patchkin.networks.image_pool import ImagePool, ImagePoolConfig
from patchkin.networks.patchgan import PatchGANConfig
from patchkin.networks.resnet import ResNetConfig, ResNetGenerator

STRIDED_GENERATOR = ResNetConfig(antialias_down=False, antialias_up=False)
"""CycleGAN's: it strides and transposes convolutions where CUT's blurs and enlarges."""
STRIDED_DISCRIMINATOR = PatchGANConfig(antialias=False)
"""CycleGAN's."""


def generator_pair(config: ResNetConfig) -> tuple[ResNetGenerator, ResNetGenerator]:
    """G_AB as `config` says, and G_BA from B to A.

    >>> G_AB, G_BA = generator_pair(ResNetConfig(ngf=2, blocks=1, in_channels=1))
    >>> G_BA(G_AB(torch.zeros(1, 1, 8, 8))).shape
    torch.Size([1, 1, 8, 8])
    """
    back = replace(config, in_channels=config.out_channels, out_channels=config.in_channels)
    return ResNetGenerator(config), ResNetGenerator(back)


def discriminator_pair(
    config: PatchGANConfig, generator: ResNetConfig
) -> tuple[Discriminator, Discriminator]:
    """D_B, which judges images of domain B as G_AB makes them, and D_A, which judges domain A.

    >>> D_B, D_A = discriminator_pair(PatchGANConfig(ndf=2), ResNetConfig(in_channels=1))
    >>> D_B.model[0].in_channels, D_A.model[0].in_channels
    (3, 1)
    """
    back = replace(config, in_channels=generator.in_channels)
    return discriminator(config), discriminator(back)


def pool_pair(config: ImagePoolConfig, generator: ResNetConfig) -> tuple[ImagePool, ImagePool]:
    """A pool of translations into domain B, for D_B, and one of translations into domain A.

    >>> pool_B, pool_A = pool_pair(ImagePoolConfig(), ResNetConfig(in_channels=1))
    >>> pool_B.channels, pool_A.channels
    (3, 1)
    """
    return ImagePool(generator.out_channels, config), ImagePool(generator.in_channels, config)


def check_pair(generator: ResNetConfig, discriminator: PatchGANConfig, *, identity: bool) -> None:
    """Refuse networks of a two-sided method whose channels do not fit each other.

    Raises:
        ConfigError: if the discriminator does not take what the generator makes, or, with an
            identity term, if the domains differ in channels and neither is grey.

    >>> check_pair(ResNetConfig(in_channels=4), PatchGANConfig(), identity=True)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: The identity term shows each generator images of the other domain,
    so `in_channels` and `out_channels` must be equal or one of them 1; got 4 and 3. Set
    `identity_weight` to 0.
    """
    if generator.out_channels != discriminator.in_channels:
        raise ConfigError(
            "The discriminator's `in_channels` must be the generator's `out_channels`; got "
            f"{discriminator.in_channels} and {generator.out_channels}."
        )
    channels = (generator.in_channels, generator.out_channels)
    if identity and channels[0] != channels[1] and 1 not in channels:
        raise ConfigError(
            "The identity term shows each generator images of the other domain, so `in_channels` "
            f"and `out_channels` must be equal or one of them 1; got {channels[0]} and "
            f"{channels[1]}. Set `identity_weight` to 0."
        )


def apply_together(network: nn.Module, *images_BCHW: Tensor) -> tuple[Tensor, ...]:
    """The outputs for several batches, in one pass where that changes nothing.

    Instance norm is per image, so one stacked pass gives the same numbers. Batch norm in training
    mode would mix the batches, and unequal sizes cannot be stacked: one pass each.

    >>> small, large = torch.zeros(2, 1, 3, 3), torch.zeros(1, 1, 5, 5)
    >>> [len(y) for y in apply_together(nn.Conv2d(1, 1, 3), small, small[:1], large)]
    [2, 1, 1]
    """
    mixes = network.training and any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    if mixes or len({images.shape[1:] for images in images_BCHW}) > 1:
        return tuple(network(images) for images in images_BCHW)
    outputs_BCHW: Tensor = network(torch.cat(images_BCHW))
    return torch.split(outputs_BCHW, [len(images) for images in images_BCHW])
