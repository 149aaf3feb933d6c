"""The two sides of the adversary: what a discriminator and a generator are to lower.

Two means of ours keep the discriminator steady, off by default and in no paper of these methods:
differentiable augmentation (`losses/augmentation.py`), and R1 on patches.

A method with several discriminators names the terms of each by a suffix, such as `_B` for the one
that judges images of domain B.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.losses import AdversarialMode, fake_loss, generator_loss, r1_penalty, real_loss
from patchkin.losses.augmentation import AugmentationKind, augmented, check_kinds
from patchkin.losses.latent import over_scales
from patchkin.networks import judge_together
from patchkin.networks.munit import MultiScaleDiscriminator, judge_scales_together
from patchkin.numerics import without_autocast
from patchkin.randomness import Draws


def discriminator_terms(
    network: nn.Module,
    fake_BCHW: Tensor,
    real_BCHW: Tensor,
    *,
    mode: AdversarialMode,
    weight: float = 0.5,
    suffix: str = "",
    draws: Draws | None = None,
    augmentation: Collection[AugmentationKind] = (),
    r1_weight: float = 0.0,
    together: bool = True,
) -> dict[str, Tensor]:
    """What a discriminator is to lower: its losses on fake and on real images, and R1.

    Args:
        network: the discriminator; it receives the gradient.
        fake_BCHW: generated images, detached; the gradient ends here.
        real_BCHW: real images; constant.
        mode: the adversarial loss.
        weight: of each of the two losses; half of both is published.
        suffix: of the terms' names.
        draws: of the step, for the augmentation; without that nothing is drawn.
        augmentation: changes of what the discriminator sees; the generator's loss needs the same.
        r1_weight: of `patch_r1`; 0 leaves it out.
        together: judge both kinds in one pass where that changes nothing (`judge_together`). With
            R1 it is two passes in any case.

    Returns:
        `fake`, `real` and perhaps `r1`: scalars, means over logits and images.

    >>> import torch
    >>> from patchkin.networks import PatchGAN, PatchGANConfig
    >>> fake_BCHW, real_BCHW = torch.rand(2, 1, 3, 32, 32)
    >>> D_B = PatchGAN(PatchGANConfig(ndf=2))
    >>> sorted(discriminator_terms(D_B, fake_BCHW, real_BCHW, mode="lsgan", suffix="_B"))
    ['fake_B', 'real_B']
    """
    seen_fake = _seen(fake_BCHW, augmentation, draws)
    if not r1_weight:
        seen_real = _seen(real_BCHW, augmentation, draws)
        judged = judge_together if together else _judge_apart
        fake_logits, real_logits = judged(network, seen_fake, seen_real)
        penalties = {}
    else:
        fake_logits = network(seen_fake)
        real_BCHW = real_BCHW.detach().requires_grad_()
        with without_autocast(real_BCHW):  # second derivatives are too small for 16 bits
            real_logits = network(_seen(real_BCHW, augmentation, draws))
        penalties = {f"r1{suffix}": r1_weight * patch_r1(real_logits, real_BCHW)}
    return {
        f"fake{suffix}": weight * fake_loss(mode, fake_logits),
        f"real{suffix}": weight * real_loss(mode, real_logits),
        **penalties,
    }


def adversarial_terms(
    network: nn.Module,
    fake_BCHW: Tensor,
    *,
    mode: AdversarialMode,
    weight: float = 1.0,
    suffix: str = "",
    draws: Draws | None = None,
    augmentation: Collection[AugmentationKind] = (),
) -> dict[str, Tensor]:
    """What a generator is to lower: its images should be taken for real.

    Args:
        network: the discriminator, as it is.
        fake_BCHW: generated images; receive the gradient.
        mode: the adversarial loss.
        weight: lambda_GAN.
        suffix: of the term's name.
        draws: as `discriminator_terms`.
        augmentation: as `discriminator_terms`.

    Returns:
        `adversarial`: a scalar, the mean over logits and images.

    >>> import torch
    >>> from torch.nn import Identity
    >>> adversarial_terms(Identity(), torch.zeros(1, 1, 2, 2), mode="lsgan", weight=3.0)
    {'adversarial': tensor(3.)}
    """
    logits = network(_seen(fake_BCHW, augmentation, draws))
    return {f"adversarial{suffix}": weight * generator_loss(mode, logits)}


def _judge_apart(network: nn.Module, fake_BCHW: Tensor, real_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    return network(fake_BCHW), network(real_BCHW)


def _seen(
    x_BCHW: Tensor, augmentation: Collection[AugmentationKind], draws: Draws | None
) -> Tensor:
    if not augmentation:
        return x_BCHW
    assert draws is not None, "augmentation needs the draws of the step"
    return augmented(x_BCHW, augmentation, draws)


def scale_discriminator_terms(
    network: MultiScaleDiscriminator,
    fake_BCHW: Tensor,
    real_BCHW: Tensor,
    *,
    mode: AdversarialMode,
    weight: float = 1.0,
    suffix: str = "",
) -> dict[str, Tensor]:
    """`discriminator_terms` of a discriminator that judges at several scales, whose losses add up.

    MUNIT and DRIT halve neither loss.

    >>> import torch
    >>> from patchkin.networks.munit import MultiScaleConfig
    >>> fake_BCHW, real_BCHW = torch.rand(2, 1, 3, 32, 32)
    >>> D_A = MultiScaleDiscriminator(3, MultiScaleConfig(width=2, layers=2, scales=2))
    >>> sorted(scale_discriminator_terms(D_A, fake_BCHW, real_BCHW, mode="lsgan", suffix="_A"))
    ['fake_A', 'real_A']
    """
    fake_logits, real_logits = judge_scales_together(network, fake_BCHW, real_BCHW)
    return {
        f"fake{suffix}": weight * over_scales(fake_loss, mode, fake_logits),
        f"real{suffix}": weight * over_scales(real_loss, mode, real_logits),
    }


def scale_adversarial_terms(
    network: nn.Module,
    fake_BCHW: Tensor,
    *,
    mode: AdversarialMode,
    weight: float = 1.0,
    suffix: str = "",
) -> dict[str, Tensor]:
    """`adversarial_terms` against a discriminator that judges at several scales.

    >>> import torch
    >>> def two_scales(x_BCHW):
    ...     return [x_BCHW, x_BCHW[..., ::2]]
    >>> scale_adversarial_terms(two_scales, torch.zeros(1, 1, 2, 2), mode="lsgan", suffix="_A")
    {'adversarial_A': tensor(2.)}
    """
    return {f"adversarial{suffix}": weight * over_scales(generator_loss, mode, network(fake_BCHW))}


def patch_r1(logits: Tensor, real_BCHW: Tensor) -> Tensor:
    """R1 of a discriminator that judges P patches of an image: 1/2 |d sum_p logits / d real|^2 / P.

    The slope of the sum grows with the number of pixels, as does P, so that a weight means the same
    for any image size; with one logit per image this is R1 (`r1_penalty`).

    Args:
        logits: [B, 1, h, w] or [B, 1], what the discriminator says of `real_BCHW`.
        real_BCHW: the real images, which required a gradient then; constant.

    Returns:
        Scalar, averaged over images, in float32 or float64.

    >>> import torch
    >>> real_BCHW = torch.ones(1, 1, 2, 2, requires_grad=True)
    >>> patch_r1(3 * real_BCHW, real_BCHW).item()  # four places, 9 each
    4.5
    """
    return r1_penalty(logits, real_BCHW) / logits[0].numel()


def check_adversary(augmentation: Collection[str], r1_weight: float) -> None:
    """Refuse settings that `discriminator_terms` does not take.

    Raises:
        ConfigError: an unknown augmentation, or a negative weight.

    >>> check_adversary(["colour"], 0.0)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: Unknown augmentation `colour`. Did you mean `color`?
    """
    check_kinds(augmentation)
    if r1_weight < 0:
        raise ConfigError(f"`r1_weight` must not be negative; got {r1_weight}.")
