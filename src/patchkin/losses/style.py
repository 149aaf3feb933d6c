"""Losses on styles (StarGAN v2; Choi et al. 2020, Sec. 2.2).

The cycle term beside them is `pixel_distance`, the discriminator's penalty `r1_penalty`.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from torch import Tensor

from patchkin.errors import ConfigError, check_same_shape
from patchkin.losses.pixel import pixel_distance
from patchkin.numerics import widened, without_autocast


def style_distance(encoded_BS: Tensor, style_BS: Tensor) -> Tensor:
    """Style reconstruction L_sty (Eq. 2): the style read from an image is the one it was given.

        mean |E(G(x, s)) - s|

    Args:
        encoded_BS: styles that E reads from generated images; receives the gradient.
        style_BS: the styles they were made in; receives the gradient too, as released.

    Returns:
        Scalar, the mean over the numbers of all styles, in float32 or float64.

    Raises:
        ShapeError: if the shapes differ.

    >>> import torch
    >>> style_distance(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 2.0]])).item()
    2.0
    """
    check_same_shape(encoded_BS=encoded_BS, style_BS=style_BS)
    with without_autocast(encoded_BS):
        return (widened(encoded_BS) - widened(style_BS)).abs().mean()


def style_diversity(output_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
    """Diversity of styles L_ds (Eq. 3): how far apart an image's translations in two styles are.

        mean |G(x, s) - G(x, s')|

    It is to be large, so it enters a loss with its sign turned.

    Args:
        output_BCHW: G(x, s); receives the gradient.
        other_BCHW: G(x, s'); constant, as released.

    Returns:
        Scalar, the mean over all values of all images, in float32 or float64.

    Raises:
        ShapeError: if the shapes differ.

    >>> import torch
    >>> style_diversity(torch.tensor([[[[1.0, -1.0]]]]), torch.zeros(1, 1, 1, 2)).item()
    1.0
    """
    return pixel_distance(output_BCHW, other_BCHW.detach())


def fading_weight(start: float, step: int, fade_steps: int) -> float:
    """The weight of the diversity term, which falls linearly to 0 and stays there (Sec. 2.2).

    It follows from the step alone, so a resumed run goes on where it was; the released code starts
    again at `start`, and lets the weight end at -1e-5 instead of 0.

    Args:
        start: lambda_ds at step 0.
        step: steps done before this one.
        fade_steps: steps after which it is 0.

    Raises:
        ConfigError: if there are no steps to fade over.

    >>> [fading_weight(2.0, step, fade_steps=4) for step in (0, 1, 4, 5)]
    [2.0, 1.5, 0.0, 0.0]
    """
    if fade_steps < 1:
        raise ConfigError(f"`fade_steps` must be at least 1; got {fade_steps}.")
    return start * max(0.0, 1 - step / fade_steps)
