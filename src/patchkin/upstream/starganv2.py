"""Released networks of StarGAN v2, together in `*_nets.ckpt` or, averaged, in `*_nets_ema.ckpt`.

The semantic-relation release writes the same files, with its generator, and its head as
`patch_sample`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from patchkin.networks.starganv2 import (
    DomainDiscriminator,
    MappingNetwork,
    StyleEncoder,
    StyleGenerator,
    StyleNetworksConfig,
    discriminator_sizes,
    encoder_sizes,
    generator_sizes,
    mapping_sizes,
)
from patchkin.upstream.kinds import Layout, NetworkKind

LICENCE = (
    "StarGAN v2's released weights are under CC BY-NC 4.0: not for commercial use. It holds for "
    "this model if they are clovaai's."
)
NETWORKS = {
    "nets.generator": "G",
    "nets.mapping_network": "F",
    "nets.style_encoder": "E",
    "nets.discriminator": "D",
}
"""The name in a file -> ours."""
HEAD = {"nets.patch_sample": "P"}
"""Of the semantic-relation release."""


def _kind(
    role: str,
    network: type[nn.Module],
    configure: Callable[[Layout], StyleNetworksConfig],
    signature: str,
) -> NetworkKind:
    """A network that one tensor's name tells."""
    return NetworkKind(
        title=f"StarGAN v2 {role.removeprefix('nets.').replace('_', ' ')}",
        roles=(role,),
        network=network,
        signature=lambda layout: any(re.fullmatch(signature, name) for name in layout),
        configure=configure,
        build=network,
    )


STARGAN_GENERATOR = _kind(
    "nets.generator", StyleGenerator, generator_sizes, r"encode\.0\.conv1\.weight"
)
STARGAN_MAPPING = _kind(
    "nets.mapping_network", MappingNetwork, mapping_sizes, r"unshared\.0\.6\.weight"
)
STARGAN_ENCODER = _kind("nets.style_encoder", StyleEncoder, encoder_sizes, r"unshared\.0\.weight")
STARGAN_DISCRIMINATOR = _kind(
    "nets.discriminator", DomainDiscriminator, discriminator_sizes, r"main\.1\.conv1\.weight"
)
STARGAN_KINDS = (STARGAN_GENERATOR, STARGAN_MAPPING, STARGAN_ENCODER, STARGAN_DISCRIMINATOR)
