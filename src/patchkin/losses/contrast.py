"""Which patch contrast a method has: its form, its negatives, and what each of them weighs.

With s_ij = w_i.z_j / tau, patches w of the output as queries and z of the input as keys, the loss
of patch i over its negatives j != i is

    negatives   form dce (decoupled)                       form nce (InfoNCE)
    uniform     log sum_j e^{s_ij} - s_ii          Eq. 6   -log(e^{s_ii} / (e^{s_ii} + sum_j n_ij))
    paper       log sum_j f_ij e^{s_ij} - s_ii     Eq. 4       Eq. 7, n_ij: what stands under
    released    log sum_j e^{h_ij s_ij} - s_ii                 the sum on the left
    optimal-
    transport   log sum_j t_ij e^{s_ij} - s_ii

of Jung, Kwon and Ye (CVPR 2022), f of its Eq. 5 and h what its released code has in place of f; t
of Zhan et al. (CVPR 2022). PatchNCE (Park et al. 2020, Eq. 3) is `nce` with uniform negatives, DCE
is `dce` with uniform ones, hDCE is `dce` with paper's or released ones, MoNCE is `nce` with optimal
transport; with `dce` that is ours.

The functions that compute these stand in `contrastive.py`. Here they are chosen, once for all
methods: another kind of negatives is a name in `Negatives` and a case in `_weighed`.

Shape suffixes: B images, K patches, C channels, M external negatives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from patchkin.config import check_positive
from patchkin.errors import ConfigError
from patchkin.losses.contrastive import (
    decoupled,
    hard_negative_weights,
    info_nce,
    log_negative_importance,
)
from patchkin.losses.similarity import cosine_rows
from patchkin.losses.transport import TransportConfig, log_transport_importance

Negatives = Literal["uniform", "released", "paper", "optimal-transport"]
"""What negatives weigh: all the same; by the input's similarities inside the exponent with a
maximum of 1 (`hard_negative_weights`), or outside of it with a mean of 1
(`log_negative_importance`); or by a plan of transport between outputs and inputs, outside of it
(`log_transport_importance`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """A choice of `patch_contrast`. Defaults are CUT's PatchNCE.

    >>> Contrast(temperature=0.0)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: `temperature` must be positive; got 0.0.
    """

    form: Literal["nce", "dce"] = "nce"
    """InfoNCE, or the decoupled form without the positive in the denominator."""
    negatives: Negatives = "uniform"
    temperature: float = 0.07
    """tau."""
    all_negatives: bool = False
    """Contrast with the patches of the whole batch rather than of the same image."""
    cosine: bool = False
    """Scale rows to unit length once more, as DCLGAN's released code does (`cosine_info_nce`)."""
    transport: TransportConfig = field(default_factory=TransportConfig)
    """Of negatives by optimal transport."""

    @property
    def has_curriculum(self) -> bool:
        """Whether negatives have a hardness: a `gamma_divisor`."""
        return self.negatives in ("released", "paper")

    def __post_init__(self) -> None:
        check_positive(self, "temperature")


def patch_contrast(
    query_BKC: Tensor,
    key_BKC: Tensor,
    contrast: Contrast,
    *,
    gamma_divisor: float | None = None,
    external_MC: Tensor | None = None,
    internal: bool = True,
) -> Tensor:
    """The contrast of an output's patches with the input's (Jung et al. 2022, Eq. 4 to 7).

    Args:
        query_BKC: unit rows w of the output; receives the gradient.
        key_BKC: unit rows z of the input at the same places; constant, as are all weights.
        contrast: which; see the table above.
        gamma_divisor: hardness of released and paper's negatives, as of now in a curriculum. It
            divides similarities, large is gentle; the paper's gamma is its inverse.
        external_MC: further negatives for every query, such as a memory bank; constant and not
            weighted.
        internal: False leaves only the external negatives.

    Returns:
        Loss per patch in nats, [B, K], not reduced; published is the mean over patches and images
        of each tap, then over taps (`mean_over_taps`).

    Raises:
        ShapeError: if the shapes do not fit, or if there is no negative.
        ConfigError: if weights are to be computed without a `gamma_divisor`, or one that is not
            positive, or for internal negatives that are left out.

    >>> rows_BKC = torch.eye(2).unsqueeze(0)
    >>> patch_contrast(rows_BKC, rows_BKC, Contrast(temperature=1.0))  # log(1 + 1 / e)
    tensor([[0.3133, 0.3133]])
    >>> hardest = Contrast(form="dce", negatives="released", temperature=1.0)
    >>> patch_contrast(rows_BKC, rows_BKC, hardest, gamma_divisor=50.0)
    tensor([[-1., -1.]])
    """
    if contrast.cosine:
        query_BKC, key_BKC = cosine_rows(query_BKC), cosine_rows(key_BKC.detach())
    weighed = _weighed(query_BKC, key_BKC, contrast, gamma_divisor)
    loss = decoupled if contrast.form == "dce" else info_nce
    return loss(
        query_BKC,
        key_BKC,
        temperature=contrast.temperature,
        weights_BKK=weighed.inside_BKK,
        log_importance_BKK=weighed.log_outside_BKK,
        include_all_negatives=contrast.all_negatives,
        external_MC=external_MC,
        internal=internal,
    )


def mean_over_taps(losses: Iterable[Tensor]) -> Tensor:
    """A scalar from the losses of each tap: the mean over places and images, then over taps.

    >>> mean_over_taps([torch.tensor([[1.0, 3.0]]), torch.tensor(4.0)])
    tensor(3.)
    """
    return torch.stack([loss.mean() for loss in losses]).mean()


class _Weights(NamedTuple):
    """Of each query's negatives; None where all are 1."""

    inside_BKK: Tensor | None = None
    """Factors of the similarities, inside the exponent."""
    log_outside_BKK: Tensor | None = None
    """Logarithms of factors of the exponential."""


def _weighed(
    query_BKC: Tensor, key_BKC: Tensor, contrast: Contrast, gamma_divisor: float | None
) -> _Weights:
    """The weights of the negatives, for the groups in which patches are compared."""
    if contrast.negatives == "uniform":
        return _Weights()
    if contrast.all_negatives:
        query_BKC, key_BKC = (rows_BKC.flatten(0, 1)[None] for rows_BKC in (query_BKC, key_BKC))
    if contrast.negatives == "optimal-transport":
        plan = contrast.transport
        log_weights_BKK = log_transport_importance(
            query_BKC,
            key_BKC,
            cost=plan.cost,
            epsilon=plan.epsilon,
            rounds=plan.rounds,
            mean_weight=plan.mean_weight,
        )
        return _Weights(log_outside_BKK=log_weights_BKK)
    if gamma_divisor is None:
        raise ConfigError(
            f"Negatives `{contrast.negatives}` are weighed by their hardness: give `gamma_divisor`."
        )
    if contrast.negatives == "released":
        return _Weights(inside_BKK=hard_negative_weights(key_BKC, gamma_divisor))
    return _Weights(log_outside_BKK=log_negative_importance(key_BKC, 1 / gamma_divisor))
