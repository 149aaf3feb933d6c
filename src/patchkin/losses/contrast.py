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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

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

Form = Literal["nce", "dce"]
"""InfoNCE, or the decoupled form without the positive in the denominator."""
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

    form: Form = "nce"
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
        for name, kinds in (("form", get_args(Form)), ("negatives", get_args(Negatives))):
            kind = getattr(self, name)
            if kind not in kinds:
                raise ConfigError(f"`{name}` must be one of {', '.join(kinds)}; got {kind!r:.60}.")


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
    externals = None if external_MC is None else [external_MC]
    (loss_BK,) = patch_contrasts(
        [(query_BKC, key_BKC)],
        contrast,
        gamma_divisor=gamma_divisor,
        externals=externals,
        internal=internal,
    )
    return loss_BK


def patch_contrasts(
    pairs: Sequence[tuple[Tensor, Tensor]],
    contrast: Contrast,
    *,
    gamma_divisor: float | None = None,
    externals: Sequence[Tensor] | None = None,
    internal: bool = True,
) -> list[Tensor]:
    """`patch_contrast` of each tap; plans of transport of taps with as many patches are one batch.

    On an accelerator a plan is hundreds of small operations, so one for all taps is quicker.

    Args:
        pairs: (queries, keys) per tap.
        contrast: as `patch_contrast`.
        gamma_divisor: as `patch_contrast`.
        externals: further negatives per tap, as `external_MC`.
        internal: as `patch_contrast`.

    >>> rows_BKC = torch.eye(2).unsqueeze(0)
    >>> patch_contrasts([(rows_BKC, rows_BKC)], Contrast(temperature=1.0))  # log(1 + 1 / e)
    [tensor([[0.3133, 0.3133]])]
    """
    if contrast.cosine:
        pairs = [(cosine_rows(query), cosine_rows(key.detach())) for query, key in pairs]
    loss = decoupled if contrast.form == "dce" else info_nce
    return [
        loss(
            query_BKC,
            key_BKC,
            temperature=contrast.temperature,
            weights_BKK=weighed.inside_BKK,
            log_importance_BKK=weighed.log_outside_BKK,
            include_all_negatives=contrast.all_negatives,
            external_MC=None if externals is None else externals[tap],
            internal=internal,
        )
        for tap, ((query_BKC, key_BKC), weighed) in enumerate(
            zip(pairs, _weighed(pairs, contrast, gamma_divisor), strict=True)
        )
    ]


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
    pairs: Sequence[tuple[Tensor, Tensor]], contrast: Contrast, gamma_divisor: float | None
) -> list[_Weights]:
    """The weights of the negatives per tap, for the groups in which patches are compared."""
    if contrast.negatives == "uniform":
        return [_Weights() for _ in pairs]
    if contrast.all_negatives:
        pairs = [
            (query_BKC.flatten(0, 1)[None], key_BKC.flatten(0, 1)[None])
            for query_BKC, key_BKC in pairs
        ]
    if contrast.negatives == "optimal-transport":
        return _transported(pairs, contrast.transport)
    if gamma_divisor is None:
        raise ConfigError(
            f"Negatives `{contrast.negatives}` are weighed by their hardness: give `gamma_divisor`."
        )
    if contrast.negatives == "released":
        return [_Weights(inside_BKK=hard_negative_weights(k, gamma_divisor)) for _, k in pairs]
    gamma = 1 / gamma_divisor
    return [_Weights(log_outside_BKK=log_negative_importance(k, gamma)) for _, k in pairs]


def _transported(
    pairs: Sequence[tuple[Tensor, Tensor]], transport: TransportConfig
) -> list[_Weights]:
    """Weights by plans, one batch of plans for all taps whose rows have one shape."""
    shapes = [tuple(key_BKC.shape) for _, key_BKC in pairs]
    weights: list[_Weights] = [_Weights()] * len(pairs)
    for shape in dict.fromkeys(shapes):
        alike = [tap for tap, own in enumerate(shapes) if own == shape]
        query_BKC, key_BKC = (torch.cat([pairs[tap][side] for tap in alike]) for side in (0, 1))
        log_BKK = log_transport_importance(
            query_BKC,
            key_BKC,
            cost=transport.cost,
            epsilon=transport.epsilon,
            rounds=transport.rounds,
            mean_weight=transport.mean_weight,
        )
        for tap, part_BKK in zip(alike, log_BKK.chunk(len(alike)), strict=True):
            weights[tap] = _Weights(log_outside_BKK=part_BKK)
    return weights
