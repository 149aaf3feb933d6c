"""Adversarial losses on logits of any shape, averaged over all of their entries.

The mean over entries and images makes the loss of a batch the mean of its images' losses.

    mode             D on real            D on fake            G on fake
    lsgan            (x - 1)^2            x^2                  (x - 1)^2            Mao et al. 2017
    vanilla          softplus(-x)         softplus(x)          softplus(-x)         Goodfellow 2014
    nonsaturating    the same numbers; the name StyleGAN2 and SinCUT use
    hinge            relu(1 - x)          relu(1 + x)          -x                   Lim, Ye 2017
    hinge-clipped    relu(1 - x)          relu(1 + x)          relu(1 - x)          DCLGAN's code
    wgan             -x                   x                    -x                   Arjovsky 2017
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import ConfigError, nearest
from patchkin.numerics import widened, without_autocast
from patchkin.randomness import sent

AdversarialMode = Literal["lsgan", "vanilla", "nonsaturating", "hinge", "hinge-clipped", "wgan"]
"""Which loss the discriminator and the generator play. wgan has no penalty on the critic here."""


def real_loss(mode: AdversarialMode, logits: Tensor) -> Tensor:
    """The discriminator's loss on real images.

    Args:
        mode: a row of the table above.
        logits: what the discriminator says of real images, any shape; receives the gradient.

    Returns:
        Scalar, the mean over all entries, in float32 or float64.

    Raises:
        ConfigError: if the mode is unknown.

    >>> import torch
    >>> real_loss("lsgan", torch.tensor([[1.0, 3.0]])).item()
    2.0
    """
    with without_autocast(logits):
        x = widened(logits)
        match mode:
            case "lsgan":
                return (x - 1).square().mean()
            case "vanilla" | "nonsaturating":
                return nnf.softplus(-x).mean()
            case "hinge" | "hinge-clipped":
                return nnf.relu(1 - x).mean()
            case "wgan":
                return -x.mean()
    raise _unknown(mode)


def fake_loss(mode: AdversarialMode, logits: Tensor) -> Tensor:
    """The discriminator's loss on generated images.

    Args:
        mode: a row of the table above.
        logits: what the discriminator says of generated images, which the caller has detached from
            the generator; any shape; receives the gradient.

    Returns:
        Scalar, the mean over all entries, in float32 or float64.

    Raises:
        ConfigError: if the mode is unknown.

    >>> import torch
    >>> fake_loss("hinge", torch.tensor([-3.0, 1.0])).item()
    1.0
    """
    with without_autocast(logits):
        x = widened(logits)
        match mode:
            case "lsgan":
                return x.square().mean()
            case "vanilla" | "nonsaturating":
                return nnf.softplus(x).mean()
            case "hinge" | "hinge-clipped":
                return nnf.relu(1 + x).mean()
            case "wgan":
                return x.mean()
    raise _unknown(mode)


def generator_loss(mode: AdversarialMode, logits: Tensor) -> Tensor:
    """The generator's loss: its images should be taken for real.

    Args:
        mode: a row of the table above.
        logits: what the discriminator says of generated images, any shape; receives the gradient.

    Returns:
        Scalar, the mean over all entries, in float32 or float64.

    Raises:
        ConfigError: if the mode is unknown.

    >>> import torch
    >>> logits = torch.tensor([3.0])
    >>> generator_loss("hinge", logits).item(), generator_loss("hinge-clipped", logits).item()
    (-3.0, 0.0)
    """
    return real_loss("wgan" if mode == "hinge" else mode, logits)


def r1_penalty(logits: Tensor, real_BCHW: Tensor) -> Tensor:
    """How steeply the discriminator's judgement changes around real images (R1; Mescheder, Geiger
    and Nowozin 2018, Eq. 9; StyleGAN2, StarGAN v2, SinCUT).

        1/2 mean_b || d logits_b / d real_b ||^2

    Args:
        logits: what the discriminator says of `real_BCHW`; several of an image are added up. The
            gradient of the penalty goes through their graph a second time.
        real_BCHW: the real images that were judged, which required a gradient then; constant.

    Returns:
        Scalar, squared gradients summed over an image's values and averaged over images, in
        float32 or float64.

    >>> real_BCHW = torch.ones(2, 1, 1, 3, requires_grad=True)
    >>> r1_penalty(2 * real_BCHW.sum(dim=(1, 2, 3)), real_BCHW).item()  # 1/2 (4 + 4 + 4)
    6.0
    """
    with without_autocast(logits):
        (slope_BCHW,) = torch.autograd.grad(widened(logits).sum(), real_BCHW, create_graph=True)
        return 0.5 * widened(slope_BCHW).square().flatten(1).sum(dim=1).mean()


def slope_penalty(logits: Tensor, mixed_BCHW: Tensor) -> Tensor:
    """How far the discriminator's slope is from 1 (WGAN-GP; Gulrajani et al. 2017, Eq. 3).

        mean_b ( || d logits_b / d mixed_b || - 1 )^2

    Args:
        logits: what the discriminator says of `mixed_BCHW`; several of an image are added up. The
            gradient of the penalty goes through their graph a second time.
        mixed_BCHW: images between real and generated ones (`mixed_images`), which required a
            gradient then; constant.

    Returns:
        Scalar in float32 or float64.

    >>> mixed_BCHW = torch.ones(2, 1, 2, 2, requires_grad=True)
    >>> slope_penalty(mixed_BCHW.sum(dim=(1, 2, 3)), mixed_BCHW).item()  # slopes of length 2
    1.0
    """
    with without_autocast(logits):
        (slope_BCHW,) = torch.autograd.grad(widened(logits).sum(), mixed_BCHW, create_graph=True)
        rows_BN = widened(slope_BCHW).flatten(1)
        # A slope of exactly 0 has no direction: with this its gradient is 0, not NaN.
        lengths_B = (rows_BN.square().sum(dim=1) + torch.finfo(rows_BN.dtype).tiny).sqrt()
        return (lengths_B - 1).square().mean()


def mixed_images(real_BCHW: Tensor, fake_BCHW: Tensor, share_B111: Tensor) -> Tensor:
    """Images share real + (1 - share) fake, without graph and requiring a gradient.

    >>> real_BCHW, fake_BCHW = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    >>> mixed_images(real_BCHW, fake_BCHW, torch.full((1, 1, 1, 1), 0.25))
    tensor([[[[0.2500, 0.2500]]]], requires_grad=True)
    """
    share_B111 = sent(share_B111, real_BCHW)
    mixed_BCHW = share_B111 * real_BCHW.detach() + (1 - share_B111) * fake_BCHW.detach()
    return mixed_BCHW.requires_grad_()


def _unknown(mode: str) -> ConfigError:
    return ConfigError(
        f"Unknown adversarial mode `{mode}`. {nearest(mode, get_args(AdversarialMode))}"
    )
