"""Transformation vectors: the differences between images should survive translation (TraVeLGAN).

Shape suffixes: B images, D numbers that a siamese network makes of an image, S shifts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from patchkin.errors import ShapeError, check_same_shape
from patchkin.numerics import widened, without_autocast

_EPSILON = 1e-12


class TravelLosses(NamedTuple):
    """What generators and siamese network minimise together."""

    margin: Tensor
    """mean max(0, margin - |v|^2): images must not fall together."""
    euclid: Tensor
    """mean of the squared differences of v and v', over their numbers too."""
    cosine: Tensor
    """mean of -cos(v, v')."""


def travel_losses(source_BD: Tensor, output_BD: Tensor, *, margin: float) -> TravelLosses:
    """The three losses of one direction (Amodio and Krishnaswamy 2019, as released).

        v_ij = S(x_i) - S(x_j),   v'_ij = S(G(x_i)) - S(G(x_j)),   all i != j.

    The released code goes through the cyclic shifts of the batch, which are these pairs.

    Args:
        source_BD: S(x); receives the gradient of all three, alone that of the margin.
        output_BD: S(G(x)), row by row; receives the gradient.
        margin: 10 in the released code.

    Returns:
        Scalars, means over pairs, unweighted.

    Raises:
        ShapeError: if the shapes differ, or there are fewer than two images.

    >>> losses = travel_losses(torch.eye(2), torch.eye(2), margin=10.0)
    >>> [round(loss.item(), 4) for loss in losses]
    [8.0, 0.0, -1.0]
    """
    check_same_shape(source_BD=source_BD, output_BD=output_BD)
    if source_BD.ndim != 2 or len(source_BD) < 2:
        raise ShapeError(
            "Vectors between images need [B, D] with at least 2 images; "
            f"got {tuple(source_BD.shape)}. Use a larger batch."
        )
    with without_autocast(source_BD):
        v_SBD, w_SBD = _vectors(widened(source_BD)), _vectors(widened(output_BD))
        v_square_SB, w_square_SB = v_SBD.square().sum(dim=-1), w_SBD.square().sum(dim=-1)
        lengths_SB = v_square_SB.clamp_min(_EPSILON) * w_square_SB.clamp_min(_EPSILON)
        cosine_SB = (v_SBD * w_SBD).sum(dim=-1) * lengths_SB.rsqrt()
        return TravelLosses(
            margin=(margin - v_square_SB).relu().mean(),
            euclid=(v_SBD - w_SBD).square().mean(),
            cosine=-cosine_SB.mean(),
        )


def _vectors(rows_BD: Tensor) -> Tensor:
    """[B - 1, B, D]: to every other image."""
    shifts = range(1, len(rows_BD))
    return torch.stack([rows_BD - rows_BD.roll(shift, dims=0) for shift in shifts])
