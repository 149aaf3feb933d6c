"""The StyleGAN2-style generator and discriminator of SinCUT (Park et al., ECCV 2020).

Blocks of StyleGAN2 (Karras et al., CVPR 2020) without its styles, custom kernels and minibatch
statistics. Weights are drawn from N(0, 1) and scaled by 1 / sqrt(fan in) whenever they are used, so
that all learn at one speed; `initialize` leaves them alone. Names are those of the released
networks, so released weights load by name.

    encoder.convs   0                  identity
                    1                  convolution 1x1
                    2 ...              residual blocks that halve the sides
                    ...                half of the plain residual blocks
    decoder.convs   0 ...              the other half
                    ...                modulated convolutions that double the sides, with noise
                    last               convolution 1x1, activated: outputs have no upper bound

A width belongs to a resolution: the networks have the widths of StyleGAN2's layers from
`working_size` pixels down, whatever the size of the images they are given.

Differs from the released code: its generator draws new noise in every forward pass, so that the
same image never gives the same translation twice. Here noise is an argument, and without one every
pass uses the same (ours): a translation depends on the image alone.
"""

from patchkin.networks.stylegan2.config import (
    StyleGan2DiscriminatorConfig,
    StyleGan2GeneratorConfig,
)
from patchkin.networks.stylegan2.discriminator import StyleGan2Discriminator
from patchkin.networks.stylegan2.generator import StyleGan2Generator
from patchkin.networks.stylegan2.layers import (
    BiasedLeaky,
    Blur,
    EqualConv2d,
    EqualLinear,
    ModulatedUpConv2d,
    Noise,
    ResidualBlock,
    StyledConv,
    conv_layer,
    leaky,
)

__all__ = [
    "BiasedLeaky",
    "Blur",
    "EqualConv2d",
    "EqualLinear",
    "ModulatedUpConv2d",
    "Noise",
    "ResidualBlock",
    "StyleGan2Discriminator",
    "StyleGan2DiscriminatorConfig",
    "StyleGan2Generator",
    "StyleGan2GeneratorConfig",
    "StyledConv",
    "conv_layer",
    "leaky",
]
