"""The discriminator's side of one-sided methods, with two means of ours to keep it steady.

Both are off by default, and in no paper of these methods: differentiable augmentation
(`losses/augmentation.py`), and R1 on patches. They join networks and losses.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.losses import AdversarialMode, fake_loss, r1_penalty, real_loss
from patchkin.losses.augmentation import AugmentationKind, augmented, check_kinds
from patchkin.networks import judge_together
from patchkin.numerics import without_autocast
from patchkin.randomness import Draws


def discriminator_terms(
    network: nn.Module,
    fake_BCHW: Tensor,
    real_BCHW: Tensor,
    *,
    mode: AdversarialMode,
    draws: Draws,
    augmentation: Collection[AugmentationKind] = (),
    r1_weight: float = 0.0,
) -> dict[str, Tensor]:
    """What a discriminator is to lower: half of its losses on fake and real, and R1.

    Args:
        network: the discriminator; it receives the gradient.
        fake_BCHW: generated images, detached; the gradient ends here.
        real_BCHW: real images; constant.
        mode: the adversarial loss.
        draws: of the step. Without augmentation nothing is drawn.
        augmentation: changes of what the discriminator sees; the generator's loss needs the same.
        r1_weight: of `patch_r1`.

    >>> import torch
    >>> from patchkin.networks import PatchGAN, PatchGANConfig
    >>> from patchkin.randomness import SeededDraws
    >>> images = torch.rand(2, 1, 3, 32, 32)
    >>> judge = PatchGAN(PatchGANConfig(ndf=2))
    >>> sorted(discriminator_terms(judge, *images, mode="lsgan", draws=SeededDraws(0, 0)))
    ['fake', 'real']
    """
    seen_fake = augmented(fake_BCHW, augmentation, draws)
    if not r1_weight:
        seen_real = augmented(real_BCHW, augmentation, draws)
        fake_logits, real_logits = judge_together(network, seen_fake, seen_real)
        penalties = {}
    else:
        fake_logits = network(seen_fake)
        real_BCHW = real_BCHW.detach().requires_grad_()
        with without_autocast(real_BCHW):  # second derivatives are too small for 16 bits
            real_logits = network(augmented(real_BCHW, augmentation, draws))
        penalties = {"r1": r1_weight * patch_r1(real_logits, real_BCHW)}
    return {
        "fake": 0.5 * fake_loss(mode, fake_logits),
        "real": 0.5 * real_loss(mode, real_logits),
        **penalties,
    }


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
