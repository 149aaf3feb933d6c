"""MoNCE: negatives weighted by a plan of optimal transport (Zhan et al., CVPR 2022).

Each query spends one unit of pushing force and each key receives one, so hard negatives are
stressed without one key being pushed by all. The weights stand outside the exponent, so they are a
`log_importance_BKK` of `info_nce` (as released) and of `decoupled` (ours; the release has no such
form).

Definitions are per group of K patches that serve as each other's negatives: an image, or for all
negatives of the batch one group [1, B * K, C]. Taps with as many places can be stacked along B.

Cost at the published size, on one core: 10 plans of 256 x 256 take 0.06 s (0.2 s below an epsilon
of 0.05), half a percent of a step of CUT at 256 pixels.

Shape suffixes: B groups, K patches, C channels. In "BKK" the row is the query, the column the key.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from patchkin.config import check_at_least_one, check_not_negative, check_positive
from patchkin.errors import ConfigError, ShapeError, check_same_shape, nearest
from patchkin.numerics import widened, without_autocast

TransportCost = Literal["hard", "easy"]
"""Which negatives get more weight: those similar to the query, or those unlike it. Named as in the
release, where a reader asked whether the names are swapped; this is what its code does."""

_DIAGONAL = -10.0
"""In place of the positive's similarity, before the division by epsilon: as released, it leaves the
positive a little mass (1e-6 of a row at epsilon 1), which is part of the numbers."""
_LEAST_WEIGHT = 1e-8
"""Added to every weight, as released."""
_LEAST_EPSILON_OF_PRODUCTS = 0.05
"""Below, the factors of the plan may leave the range of float32 (e^{4 / epsilon} at worst)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportConfig:
    """What `log_transport_importance` is given. Defaults are the published horse-to-zebra run's."""

    cost: TransportCost = "hard"
    """Which negatives get more weight: those similar to the query, or those unlike it."""
    epsilon: float = 0.1
    """Smaller is a sharper plan that takes more rounds (the release's default is 1)."""
    rounds: int = 50
    """Of Sinkhorn's iteration; part of the definition."""
    mean_weight: float = 1.0
    """Q, the mean weight of a negative (released: neg_term_weight)."""

    def __post_init__(self) -> None:
        check_positive(self, "epsilon")
        check_at_least_one(self, "rounds")
        check_not_negative(self, "mean_weight")


def log_transport_importance(
    query_BKC: Tensor,
    key_BKC: Tensor,
    *,
    cost: TransportCost = "hard",
    epsilon: float = 1.0,
    rounds: int = 50,
    mean_weight: float = 1.0,
    num_negatives: int | None = None,
    released_gradient: bool = False,
) -> Tensor:
    """Logarithm of MoNCE's weight of each negative.

        weight_ij = plan_ij (K - 1) Q + 1e-8,   with the plan of `log_transport_plan`.

    The mean over the negatives of a query is Q where the plan has converged.

    Args:
        query_BKC: unit rows of the output; constant unless `released_gradient`.
        key_BKC: unit rows of the input at the same places; constant.
        cost: as `log_transport_plan`.
        epsilon: as `log_transport_plan`.
        rounds: as `log_transport_plan`.
        mean_weight: Q (released: neg_term_weight).
        num_negatives: stands for K - 1. The release takes the `num_patches` of its options less 1,
            whatever the map holds; give that for its numbers.
        released_gradient: let the gradient reach the queries through all rounds of the plan. It
            then lowers the loss also by moving weight away from hard negatives, and keeps all
            rounds in memory. For parity only: `info_nce` and `decoupled` take weights as constants.

    Returns:
        [B, K, K], finite; the diagonal stands for the positive and is not to be used.

    Raises:
        ShapeError: as `log_transport_plan`.
        ConfigError: as `log_transport_plan`, or if Q is negative.

    >>> rows_BKC = torch.eye(3).unsqueeze(0)
    >>> log_transport_importance(rows_BKC, rows_BKC, epsilon=0.1).exp()  # all alike
    tensor([[[1.0000e-08, 1.0000e+00, 1.0000e+00],
             [1.0000e+00, 1.0000e-08, 1.0000e+00],
             [1.0000e+00, 1.0000e+00, 1.0000e-08]]])
    """
    if mean_weight < 0:
        raise ConfigError(f"`mean_weight` must not be negative; got {mean_weight}.")
    with nullcontext() if released_gradient else torch.no_grad():
        log_plan_BKK = log_transport_plan(
            query_BKC, key_BKC, cost=cost, epsilon=epsilon, rounds=rounds
        )
        scale = mean_weight * (key_BKC.shape[1] - 1 if num_negatives is None else num_negatives)
        log_scale = math.log(scale) if scale else -math.inf
        least = torch.full_like(log_plan_BKK, math.log(_LEAST_WEIGHT))
        return torch.logaddexp(log_plan_BKK + log_scale, least)


