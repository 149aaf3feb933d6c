"""Released StyleGAN2-style networks of SinCUT.

A width is that of a resolution times `ngf`, so the same widths belong to half the resolution and
half of `ngf` too. The networks are equal; the configuration is the one for 64 pixels, as released,
wherever that fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from patchkin.errors import CheckpointError, ConfigError
from patchkin.networks import (
    StyleGan2Discriminator,
    StyleGan2DiscriminatorConfig,
    StyleGan2Generator,
    StyleGan2GeneratorConfig,
)
from patchkin.networks.resampling import binomial_filter
from patchkin.networks.stylegan2 import Blur
from patchkin.upstream.kinds import Layout, NetworkKind, numbers, shape_of

_RELEASED_SIZE = 64
_SIZES = (_RELEASED_SIZE, 128, 256, 512, 1024, 32, 16, 8, 4)
_FINAL_SIDE = 4
_MOST_HALVINGS = 12
"""Of a discriminator of images of 16,384 pixels."""
_SMALL_BLOCKS = 2
"""Of `smallstylegan2`, which adds no noise."""


def _is_generator(layout: Layout) -> bool:
    return "encoder.convs.1.0.weight" in layout and "decoder.convs.0.conv1.0.weight" in layout


def _generator_config(layout: Layout) -> StyleGan2GeneratorConfig:
    """Widths, then what resolution they belong to."""
    first = shape_of(layout, "encoder.convs.1.0.weight", 4)
    halving = numbers(layout, r"encoder\.convs\.(\d+)\.skip\.1\.weight$")
    blocks = numbers(layout, r"encoder\.convs\.(\d+)\.conv1\.0\.weight$")
    last = max(numbers(layout, r"decoder\.convs\.(\d+)\."))
    widths = [first[0]]
    for index in halving:
        widths.append(shape_of(layout, f"encoder.convs.{index}.skip.1.weight", 4)[0])
    num_plain = 2 * (len(blocks) - len(halving))
    found = StyleGan2GeneratorConfig(
        in_channels=first[1],
        out_channels=shape_of(layout, f"decoder.convs.{last}.0.weight", 4)[0],
        blocks=num_plain,
        num_downsampling=0,
        noise=num_plain != _SMALL_BLOCKS,
    )
    for size in _SIZES:
        fitting = at_size(found, size, widths)
        if fitting is not None:
            return fitting
    raise CheckpointError(f"has channels {widths}, which no `ngf` of StyleGAN2's widths gives.")


def at_size(
    config: StyleGan2GeneratorConfig, size: int, widths: Sequence[int] | None = None
) -> StyleGan2GeneratorConfig | None:
    """The configuration for another working size that gives the same network, if there is one.

    Args:
        config: of the network, or of one without halvings if `widths` are given.
        size: a power of 2.
        widths: of the layers from the outermost to the deepest; those of `config` unless given.

    >>> config = StyleGan2GeneratorConfig(ngf=20, working_size=128)
    >>> at_size(config, 64).ngf, at_size(config, 8) is None
    (10, True)
    """
    if widths is None:
        halvings = range(config.num_downsampling + 1)
        widths = [config.width(config.working_size >> halving) for halving in halvings]
    ngf = round(widths[0] * size / 512)
    try:
        moved = replace(config, ngf=ngf, working_size=size, num_downsampling=len(widths) - 1)
    except ConfigError:
        return None
    fits = all(moved.width(size >> halving) == width for halving, width in enumerate(widths))
    return moved if fits else None


def _is_discriminator(layout: Layout) -> bool:
    return "convs.0.0.weight" in layout and "final_linear.1.weight" in layout


def _discriminator_config(layout: Layout) -> StyleGan2DiscriminatorConfig:
    """The working size by the number of halvings, then the `ndf` that gives all widths."""
    first = shape_of(layout, "convs.0.0.weight", 4)
    blocks = numbers(layout, r"convs\.(\d+)\.conv1\.0\.weight$")
    if len(blocks) > _MOST_HALVINGS:
        raise CheckpointError(
            f"halves images {len(blocks)} times, which no side has the pixels for."
        )
    size = _FINAL_SIDE * 2 ** len(blocks)
    widths = [first[0], *(shape_of(layout, f"convs.{i}.skip.1.weight", 4)[0] for i in blocks)]
    lowest = math.ceil(widths[0] * size / 256)
    for ndf in range(lowest, lowest + max(size // 256, 1) + 1):  # widths are truncated
        config = StyleGan2DiscriminatorConfig(in_channels=first[1], ndf=ndf, working_size=size)
        if all(config.width(size >> halving) == width for halving, width in enumerate(widths)):
            return config
    raise CheckpointError(f"has channels {widths}, which no `ndf` of StyleGAN2's widths gives.")


def _kernels(network: nn.Module) -> dict[str, Tensor]:
    """The blurs' filters; the one that follows a transposed convolution sums to 4."""
    return {
        f"{name}.kernel": binomial_filter(4) * (4 if name.endswith("conv.blur") else 1)
        for name, layer in network.named_modules()
        if isinstance(layer, Blur)
    }


STYLEGAN2_GENERATOR = NetworkKind(
    title="StyleGAN2 generator",
    roles=("G",),
    network=StyleGan2Generator,
    signature=_is_generator,
    configure=_generator_config,
    build=StyleGan2Generator,
    fixed=_kernels,
)

STYLEGAN2_DISCRIMINATOR = NetworkKind(
    title="StyleGAN2 discriminator",
    roles=("D",),
    network=StyleGan2Discriminator,
    signature=_is_discriminator,
    configure=_discriminator_config,
    build=StyleGan2Discriminator,
    fixed=_kernels,
)
