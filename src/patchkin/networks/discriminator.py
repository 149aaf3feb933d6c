"""Which discriminator a configuration names, and what is common to all.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.networks.patchgan import PatchGAN, PatchGANConfig, PixelDiscriminator
from patchkin.networks.vision_aided import VisionAided

Discriminator: TypeAlias = PatchGAN | PixelDiscriminator | VisionAided


def discriminator(config: PatchGANConfig | None = None) -> Discriminator:
    """The discriminator that `config.kind` and `config.features` name.

    >>> type(discriminator(PatchGANConfig(kind="pixel"))).__name__
    'PixelDiscriminator'
    """
    config = config or PatchGANConfig()
    if config.features != "none":
        return VisionAided(config)
    return PixelDiscriminator(config) if config.kind == "pixel" else PatchGAN(config)


def judge_together(
    network: nn.Module, fake_BCHW: Tensor, real_BCHW: Tensor
) -> tuple[Tensor, Tensor]:
    """The logits of generated and of real images, in one pass where that changes nothing.

    Instance norm is per image, so one stacked pass gives the same numbers as two. Batch norm in
    training mode would mix both kinds of images, and unequal sizes cannot be stacked: two passes.

    >>> network = PatchGAN(PatchGANConfig(ndf=2))
    >>> fake, real = judge_together(network, torch.zeros(2, 3, 32, 32), torch.ones(1, 3, 32, 32))
    >>> fake.shape[0], real.shape[0]
    (2, 1)
    """
    mixes = any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    if fake_BCHW.shape[1:] != real_BCHW.shape[1:] or (mixes and network.training):
        return network(fake_BCHW), network(real_BCHW)
    fake_logits, real_logits = network(torch.cat([fake_BCHW, real_BCHW])).split(
        [len(fake_BCHW), len(real_BCHW)]
    )
    return fake_logits, real_logits


class _Generating(Protocol):
    @property
    def in_channels(self) -> int: ...

    @property
    def out_channels(self) -> int: ...


class _Judging(Protocol):
    @property
    def in_channels(self) -> int: ...


def check_channels(generator: _Generating, discriminator: _Judging) -> None:
    """Refuse networks of a one-sided method whose channels do not fit each other.

    Raises:
        ConfigError: if the discriminator does not take what the generator makes, or if the domains
            differ in channels and neither is grey (see `match_channels`).

    >>> from patchkin.networks import ResNetConfig
    >>> check_channels(ResNetConfig(in_channels=4), PatchGANConfig())
    Traceback (most recent call last):
    patchkin.errors.ConfigError: The generator's encoder reads its own output too, so `in_channels`
    and `out_channels` must be equal or one of them 1; got 4 and 3.
    """
    if generator.out_channels != discriminator.in_channels:
        raise ConfigError(
            "The discriminator's `in_channels` must be the generator's `out_channels`; got "
            f"{discriminator.in_channels} and {generator.out_channels}."
        )
    channels = (generator.in_channels, generator.out_channels)
    if channels[0] != channels[1] and 1 not in channels:
        raise ConfigError(
            "The generator's encoder reads its own output too, so `in_channels` and "
            f"`out_channels` must be equal or one of them 1; got {channels[0]} and {channels[1]}."
        )
