"""StarGAN v2 (Choi et al., CVPR 2020): its losses joined with its networks, for its two methods.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from patchkin.config import check_at_least_one
from patchkin.data.domains import DomainBatch
from patchkin.losses import fake_loss, generator_loss, pixel_distance, r1_penalty, real_loss
from patchkin.losses.style import fading_weight, style_distance, style_diversity
from patchkin.networks import InitConfig
from patchkin.networks.starganv2 import (
    DomainDiscriminator,
    MappingNetwork,
    StyleEncoder,
    StyleGenerator,
    StyleNetworksConfig,
    StyleTask,
    same_domain,
    style_of,
)
from patchkin.numerics import without_autocast
from patchkin.randomness import Draws, SeededDraws, sent
from patchkin.schedules import AdamConfig

_ADAM = AdamConfig(learning_rate=1e-4, beta1=0.0, beta2=0.99, weight_decay=1e-4)
_MAPPING_ADAM = replace(_ADAM, learning_rate=1e-6)


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleConfig:
    """Networks, learning rates and weights. Defaults are the published values for AFHQ."""

    networks: StyleNetworksConfig = field(default_factory=StyleNetworksConfig)
    initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="kaiming"))
    adam: AdamConfig = _ADAM
    """Of G, E and D, and of a head."""
    mapping_adam: AdamConfig = _MAPPING_ADAM
    """Of F."""
    penalty_weight: float = 1.0
    """lambda_reg, of R1 (which has a factor 1/2)."""
    style_weight: float = 1.0
    """lambda_sty."""
    diversity_weight: float = 2.0
    """lambda_ds at the start; it falls linearly to 0 (2 for AFHQ, 1 for CelebA-HQ)."""
    diversity_steps: int | None = None
    """Steps until lambda_ds is 0; the whole run unless given (released: 100,000 of 100,000)."""
    cycle_weight: float = 1.0
    """lambda_cyc."""
    micro_batch: int | None = None
    """Images whose graph is kept at once. The gradient is that of the whole batch, since no image
    sees another; less memory, a little more time."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "diversity_steps", "micro_batch")


def diversity_weight(config: StyleConfig, step: int, total_steps: int) -> float:
    """lambda_ds after `step` of `total_steps`.

    >>> diversity_weight(StyleConfig(diversity_weight=2.0), 25, total_steps=100)
    1.5
    """
    return fading_weight(config.diversity_weight, step, config.diversity_steps or total_steps)


TOY: Mapping[str, Any] = {
    "networks": StyleNetworksConfig(
        num_domains=3,
        image_size=64,
        base_width=16,
        max_width=64,
        style_width=16,
        latent_width=8,
        hidden_width=64,
    ),
    "adam": replace(_ADAM, learning_rate=5e-4),  # few steps
    "mapping_adam": replace(_ADAM, learning_rate=5e-6),
}
"""Fields of small networks for three domains of 64 pixels, minutes on a CPU."""


class StyleNetworks(Protocol):
    """What has the networks of StarGAN v2."""

    G: StyleGenerator
    F: MappingNetwork
    E: StyleEncoder
    D: DomainDiscriminator

    @property
    def config(self) -> StyleConfig:
        """Its configuration."""
        ...


def style_tasks(
    networks: StyleNetworks, batch: DomainBatch, draws: Draws
) -> dict[str, list[StyleTask]]:
    """The two tasks of a step, in parts: styles of random latents, and of reference images.

    Args:
        networks: say how long a latent is, and how many images a part has.
        batch: images and two references for each.
        draws: two latents for each image.
    """
    micro_batch = networks.config.micro_batch
    images = (batch.x_BCHW, batch.domain_B, batch.target_B)
    latents = [
        sent(draws.normal_rows(len(batch), networks.F.latent_width), batch.x_BCHW) for _ in range(2)
    ]
    references = (batch.reference_BCHW, batch.second_reference_BCHW)
    return {
        "latent": StyleTask(*images, *latents).split(micro_batch),
        "reference": StyleTask(*images, *references).split(micro_batch),
    }


@torch.no_grad()
def style_translated(networks: StyleNetworks, task: StyleTask) -> Tensor:
    """G(x, s) in the task's styles, without graph."""
    style_BS = style_of(networks.F, networks.E, task.source, task.target_B)
    fake_BCHW: Tensor = networks.G(task.x_BCHW, style_BS)
    return fake_BCHW


