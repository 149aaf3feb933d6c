"""Generators, discriminators and heads, with the names of the released networks' weights."""

from patchkin.networks.channels import match_channels
from patchkin.networks.discriminator import (
    Discriminator,
    check_channels,
    discriminator,
    judge_together,
)
from patchkin.networks.image_pool import ImagePool, ImagePoolConfig
from patchkin.networks.initialization import InitConfig, initialize
from patchkin.networks.normalization import InstanceNorm2d, NormKind, norm_layer, uses_bias
from patchkin.networks.patchgan import PatchGAN, PatchGANConfig, PixelDiscriminator
from patchkin.networks.projection import (
    PatchMap,
    Places,
    ProjectionHead,
    SharedPlaces,
    draw_places,
    gather_places,
    patch_maps,
    patches_at,
    unit_rows,
)
from patchkin.networks.resampling import BlurDownsample, BlurUpsample, ReflectionPad2d
from patchkin.networks.resnet import ResNetBlock, ResNetConfig, ResNetGenerator
from patchkin.networks.separable import (
    SeparableConv,
    SeparableGenerator,
    channels_of,
    format_channels,
    parse_channels,
)
from patchkin.networks.similarity import (
    HeadKind,
    SimilarityHead,
    SimilarityHeads,
    stack_taps,
)
from patchkin.networks.stylegan2 import (
    StyleGan2Discriminator,
    StyleGan2DiscriminatorConfig,
    StyleGan2Generator,
    StyleGan2GeneratorConfig,
)
from patchkin.networks.two_sided import (
    STRIDED_DISCRIMINATOR,
    STRIDED_GENERATOR,
    apply_together,
    check_pair,
    discriminator_pair,
    generator_pair,
    pool_pair,
)
from patchkin.networks.unet import UNet, UNetConfig
from patchkin.networks.vision_aided import VisionAided
from patchkin.networks.whole_batch import BatchNorm1d, BatchNorm2d, Dropout

__all__ = [
    "STRIDED_DISCRIMINATOR",
    "STRIDED_GENERATOR",
    "BatchNorm1d",
    "BatchNorm2d",
    "BlurDownsample",
    "BlurUpsample",
    "Discriminator",
    "Dropout",
    "HeadKind",
    "ImagePool",
    "ImagePoolConfig",
    "InitConfig",
    "InstanceNorm2d",
    "NormKind",
    "PatchGAN",
    "PatchGANConfig",
    "PatchMap",
    "PixelDiscriminator",
    "Places",
    "ProjectionHead",
    "ReflectionPad2d",
    "ResNetBlock",
    "ResNetConfig",
    "ResNetGenerator",
    "SeparableConv",
    "SeparableGenerator",
    "SharedPlaces",
    "SimilarityHead",
    "SimilarityHeads",
    "StyleGan2Discriminator",
    "StyleGan2DiscriminatorConfig",
    "StyleGan2Generator",
    "StyleGan2GeneratorConfig",
    "UNet",
    "UNetConfig",
    "VisionAided",
    "apply_together",
    "channels_of",
    "check_channels",
    "check_pair",
    "discriminator",
    "discriminator_pair",
    "draw_places",
    "format_channels",
    "gather_places",
    "generator_pair",
    "initialize",
    "judge_together",
    "match_channels",
    "norm_layer",
    "parse_channels",
    "patch_maps",
    "patches_at",
    "pool_pair",
    "stack_taps",
    "unit_rows",
    "uses_bias",
]
