"""DRIT's codes: what images of both domains are made of, exchanged and joined (Lee et al. 2018).

Shape suffixes: B images, C channels, H and W pixels, S numbers of an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses.latent import mean_square, normal_divergence
from patchkin.networks.drit import (
    SIDES,
    Attribute,
    AttributeEncoder,
    DritGenerator,
    SharedContentEncoder,
    Side,
)
from patchkin.randomness import Draws, sent

_LAST_STEPS = 2
"""Of an epoch, in which the released code lets all networks learn."""

BySide = Mapping[Side, Tensor]
"""Something of each domain."""


class DritNetworks(Protocol):
    """What has DRIT's encoders and generator."""

    E_content: SharedContentEncoder
    E_attribute: AttributeEncoder
    G: DritGenerator


class Codes(NamedTuple):
    """What images of both domains are made of."""

    content: BySide
    attribute: Mapping[Side, Attribute]
    z_BS: BySide
    """Drawn from the attributes."""


def content_noise(networks: DritNetworks, images: BySide, deviation: float, draws: Draws) -> BySide:
    """Noise of the size of the images' contents."""
    return {
        side: deviation
        * sent(
            draws.normal_rows(len(images[side]), *networks.E_content.map_shape(images[side])),
            images[side],
        )
        for side in SIDES
    }


def contents_of(networks: DritNetworks, images: BySide, noise: BySide) -> BySide:
    """E_c(a) and E_c(b), with noise."""
    return {side: networks.E_content(images[side], side) + noise[side] for side in SIDES}


def encoded(networks: DritNetworks, images: BySide, noise: BySide, draws: Draws) -> Codes:
    """Images of both domains, taken apart; draws their z."""
    attributes = {side: networks.E_attribute(images[side], side) for side in SIDES}
    z_BS = {
        side: attributes[side].sample(
            draws.normal_rows(len(images[side]), attributes[side].mean_BS.shape[1])
        )
        for side in SIDES
    }
    return Codes(contents_of(networks, images, noise), attributes, z_BS)


def exchanged(networks: DritNetworks, contents: BySide, z_BS: BySide) -> BySide:
    """Images of each domain with the contents of the other: u = G(c_b, z_a), v = G(c_a, z_b)."""
    return {
        "A": networks.G(contents["B"], z_BS["A"], "A"),
        "B": networks.G(contents["A"], z_BS["B"], "B"),
    }


def exchanged_at_random(
    networks: DritNetworks, contents: BySide, latents_BS: Sequence[Tensor]
) -> BySide:
    """`exchanged` with z ~ N(0, I): the images of the first z, and behind them of the second."""
    repeated = {side: torch.cat([contents[side]] * len(latents_BS)) for side in SIDES}
    return exchanged(networks, repeated, dict.fromkeys(SIDES, torch.cat(list(latents_BS))))


def prior_loss(attribute: Attribute) -> Tensor:
    """How far an attribute is from N(0, I); where it is a vector, its mean square."""
    if attribute.log_variance_BS is None:
        return mean_square(attribute.mean_BS)
    return normal_divergence(attribute.mean_BS, attribute.log_variance_BS)


class Counted(Protocol):
    """Where in a run a step stands."""

    @property
    def step(self) -> int:
        """Steps done before this one."""
        ...

    @property
    def total_steps(self) -> int:
        """Of the run."""
        ...

    @property
    def total_epochs(self) -> int | None:
        """None for a run that is counted in steps."""
        ...


def all_learn(progress: Counted, *, every: int) -> bool:
    """Whether all networks learn in a step, or the discriminator of contents alone.

    All learn in every so many steps of an epoch and in its last two, as released; in a run without
    epochs, in every so many steps.

    >>> from types import SimpleNamespace
    >>> def learn(step, epochs):
    ...     run = SimpleNamespace(step=step, total_steps=10, total_epochs=epochs)
    ...     return all_learn(run, every=3)
    >>> [learn(step, 2) for step in range(6)], [learn(step, None) for step in range(6)]
    ([False, False, True, True, True, False], [False, False, True, False, False, True])
    """
    if progress.total_epochs is None:
        return (progress.step + 1) % every == 0
    steps_per_epoch = progress.total_steps // progress.total_epochs
    place = progress.step % steps_per_epoch
    return place >= steps_per_epoch - _LAST_STEPS or (place + 1) % every == 0


def dealt(batch: UnpairedBatch, *, split: bool) -> tuple[BySide, BySide]:
    """Images to encode, and images to show to D_A2 and D_B2: two halves of a batch, or all twice.

    Raises:
        ConfigError: a single image cannot be split.
    """
    images: BySide = {"A": batch.a_BCHW, "B": batch.b_BCHW}
    if not split:
        return images, images
    if len(batch) < 2:
        raise ConfigError(
            f"`split_batch` halves the batch, which must have at least 2 images; got {len(batch)}. "
            "Use --batch-size 2 or more, or set it to false."
        )
    half = len(batch) // 2
    return (
        {side: images[side][:half] for side in SIDES},
        {side: images[side][half:] for side in SIDES},
    )
