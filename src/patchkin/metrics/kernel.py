"""Kernel distance: an unbiased distance between two sets of features, fit for few images.

Shape suffixes: N and M images, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from patchkin.errors import ConfigError, ShapeError
from patchkin.metrics.checks import check_count, check_finite

_BLOCK_ROWS = 2048  # a block of the kernel of 10,000 x 10,000 images is then 160 MB, not 800


class KernelDistance(NamedTuple):
    """A mean over random subsets."""

    mean: float
    deviation: float
    """Standard deviation over the subsets (divisor: their number), not of the mean."""


def kernel_distance(a_ND: Tensor, b_MD: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3: KID for Inception features.

    Binkowski et al. 2018 (arXiv 1801.01401), section 4. Uses every image once.

    Args:
        a_ND: features of one set.
        b_MD: of the other; the numbers of images may differ.

    Returns:
        Around 0, on either side, for two samples of one distribution. KID is often given x 100 or
        x 1000; this is not.

    Raises:
        DataError: fewer than 2 images, or values that are not finite.
        ShapeError: not [N, D] with one D.

    >>> kernel_distance(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]))
    7.0
    """
    _check(a_ND, b_MD)
    return _mmd(a_ND.detach().double(), b_MD.detach().double())


def kernel_distance_subsets(
    a_ND: Tensor, b_MD: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Mean of `kernel_distance` over random subsets, as the published implementations give it.

    The subsets are those that torchmetrics draws after `torch.manual_seed(seed)`.

    Args:
        a_ND: features of one set (torchmetrics' real one).
        b_MD: of the other.
        subsets: how many are drawn.
        subset_size: images of each set in a subset, without repetition; at most the smaller set.
        seed: of the choice.

    Raises:
        DataError: fewer than 2 images, or values that are not finite.
        ConfigError: no subset, or one smaller than 2 or larger than a set.
        ShapeError: not [N, D] with one D.

    >>> a_ND, b_MD = torch.zeros(3, 1), torch.ones(3, 1)
    >>> kernel_distance_subsets(a_ND, b_MD, subsets=2, subset_size=2)
    KernelDistance(mean=7.0, deviation=0.0)
    """
    _check(a_ND, b_MD)
    if subsets < 1 or not 2 <= subset_size <= min(len(a_ND), len(b_MD)):
        raise ConfigError(
            f"`subsets` must be at least 1 and `subset_size` from 2 to the smaller number of "
            f"images, {min(len(a_ND), len(b_MD))}; got {subsets} and {subset_size}."
        )
    a_ND, b_MD = a_ND.detach().double(), b_MD.detach().double()
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        chosen_a = torch.randperm(len(a_ND), generator=generator)[:subset_size]
        chosen_b = torch.randperm(len(b_MD), generator=generator)[:subset_size]
        values.append(_mmd(a_ND[chosen_a], b_MD[chosen_b]))
    values_S = torch.tensor(values, dtype=torch.float64)
    return KernelDistance(values_S.mean().item(), values_S.std(correction=0).item())


def _check(a_ND: Tensor, b_MD: Tensor) -> None:
    if a_ND.ndim != 2 or b_MD.ndim != 2 or a_ND.shape[1] != b_MD.shape[1]:
        raise ShapeError(
            "Features must be [N, D] and [M, D] of one extractor; "
            f"got {tuple(a_ND.shape)} and {tuple(b_MD.shape)}."
        )
    for features in (a_ND, b_MD):
        check_count(len(features), "A kernel distance")
        check_finite(features, "feature vectors")


def _mmd(a_ND: Tensor, b_MD: Tensor) -> float:
    within = sum(_kernel_sum(x, x, pairs_only=True) / (len(x) * (len(x) - 1)) for x in (a_ND, b_MD))
    return within - 2 * _kernel_sum(a_ND, b_MD) / (len(a_ND) * len(b_MD))


def _kernel_sum(a_ND: Tensor, b_MD: Tensor, *, pairs_only: bool = False) -> float:
    """Sum of the kernel over all pairs; `pairs_only` leaves out an image with itself."""
    width = a_ND.shape[1]
    total = 0.0
    for start in range(0, len(a_ND), _BLOCK_ROWS):
        rows_ND = a_ND[start : start + _BLOCK_ROWS]
        total += (rows_ND @ b_MD.mT / width + 1).pow(3).sum().item()
    if pairs_only:
        total -= (a_ND.square().sum(dim=1) / width + 1).pow(3).sum().item()
    return total
