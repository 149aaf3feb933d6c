"""Generators, discriminators and heads, with the names of the released networks' weights."""

from patchkin.networks.channels import match_channels
from patchkin.networks.initialization import InitConfig, initialize
from patchkin.networks.normalization import InstanceNorm2d, NormKind, norm_layer, uses_bias
from patchkin.networks.patchgan import (
    PatchGAN,
    PatchGANConfig,
    PixelDiscriminator,
    check_channels,
    discriminator,
    judge_together,
)
from patchkin.networks.projection import ProjectionHead, draw_places, gather_places, unit_rows
from patchkin.networks.resampling import BlurDownsample, BlurUpsample, ReflectionPad2d
from patchkin.networks.resnet import ResNetBlock, ResNetConfig, ResNetGenerator

__all__ = [
    "BlurDownsample",
    "BlurUpsample",
    "InitConfig",
    "InstanceNorm2d",
    "NormKind",
    "PatchGAN",
    "PatchGANConfig",
    "PixelDiscriminator",
    "ProjectionHead",
    "ReflectionPad2d",
    "ResNetBlock",
    "ResNetConfig",
    "ResNetGenerator",
    "check_channels",
    "discriminator",
    "draw_places",
    "gather_places",
    "initialize",
    "judge_together",
    "match_channels",
    "norm_layer",
    "unit_rows",
    "uses_bias",
]
