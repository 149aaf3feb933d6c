"""Losses on codes: what encoders find in an image, and what the image was made from.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import ConfigError, check_same_shape
from patchkin.losses.adversarial import AdversarialMode
from patchkin.numerics import widened, without_autocast

_EPSILON = 1e-5


def code_distance(code: Tensor, target: Tensor) -> Tensor:
    """The mean absolute difference of two codes (MUNIT Eq. 2 and 3, DRIT's latent regression).

    Args:
        code: found in a generated image, any shape; receives the gradient.
        target: what the image was made from; receives the gradient too.

    Returns:
        Scalar, in float32 or float64.

    Raises:
        ShapeError: if the shapes differ.

    >>> code_distance(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 2.0]])).item()
    2.0
    """
    check_same_shape(code=code, target=target)
    with without_autocast(code):
        return (widened(code) - widened(target)).abs().mean()


def normal_divergence(mean_BS: Tensor, log_variance_BS: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)), summed over the numbers of a style, mean over images.

        -1/2 sum (1 + log variance - mean^2 - variance)

    Args:
        mean_BS: receives the gradient.
        log_variance_BS: receives the gradient.

    Returns:
        Scalar, in float32 or float64.

    Raises:
        ShapeError: if the shapes differ.

    >>> normal_divergence(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)).item()
    2.5
    """
    check_same_shape(mean_BS=mean_BS, log_variance_BS=log_variance_BS)
    with without_autocast(mean_BS):
        mean, log_variance = widened(mean_BS), widened(log_variance_BS)
        numbers_BS = mean.square() + log_variance.exp() - log_variance - 1
        return 0.5 * numbers_BS.sum(dim=1).mean()


def mean_square(code: Tensor) -> Tensor:
    """The mean of the squares of a code, any shape: keeps it near 0 (DRIT, as released).

    >>> mean_square(torch.tensor([1.0, -3.0])).item()
    5.0
    """
    with without_autocast(code):
        return widened(code).square().mean()


def undecided_loss(logits: Tensor) -> Tensor:
    """Cross-entropy against one half: a discriminator should not know (DRIT's content adversary).

        mean (log(1 + exp(x)) - x / 2),   least, log 2, at x = 0.

    Args:
        logits: any shape; receives the gradient.

    Returns:
        Scalar, the mean over all entries, in float32 or float64.

    >>> round(undecided_loss(torch.zeros(3)).item(), 4)
    0.6931
    """
    with without_autocast(logits):
        x = widened(logits)
        return (nnf.softplus(x) - 0.5 * x).mean()


def mode_seeking(
    one_BCHW: Tensor, other_BCHW: Tensor, one_style_BS: Tensor, other_style_BS: Tensor
) -> Tensor:
    """Two styles should give two images (Mao et al. 2019; DRIT++).

        1 / (mean |I1 - I2| / mean |z1 - z2| + 1e-5)   per image.

    The released code, which works on one image, leaves open what a batch is: here every image has
    its own ratio, and the loss is their mean.

    Args:
        one_BCHW: images in the one style; receives the gradient.
        other_BCHW: the same content in the other style; receives the gradient.
        one_style_BS: z1.
        other_style_BS: z2.

    Returns:
        Scalar, in float32 or float64.

    Raises:
        ShapeError: if the shapes of images or of styles differ.

    >>> ones_BCHW, style_BS = torch.ones(1, 3, 2, 2), torch.ones(1, 8)
    >>> round(mode_seeking(ones_BCHW, -ones_BCHW, style_BS, 5 * style_BS).item(), 3)
    2.0
    """
    check_same_shape(one_BCHW=one_BCHW, other_BCHW=other_BCHW)
    check_same_shape(one_style_BS=one_style_BS, other_style_BS=other_style_BS)
    with without_autocast(one_BCHW):
        images_B = (widened(one_BCHW) - widened(other_BCHW)).abs().mean(dim=(1, 2, 3))
        styles_B = (widened(one_style_BS) - widened(other_style_BS)).abs().mean(dim=1)
        return (1 / (images_B / styles_B + _EPSILON)).mean()


def over_scales(
    loss: Callable[[AdversarialMode, Tensor], Tensor],
    mode: AdversarialMode,
    logits: Sequence[Tensor],
) -> Tensor:
    """The sum over scales of an adversarial loss, each the mean over its logits.

    Args:
        loss: `real_loss`, `fake_loss` or `generator_loss`.
        mode: of the adversary.
        logits: what a multi-scale discriminator says, scale by scale.

    Raises:
        ConfigError: if there are no logits, or the mode is unknown.

    >>> from patchkin.losses import real_loss
    >>> over_scales(real_loss, "lsgan", [torch.tensor([0.0, 2.0]), torch.tensor([4.0])]).item()
    10.0
    """
    if not logits:
        raise ConfigError("A multi-scale loss needs the logits of at least one scale; got none.")
    return torch.stack([loss(mode, scale) for scale in logits]).sum()
