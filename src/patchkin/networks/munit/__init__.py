"""MUNIT's networks: an image is a content map and a style vector (Huang et al. 2018).

Each domain has one generator: two encoders, and a decoder whose residual blocks take scale and
shift of every channel from the style. Layer names are those of the released networks, so released
weights load by name, except `norm.running_mean` and `norm.running_var` below `dec.model.0`, which
hold nothing that is used. Scale and shift are arguments here and never written into a layer, so one
decoder can serve several threads.
"""

from patchkin.networks.munit.blocks import (
    AdaptiveInstanceNorm2d,
    ConvBlock,
    ImageLayerNorm2d,
    LinearBlock,
    ResidualBlock,
    ResidualBlocks,
    SpatialMean,
    StyledConvBlock,
    StyledResidualBlock,
    StyledResidualBlocks,
)
from patchkin.networks.munit.config import MultiScaleConfig, MunitGeneratorConfig
from patchkin.networks.munit.discriminator import MultiScaleDiscriminator, judge_scales_together
from patchkin.networks.munit.generator import (
    ContentEncoder,
    Decoder,
    MunitGenerator,
    StyleEncoder,
    StyleMLP,
    style_rows,
)

__all__ = [
    "AdaptiveInstanceNorm2d",
    "ContentEncoder",
    "ConvBlock",
    "Decoder",
    "ImageLayerNorm2d",
    "LinearBlock",
    "MultiScaleConfig",
    "MultiScaleDiscriminator",
    "MunitGenerator",
    "MunitGeneratorConfig",
    "ResidualBlock",
    "ResidualBlocks",
    "SpatialMean",
    "StyleEncoder",
    "StyleMLP",
    "StyledConvBlock",
    "StyledResidualBlock",
    "StyledResidualBlocks",
    "judge_scales_together",
    "style_rows",
]
