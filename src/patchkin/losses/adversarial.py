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

import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import ConfigError, nearest
from patchkin.numerics import widened, without_autocast

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


def _unknown(mode: str) -> ConfigError:
    return ConfigError(
        f"Unknown adversarial mode `{mode}`. {nearest(mode, get_args(AdversarialMode))}"
    )
