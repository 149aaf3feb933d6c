"""Distances between images, pixel by pixel, or between their features.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from torch import Tensor

from patchkin.errors import check_same_shape
from patchkin.numerics import widened, without_autocast

_EPSILON = 1e-5
"""Added to the variance, as in instance norm."""


def pixel_distance(output_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """The mean absolute difference (L1): CycleGAN's cycle and identity terms, pix2pix's content.

        mean |output - target|

    Args:
        output_BCHW: what a generator made; receives the gradient.
        target_BCHW: what it should have made; receives the gradient too, unless it is an input.

    Returns:
        Scalar, the mean over all values of all images, in float32 or float64.

    Raises:
        ShapeError: if the shapes differ.

    >>> import torch
    >>> pixel_distance(torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[[0.0, 2.0]]]])).item()
    2.0
    """
    check_same_shape(output_BCHW=output_BCHW, target_BCHW=target_BCHW)
    with without_autocast(output_BCHW):
        return (widened(output_BCHW) - widened(target_BCHW)).abs().mean()


def whitened_distance(output_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """The mean square between features whose channels are standardised over each image (MUNIT's
    domain-invariant perceptual loss, Huang et al. 2018, Sec. 5.1).

        mean (norm(output) - norm(target))^2,   norm: instance norm without scale and shift

    Args:
        output_BCHW: features of what a generator made; receives the gradient.
        target_BCHW: features of the image that it was made of; receives the gradient too.

    Returns:
        Scalar, the mean over all values of all images, in float32 or float64; at most 4.

    Raises:
        ShapeError: if the shapes differ.

    >>> import torch
    >>> ramp_BCHW = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> round(whitened_distance(ramp_BCHW, 2 * ramp_BCHW + 1).item(), 4)  # brightness, contrast
    0.0
    >>> round(whitened_distance(ramp_BCHW, -ramp_BCHW).item(), 3)
    4.0
    """
    check_same_shape(output_BCHW=output_BCHW, target_BCHW=target_BCHW)
    with without_autocast(output_BCHW):
        output_BCHW, target_BCHW = widened(output_BCHW), widened(target_BCHW)
        return (_standardized(output_BCHW) - _standardized(target_BCHW)).square().mean()


def _standardized(x_BCHW: Tensor) -> Tensor:
    """By each image's own statistics, written out: torch's kernel can err in the gradient."""
    mean_BC11 = x_BCHW.mean(dim=(2, 3), keepdim=True)
    centred_BCHW = x_BCHW - mean_BC11
    variance_BC11 = centred_BCHW.square().mean(dim=(2, 3), keepdim=True)
    return centred_BCHW / (variance_BC11 + _EPSILON).sqrt()
