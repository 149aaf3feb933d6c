"""The networks of StarGAN v2 (Choi et al. 2020): one generator for any number of domains.

    G   images and a style -> images
    F   latents and a domain -> styles                        (mapping network)
    E   images and their domain -> styles                     (style encoder)
    D   images and a domain -> logits: real in this domain?

All modules have the names of the released networks, so released weights load by name. The part for
aligned faces (heat maps, high-pass filter: `w_hpf` above 0) is left out.

The semantic-relation release has another generator with the same parts (`generator="released"`):

    paper      a ResBlock that halves per level, two more; the same upwards, each with the style.
               log2(image_size) - 4 levels, so that the innermost map is 16 x 16 at `image_size`
    released   two convolutions that halve, four ResBlocks; four blocks with the style, two that
               enlarge and do not see it
"""

from patchkin.networks.starganv2.blocks import (
    AdaptiveInstanceNorm2d,
    AffineInstanceNorm2d,
    DownBlock,
    ResBlock,
    StyledResBlock,
    UpBlock,
)
from patchkin.networks.starganv2.config import StyleGeneratorForm, StyleNetworksConfig
from patchkin.networks.starganv2.discriminator import DomainDiscriminator
from patchkin.networks.starganv2.domains import of_domain, same_domain
from patchkin.networks.starganv2.generator import StyleGenerator
from patchkin.networks.starganv2.mapping import MappingNetwork
from patchkin.networks.starganv2.released import (
    RELEASED_NAMES,
    SIZES_OF,
    ReleasedWeights,
    Shapes,
    discriminator_sizes,
    encoder_sizes,
    generator_sizes,
    joined_sizes,
    mapping_sizes,
    read_released,
)
from patchkin.networks.starganv2.style_encoder import StyleEncoder
from patchkin.networks.starganv2.styles import StyleTask, style_of

__all__ = [
    "RELEASED_NAMES",
    "SIZES_OF",
    "AdaptiveInstanceNorm2d",
    "AffineInstanceNorm2d",
    "DomainDiscriminator",
    "DownBlock",
    "MappingNetwork",
    "ReleasedWeights",
    "ResBlock",
    "Shapes",
    "StyleEncoder",
    "StyleGenerator",
    "StyleGeneratorForm",
    "StyleNetworksConfig",
    "StyleTask",
    "StyledResBlock",
    "UpBlock",
    "discriminator_sizes",
    "encoder_sizes",
    "generator_sizes",
    "joined_sizes",
    "mapping_sizes",
    "of_domain",
    "read_released",
    "same_domain",
    "style_of",
]
