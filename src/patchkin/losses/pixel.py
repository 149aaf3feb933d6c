"""Distances between images, pixel by pixel.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from torch import Tensor

from patchkin.errors import check_same_shape
from patchkin.numerics import widened, without_autocast


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
