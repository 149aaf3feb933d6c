"""Distances that a translation should keep: between images, or between the halves of one.

Shape suffixes: B images, C channels, H and W pixels, N distances.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from patchkin.errors import ShapeError, check_same_shape
from patchkin.numerics import widened, without_autocast


class Spread(NamedTuple):
    """Where the distances of a domain lie."""

    expectation: Tensor
    """E, a scalar."""
    deviation: Tensor
    """S, a positive scalar."""


def pair_distances(x_BCHW: Tensor) -> Tensor:
    """The mean absolute difference of every two images (DistanceGAN; Benaim and Wolf 2017).

    Args:
        x_BCHW: at least two images (or tensors of any other shape); receives the gradient.

    Returns:
        [B (B - 1) / 2], of images (0, 1), (0, 2), ..., (1, 2), ..., in float32 or float64.

    Raises:
        ShapeError: if there are fewer than two images.

    >>> pair_distances(torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1))
    tensor([1., 3., 2.])
    """
    if len(x_BCHW) < 2:
        raise ShapeError(
            f"Distances between images need at least 2 of them; got {len(x_BCHW)}. "
            "Use a larger batch, or distances within an image."
        )
    with without_autocast(x_BCHW):
        rows_BN = widened(x_BCHW).flatten(1)
        return torch.cat(
            [(rows_BN[i + 1 :] - rows_BN[i]).abs().mean(dim=1) for i in range(len(rows_BN) - 1)]
        )


def half_distances(x_BCHW: Tensor) -> Tensor:
    """The mean absolute difference of the top and the bottom half of each image.

    Of an odd number of rows the middle one is in neither half.

    Args:
        x_BCHW: images; receives the gradient.

    Returns:
        [B], in float32 or float64.

    Raises:
        ShapeError: if the images have fewer than two rows.

    >>> half_distances(torch.tensor([0.0, 5.0, 3.0]).view(1, 1, 3, 1))
    tensor([3.])
    """
    half = x_BCHW.shape[-2] // 2
    if half == 0:
        raise ShapeError(f"Halves need at least 2 rows; got {tuple(x_BCHW.shape)}.")
    with without_autocast(x_BCHW):
        x_BCHW = widened(x_BCHW)
        top, bottom = x_BCHW[..., :half, :], x_BCHW[..., -half:, :]
        return (top - bottom).abs().flatten(1).mean(dim=1)


def spread(distances_N: Tensor) -> Spread:
    """Mean and population standard deviation, by which `distance_preservation` standardises.

    Without any spread (a single distance) the deviation is given as 1.

    >>> spread(torch.tensor([1.0, 3.0]))
    Spread(expectation=tensor(2.), deviation=tensor(1.))
    """
    deviation = distances_N.std(correction=0)
    return Spread(distances_N.mean(), torch.where(deviation > 0, deviation, 1.0))


def distance_preservation(
    source_N: Tensor, output_N: Tensor, source_spread: Spread, output_spread: Spread
) -> Tensor:
    """Standardised distances should not change (Benaim and Wolf 2017).

        mean | (d(x_i, x_j) - E_A) / S_A - (d(G(x_i), G(x_j)) - E_B) / S_B |

    Args:
        source_N: distances of the inputs.
        output_N: the same distances of the outputs; receives the gradient.
        source_spread: E_A and S_A, of the source domain.
        output_spread: E_B and S_B, of the target domain.

    Returns:
        Scalar, the mean over distances.

    Raises:
        ShapeError: if the numbers of distances differ.

    >>> unit = Spread(torch.tensor(0.0), torch.tensor(1.0))
    >>> distance_preservation(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]), unit, unit)
    tensor(1.)
    """
    check_same_shape(source_N=source_N, output_N=output_N)
    with without_autocast(output_N):
        source = (widened(source_N) - source_spread.expectation) / source_spread.deviation
        output = (widened(output_N) - output_spread.expectation) / output_spread.deviation
        return (source - output).abs().mean()
