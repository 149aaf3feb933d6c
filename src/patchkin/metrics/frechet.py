"""Frechet distance between two sets of features, in float64.

    d^2 = |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2)

With any factors S = F^T F, tr (S_a S_b)^(1/2) is the sum of the singular values of F_a F_b^T. No
product of covariances is formed, so small eigenvalues keep their digits and nothing becomes
complex. Centred features over sqrt(N - 1) are such a factor: with fewer images than features that
is exact and small (140 against 120 images of 2048 features: a 140 x 120 matrix). With more images,
the triangular factor of the centred features takes their place; it is exact as well.

Shape suffixes: N images, D features, R rows of a factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from patchkin.errors import ShapeError
from patchkin.metrics.checks import check_count, check_finite


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Mean and covariance, for statistics that others publish; features are the better input."""

    mean_D: Tensor
    covariance_DD: Tensor
    """With divisor N - 1."""


FeatureSet: TypeAlias = "Tensor | Moments"


def moments(features_ND: Tensor) -> Moments:
    """Mean and covariance of features, in float64.

    >>> found = moments(torch.tensor([[0.0], [2.0]]))
    >>> found.mean_D.item(), round(found.covariance_DD.item(), 12)
    (1.0, 2.0)
    """
    mean_D, factor_RD = _mean_and_factor(features_ND)
    return Moments(mean_D, factor_RD.mT @ factor_RD)


def frechet_distance(a: FeatureSet, b: FeatureSet) -> float:
    """Squared Frechet distance of the normal distributions fitted to two sets; FID for Inception.

    Args:
        a: features [N, D], or their moments. The order of the images does not matter.
        b: likewise; exchanging the two changes nothing.

    Returns:
        At least 0. It falls as a set grows: compare only numbers with equal counts.

    Raises:
        DataError: fewer than 2 images, or values that are not finite.
        ShapeError: the sets have different numbers of features.

    >>> a_ND = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    >>> frechet_distance(a_ND, a_ND + torch.tensor([3.0, 4.0]))  # equal spread: |shift|^2
    25.0
    """
    (mean_a_D, factor_a_RD), (mean_b_D, factor_b_RD) = _mean_and_factor(a), _mean_and_factor(b)
    if mean_a_D.shape != mean_b_D.shape:
        raise ShapeError(
            f"`a` and `b` have {len(mean_a_D)} and {len(mean_b_D)} features per image; "
            "both must come from one extractor."
        )
    shift = (mean_a_D - mean_b_D).square().sum()
    spread = factor_a_RD.square().sum() + factor_b_RD.square().sum()
    overlap = torch.linalg.svdvals(factor_a_RD @ factor_b_RD.mT).sum()
    distance = float(shift + spread - 2 * overlap)
    return max(0.0, distance)  # rounding may leave -1e-12


def _mean_and_factor(features: FeatureSet) -> tuple[Tensor, Tensor]:
    """Mean, and F [R, D] with F^T F the covariance and R <= D."""
    if isinstance(features, Moments):
        return features.mean_D.double(), _factor_of(features.covariance_DD.double())
    if features.ndim != 2:
        raise ShapeError(f"Features must be [N, D]; got {tuple(features.shape)}.")
    check_count(len(features), "A Frechet distance")
    check_finite(features, "feature vectors")
    features_ND = features.detach().double()
    mean_D = features_ND.mean(dim=0)
    centred_ND = (features_ND - mean_D) / (len(features_ND) - 1) ** 0.5
    if len(centred_ND) <= centred_ND.shape[1]:
        return mean_D, centred_ND
    return mean_D, torch.linalg.qr(centred_ND, mode="r").R


def _factor_of(covariance_DD: Tensor) -> Tensor:
    check_finite(covariance_DD, "rows of the covariance")
    eigenvalues_D, vectors_DD = torch.linalg.eigh((covariance_DD + covariance_DD.mT) / 2)
    factor_DD: Tensor = eigenvalues_D.clamp_min(0).sqrt()[:, None] * vectors_DD.mT
    return factor_DD