def style_discriminator_terms(
    networks: StyleNetworks, task: StyleTask, kind: str
) -> dict[str, Tensor]:
    """The discriminator's side, L_adv of Eq. 1 and R1: each image as one of its own domain.

    Args:
        networks: D receives the gradient.
        task: images and the styles to translate them in.
        kind: of the task, in front of the terms' names.
    """
    fake_logits = networks.D(style_translated(networks, task), task.target_B)
    with without_autocast(task.x_BCHW):  # the penalty squares gradients too small for 16 bits
        real_BCHW = task.x_BCHW.detach().requires_grad_()
        real_logits = networks.D(real_BCHW, task.domain_B)
        penalty = r1_penalty(real_logits, real_BCHW)
    return {
        f"{kind}_real": real_loss("vanilla", real_logits),
        f"{kind}_fake": fake_loss("vanilla", fake_logits),
        f"{kind}_penalty": networks.config.penalty_weight * penalty,
    }


def style_generator_terms(
    networks: StyleNetworks,
    task: StyleTask,
    *,
    style_BS: Tensor,
    encoding_BCHW: Tensor,
    fake_BCHW: Tensor,
    returning_BCHW: Tensor,
    diversity_weight: float,
) -> dict[str, Tensor]:
    """The generator's side: L_adv, L_sty, -L_ds and L_cyc (Eq. 1 to 4).

    Args:
        networks: G receives the gradient, and F and E as far as they made the styles.
        task: images and the styles to translate them in.
        style_BS: of the task's first source.
        encoding_BCHW: of the images.
        fake_BCHW: the images in these styles.
        returning_BCHW: the encoding that becomes the images again, in their own style: of
            `fake_BCHW`.
        diversity_weight: lambda_ds, as of now.
    """
    config = networks.config
    target_B = task.target_B
    cycled_BCHW = networks.G.decoded(returning_BCHW, networks.E(task.x_BCHW, task.domain_B))
    with torch.no_grad():  # last: under autocast it would leave weights without graph behind
        second_BS = style_of(networks.F, networks.E, task.second_source, target_B)
        second_BCHW = networks.G.decoded(encoding_BCHW, second_BS)
    style = style_distance(networks.E(fake_BCHW, target_B), style_BS)
    diversity = style_diversity(fake_BCHW, second_BCHW)
    return {
        "adversarial": generator_loss("vanilla", networks.D(fake_BCHW, target_B)),
        "style": config.style_weight * style,
        "diversity": -diversity_weight * diversity,
        "cycle": config.cycle_weight * pixel_distance(cycled_BCHW, task.x_BCHW),
    }


def domain_latent_styles(
    networks: StyleNetworks, draws: Draws, *, count: int, domain: int
) -> Tensor:
    """Styles of random latents, F(z, domain), [count, S].

    Raises:
        ConfigError: there is no such domain.
    """
    num_domains = networks.config.networks.num_domains
    return networks.F.random_styles(draws, same_domain(domain, count, num_domains))


def domain_reference_styles(
    networks: StyleNetworks, reference_BCHW: Tensor, *, domain: int
) -> Tensor:
    """Styles of images of a domain, E(x, domain), [B, S].

    Raises:
        ConfigError: there is no such domain.
        ShapeError: an image is smaller than `image_size`.
    """
    num_domains = networks.config.networks.num_domains
    domain_B = same_domain(domain, len(reference_BCHW), num_domains)
    styles_BS: Tensor = networks.E(reference_BCHW, sent(domain_B, reference_BCHW.device))
    return styles_BS


def domain_translated(networks: StyleNetworks, x_BCHW: Tensor, styles_BS: Tensor | None) -> Tensor:
    """G(x, s); unless given, s is one random style of the first domain, always the same."""
    if styles_BS is None:
        styles_1S = domain_latent_styles(networks, SeededDraws(0, 0), count=1, domain=0)
        styles_BS = styles_1S.expand(len(x_BCHW), -1)
    y_BCHW: Tensor = networks.G(x_BCHW, styles_BS)
    return y_BCHW


def domain_previews(networks: StyleNetworks, batch: DomainBatch) -> dict[str, Tensor]:
    """Input, a random style of the target domain, a reference, its style, and back again."""
    random_BS = networks.F.random_styles(SeededDraws(0, 0), batch.target_B)
    styled_BCHW = networks.G(batch.x_BCHW, networks.E(batch.reference_BCHW, batch.target_B))
    return {
        "input": batch.x_BCHW,
        "random style": networks.G(batch.x_BCHW, random_BS),
        "reference": batch.reference_BCHW,
        "in its style": styled_BCHW,
        "back": networks.G(styled_BCHW, networks.E(batch.x_BCHW, batch.domain_B)),
    }
