"""What CUT and the methods in its setting have in common: one G, one D on the target domain, one F.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from patchkin.config import check_positive
from patchkin.losses import AdversarialMode, Contrast
from patchkin.losses.augmentation import AugmentationKind
from patchkin.losses.contrast import Negatives
from patchkin.networks import (
    ImagePool,
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    ResNetConfig,
    check_channels,
)
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig
from patchkin.terms.adversary import adversarial_terms, check_adversary, discriminator_terms
from patchkin.terms.patches import PatchContrastConfig, check_patches, check_places


@dataclass(frozen=True, kw_only=True, slots=True)
class OneSidedConfig(PatchContrastConfig):
    """Networks, adversary and patches; a method's configuration adds its own losses.

    Defaults are the released CUT.
    """

    generator: ResNetConfig = field(default_factory=ResNetConfig)
    discriminator: PatchGANConfig = field(default_factory=PatchGANConfig)
    initialization: InitConfig = field(default_factory=InitConfig)
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    """For the generator and the projection head."""
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    adversarial: AdversarialMode = "lsgan"
    adversarial_weight: float = 1.0
    """lambda_GAN."""
    augmentation: tuple[AugmentationKind, ...] = ()
    """Random changes of all images that the discriminator sees (Zhao et al. 2020). Ours; not in the
    paper."""
    pool: ImagePoolConfig = field(default_factory=lambda: ImagePoolConfig(capacity=0))
    """Earlier translations that the discriminator sees in place of new ones, as CycleGAN's (50).
    Ours; not in the paper."""
    r1_weight: float = 0.0
    """Of the discriminator's squared slope at real images, per patch. Ours; not in the paper."""
    taps: tuple[int, ...] = (0, 4, 8, 12, 16)
    """Modules of the generator whose output is compared. These have receptive fields of 1, 9, 15,
    35 and 99 pixels in the antialiased generator."""
    head_width: int = 256
    """Length of an embedded patch."""
    temperature: float = 0.07
    """tau of the contrast."""
    identity: bool = True
    """Contrast B with G(B) too (released: nce_idt, dce_idt)."""
    all_negatives: bool = False
    """Contrast with the patches of the whole batch rather than of the same image."""

    def __post_init__(self) -> None:
        PatchContrastConfig.__post_init__(self)
        check_positive(self, "temperature")
        check_patches(self.taps, self.num_patches)
        check_places(
            self,
            self.taps,
            discriminator=self.discriminator,
            adversarial_weight=self.adversarial_weight,
        )
        check_channels(self.generator, self.discriminator)
        check_adversary(self.augmentation, self.r1_weight)

    def image_pool(self) -> ImagePool | None:
        """For translations; None where the discriminator sees the new ones alone."""
        channels = self.generator.out_channels
        return ImagePool(channels, self.pool) if self.pool.capacity else None


TOY: Mapping[str, Any] = {
    # Without a norm: instance norm takes away the colours of sky and grass, which so few steps do
    # not bring back (benchmarks/toy).
    "generator": ResNetConfig(ngf=16, blocks=6, norm="none", antialias_down=False),
    "discriminator": PatchGANConfig(ndf=16, antialias=False),
    "initialization": InitConfig(gain=0.7),
    "generator_adam": AdamConfig(learning_rate=5e-4),
    "discriminator_adam": AdamConfig(learning_rate=2.5e-4),
    "taps": (0, 4, 8, 12, 14),
    "head_width": 64,
    "num_patches": 64,
}
"""Fields of small networks for the built-in toy set, minutes on a CPU."""


def one_sided_contrast(
    config: OneSidedConfig, negatives: Negatives, form: Literal["nce", "dce"] = "nce"
) -> Contrast:
    """The contrast of patches, with what the negatives weigh and whether the positive counts too.

    >>> one_sided_contrast(OneSidedConfig(temperature=0.1), "uniform").temperature
    0.1
    """
    return Contrast(
        form=form,
        negatives=negatives,
        temperature=config.temperature,
        all_negatives=config.all_negatives,
        transport=config.transport,
    )


def shown_to_discriminator(
    pool: ImagePool | None,
    fake_BCHW: Tensor,
    draws: Draws,
    gather: Callable[[Tensor], Tensor],
) -> Tensor:
    """New translations, or what the pool has in place of them; detached.

    Args:
        pool: `OneSidedConfig.image_pool`, or None.
        fake_BCHW: G(A).
        draws: of the step; without a pool nothing is drawn.
        gather: the translations of all processes (`Update.gather`).

    >>> import torch
    >>> from patchkin.randomness import SeededDraws
    >>> shown_to_discriminator(None, torch.ones(1, requires_grad=True), SeededDraws(0, 0), list)
    tensor([1.])
    """
    return fake_BCHW.detach() if pool is None else pool(fake_BCHW, draws, gather)


def one_sided_discriminator_terms(
    network: nn.Module,
    fake_BCHW: Tensor,
    real_BCHW: Tensor,
    config: OneSidedConfig,
    draws: Draws,
) -> dict[str, Tensor]:
    """`discriminator_terms` as configured.

    Args:
        network: D; it receives the gradient.
        fake_BCHW: G(A) or earlier ones, detached here.
        real_BCHW: images of domain B.
        config: tells the adversary, augmentation and R1.
        draws: of the step.
    """
    return discriminator_terms(
        network,
        fake_BCHW.detach(),
        real_BCHW,
        mode=config.adversarial,
        draws=draws,
        augmentation=config.augmentation,
        r1_weight=config.r1_weight,
    )


def one_sided_adversarial_terms(
    network: nn.Module, fake_BCHW: Tensor, config: OneSidedConfig, draws: Draws
) -> dict[str, Tensor]:
    """`adversarial_terms` as configured.

    Args:
        network: D, as it is.
        fake_BCHW: G(A); receives the gradient.
        config: tells the adversary, its weight and the augmentation.
        draws: of the step.
    """
    return adversarial_terms(
        network,
        fake_BCHW,
        mode=config.adversarial,
        weight=config.adversarial_weight,
        draws=draws,
        augmentation=config.augmentation,
    )