def log_transport_plan(
    query_BKC: Tensor,
    key_BKC: Tensor,
    *,
    cost: TransportCost = "hard",
    epsilon: float = 1.0,
    rounds: int = 50,
) -> Tensor:
    """Logarithm of the entropic transport plan between queries and keys, by Sinkhorn's iteration.

        plan_ij = u_i e^{M_ij} v_j,   M_ij = s_ij / epsilon (hard) or (1 - s_ij) / epsilon (easy),

    with s_ij = q_i.k_j, and -10 / epsilon for i = j. From v = 1, in each round u makes all rows sum
    to 1, then v all columns; there is no other test of convergence. The release exponentiates M,
    which overflows in float32 below an epsilon of about 0.01; this does not.

    Args:
        query_BKC: unit rows; receives the gradient.
        key_BKC: unit rows; constant.
        cost: which negatives get more of the plan.
        epsilon: smaller is a sharper plan that takes more rounds (published: 0.1 for
            horse-to-zebra; the release's default is 1).
        rounds: part of the definition.

    Returns:
        [B, K, K] in float32 or float64. Columns sum to exactly 1, rows once it has converged.

    Raises:
        ShapeError: if the shapes differ, or a group has a single patch and so no negative.
        ConfigError: if the cost is unknown, epsilon is not positive, or there is no round.

    >>> query_BKC = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> log_transport_plan(query_BKC, query_BKC).exp()  # all of it goes to the only negative
    tensor([[[4.5398e-05, 9.9995e-01],
             [9.9995e-01, 4.5398e-05]]])
    """
    _check(query_BKC, key_BKC, cost, epsilon, rounds)
    with without_autocast(query_BKC):
        similarity_BKK = widened(query_BKC) @ widened(key_BKC.detach()).mT
        gain_BKK = similarity_BKK if cost == "hard" else 1 - similarity_BKK
        diagonal_KK = torch.eye(gain_BKK.shape[-1], dtype=torch.bool, device=gain_BKK.device)
        exponent_BKK = gain_BKK.masked_fill(diagonal_KK, _DIAGONAL) / epsilon
        # u takes up any factor of a row, so the largest exponent of each may be 0.
        exponent_BKK = exponent_BKK - exponent_BKK.detach().amax(dim=-1, keepdim=True)
        factors = _by_products if epsilon >= _LEAST_EPSILON_OF_PRODUCTS else _by_logarithms
        log_u_BK, log_v_BK = factors(exponent_BKK, rounds)
        return exponent_BKK + log_u_BK[..., :, None] + log_v_BK[..., None, :]


def _by_logarithms(exponent_BKK: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Logarithms of u and v, for any epsilon."""
    log_v_BK = torch.zeros_like(exponent_BKK[..., 0, :])
    for _ in range(rounds):
        log_u_BK = -(exponent_BKK + log_v_BK[..., None, :]).logsumexp(dim=-1)
        log_v_BK = -(exponent_BKK + log_u_BK[..., :, None]).logsumexp(dim=-2)
    return log_u_BK, log_v_BK


def _by_products(exponent_BKK: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """The same, three to four times faster, where the factors stay within float32."""
    kernel_BKK = exponent_BKK.exp()
    v_BK1 = torch.ones_like(kernel_BKK[..., :1])
    for _ in range(rounds):
        u_BK1 = 1 / (kernel_BKK @ v_BK1)
        v_BK1 = 1 / (kernel_BKK.mT @ u_BK1)
    return u_BK1[..., 0].log(), v_BK1[..., 0].log()


def _check(
    query_BKC: Tensor, key_BKC: Tensor, cost: TransportCost, epsilon: float, rounds: int
) -> None:
    if cost not in get_args(TransportCost):
        raise ConfigError(f"Unknown `cost` `{cost}`. {nearest(cost, get_args(TransportCost))}")
    if epsilon <= 0:
        raise ConfigError(f"`epsilon` must be positive; got {epsilon}.")
    if rounds < 1:
        raise ConfigError(f"`rounds` must be at least 1; got {rounds}.")
    if query_BKC.ndim != 3 or query_BKC.shape[1] < 2:
        raise ShapeError(
            "A transport plan needs [B, K, C] with at least 2 patches per group; "
            f"got {tuple(query_BKC.shape)}. Draw more patches or use all negatives of the batch."
        )
    check_same_shape(query_BKC=query_BKC, key_BKC=key_BKC)
