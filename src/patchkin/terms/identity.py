"""The identity term: a generator should leave images of its own target domain alone.

Taigman, Polyak and Wolf 2017; CycleGAN, Sec. 5.2. It keeps colours.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from patchkin.losses import pixel_distance
from patchkin.networks import ResNetGenerator, apply_together, match_channels


def with_identity(
    generator: ResNetGenerator, source_BCHW: Tensor, target_BCHW: Tensor, *, identity: bool
) -> tuple[Tensor, Tensor | None]:
    """A generator's translations of its source, and with `identity` what it makes of its target.

    Args:
        generator: receives the gradient.
        source_BCHW: images of its source domain.
        target_BCHW: images of its target domain; grey and colour are made alike.
        identity: whether the second is wanted.

    >>> from patchkin.networks import ResNetConfig
    >>> G_AB = ResNetGenerator(ResNetConfig(ngf=2, blocks=1, in_channels=1))
    >>> fake_b_BCHW, identity_b_BCHW = with_identity(
    ...     G_AB, torch.zeros(2, 1, 8, 8), torch.zeros(1, 3, 8, 8), identity=True
    ... )
    >>> fake_b_BCHW.shape[0], identity_b_BCHW.shape
    (2, torch.Size([1, 3, 8, 8]))
    """
    if not identity:
        return generator(source_BCHW), None
    target_BCHW = match_channels(target_BCHW, source_BCHW.shape[1])
    fake_BCHW, identity_BCHW = apply_together(generator, source_BCHW, target_BCHW)
    return fake_BCHW, identity_BCHW


def tapped_with_identity(
    generator: ResNetGenerator,
    source_BCHW: Tensor,
    target_BCHW: Tensor,
    taps: Sequence[int],
    *,
    identity: bool,
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """`with_identity`, and the features of the source on the way, per tap, with their graph.

    >>> from patchkin.networks import ResNetConfig
    >>> G_AB, x_BCHW = ResNetGenerator(ResNetConfig(ngf=2, blocks=1)), torch.zeros(2, 3, 8, 8)
    >>> fake_b_BCHW, identity_b_BCHW, features = tapped_with_identity(
    ...     G_AB, x_BCHW, x_BCHW, (4, 8), identity=False
    ... )
    >>> fake_b_BCHW.shape[0], identity_b_BCHW, [feature.shape[0] for feature in features]
    (2, None, [2, 2])
    """
    parts = [source_BCHW]
    if identity:
        parts.append(match_channels(target_BCHW, source_BCHW.shape[1]))
    num_images = len(source_BCHW)
    if len({part.shape[2:] for part in parts}) > 1:  # the domains differ in size
        fake_BCHW, features = generator.forward_with_taps(source_BCHW, taps)
        return fake_BCHW, generator(parts[1]), features
    outputs_BCHW, features = generator.forward_with_taps(torch.cat(parts), taps)
    return (
        outputs_BCHW[:num_images],
        outputs_BCHW[num_images:] if identity else None,
        [feature[:num_images] for feature in features],
    )


def identity_terms(
    identity_BCHW: Tensor | None, real_BCHW: Tensor, *, weight: float, suffix: str = ""
) -> dict[str, Tensor]:
    """How much a generator changes images of its target domain, pixel by pixel.

    Args:
        identity_BCHW: what it makes of them; receives the gradient. None: there is no such term.
        real_BCHW: the images.
        weight: lambda_idt.
        suffix: of the term's name.

    Returns:
        `identity`, a scalar, the mean over all values; or nothing.

    >>> identity_terms(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), weight=5.0, suffix="_B")
    {'identity_B': tensor(5.)}
    >>> identity_terms(None, torch.zeros(1, 1, 1, 2), weight=0.0)
    {}
    """
    if identity_BCHW is None:
        return {}
    return {f"identity{suffix}": weight * pixel_distance(identity_BCHW, real_BCHW)}
