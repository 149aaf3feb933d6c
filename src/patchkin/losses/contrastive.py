"""Patch contrast: InfoNCE, its decoupled form, and weights for hard negatives.

A query w_i (a patch of the output) should resemble its key z_i (the patch of the input at the same
place) more than the other keys z_j. Every loss here returns one number per patch, [B, K], so that
the caller chooses the reduction; the published ones are the mean over patches and images.

Definitions are per image, for any batch size: an image's negatives are its own K - 1 other patches.
With `include_all_negatives` the batch is one group of B * K patches.

Shape suffixes: B images, K patches, C channels, M external negatives. With all negatives, the B and
K of a matrix "BKK" are 1 and B * K.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import ConfigError, ShapeError, check_same_shape
from patchkin.numerics import unit_rows, widened, without_autocast


def info_nce(
    query_BKC: Tensor,
    key_BKC: Tensor,
    *,
    temperature: float,
    weights_BKK: Tensor | None = None,
    log_importance_BKK: Tensor | None = None,
    include_all_negatives: bool = False,
    external_MC: Tensor | None = None,
    internal: bool = True,
) -> Tensor:
    """InfoNCE over patches (PatchNCE; Park et al. 2020, Eq. 2 and 3; Jung et al. 2022, Eq. 7).

        loss_i = -log( e^{s_i} / (e^{s_i} + sum_j n_ij) ),
        s_i = w_i.z_i / tau,   n_ij = importance_ij * e^{weights_ij * w_i.z_j / tau},   j != i.

    The positive is neither weighted nor a negative of itself. The released PatchNCE keeps a logit
    of -10 / tau in its place, which is e^-143 at tau = 0.07.

    Args:
        query_BKC: unit rows w of the output; receives the gradient.
        key_BKC: unit rows z of the input at the same places; constant.
        temperature: tau.
        weights_BKK: multiplies similarities inside the exponent, as `hard_negative_weights`;
            constant. Row: query, column: negative.
        log_importance_BKK: logarithm of a factor outside the exponent, as
            `log_negative_importance`; constant.
        include_all_negatives: contrast with the patches of the whole batch.
        external_MC: further negatives for every query, such as a memory bank; constant and not
            weighted.
        internal: False leaves only the external negatives.

    Returns:
        Loss per patch in nats, [B, K], at least 0.

    Raises:
        ShapeError: if the shapes do not fit, or if there is no negative.
        ConfigError: if tau is not positive, or weights are given for negatives that are left out.

    >>> rows_BKC = torch.eye(2).unsqueeze(0)
    >>> info_nce(rows_BKC, rows_BKC, temperature=1.0)  # log(1 + 1 / e)
    tensor([[0.3133, 0.3133]])
    """
    return as_info_nce(
        decoupled(
            query_BKC,
            key_BKC,
            temperature=temperature,
            weights_BKK=weights_BKK,
            log_importance_BKK=log_importance_BKK,
            include_all_negatives=include_all_negatives,
            external_MC=external_MC,
            internal=internal,
        )
    )


def as_info_nce(decoupled_BK: Tensor) -> Tensor:
    """The InfoNCE that a decoupled loss came from: log(1 + e^x) of it.

    The released hDCE carries the gradient of `decoupled` and logs this.

    Args:
        decoupled_BK: losses of `decoupled`, of any shape; receives the gradient.

    Returns:
        In nats, of the same shape, at least 0.

    >>> as_info_nce(torch.tensor([-1.0]))  # log(1 + 1 / e)
    tensor([0.3133])
    """
    # log(1 + e^x) keeps small losses exact; torch's default would cut it off at x = 20.
    return nnf.softplus(decoupled_BK, threshold=50)


def decoupled(
    query_BKC: Tensor,
    key_BKC: Tensor,
    *,
    temperature: float,
    weights_BKK: Tensor | None = None,
    log_importance_BKK: Tensor | None = None,
    include_all_negatives: bool = False,
    external_MC: Tensor | None = None,
    internal: bool = True,
) -> Tensor:
    """Contrast without the positive in the denominator (Jung et al. 2022, Eq. 4 to 6).

        loss_i = log sum_j n_ij - s_i,   with s and n as in `info_nce`.

    With `weights_BKK` its gradient is that of the released hDCE, which logs the InfoNCE of the same
    numbers (`as_info_nce`) and carries this gradient. With `log_importance_BKK` it is
    the paper's Eq. 4 with the importance of Eq. 5; with neither, DCE (Eq. 6).

    Args:
        query_BKC: unit rows w of the output; receives the gradient.
        key_BKC: unit rows z of the input at the same places; constant.
        temperature: tau.
        weights_BKK: as `info_nce`.
        log_importance_BKK: as `info_nce`.
        include_all_negatives: as `info_nce`.
        external_MC: as `info_nce`.
        internal: as `info_nce`.

    Returns:
        Loss per patch in nats, [B, K]; negative where the positive outweighs all negatives.

    Raises:
        ShapeError: if the shapes do not fit, or if there is no negative.
        ConfigError: if tau is not positive, or weights are given for negatives that are left out.

    >>> rows_BKC = torch.eye(2).unsqueeze(0)
    >>> decoupled(rows_BKC, rows_BKC, temperature=1.0)
    tensor([[-1., -1.]])
    """
    _check_rows(query_BKC, key_BKC)
    if temperature <= 0:
        raise ConfigError(f"`temperature` must be positive; got {temperature}.")
    if not internal and not (weights_BKK is None and log_importance_BKK is None):
        raise ConfigError(
            "Weights of the internal negatives were given, but `internal` is False. Leave out the "
            "weights or keep the internal negatives."
        )
    shape_BK = query_BKC.shape[:2]
    with without_autocast(query_BKC):
        query_BKC, key_BKC = widened(query_BKC), widened(key_BKC.detach())
        if include_all_negatives:
            query_BKC, key_BKC = query_BKC.flatten(0, 1)[None], key_BKC.flatten(0, 1)[None]
        positive_BK = (query_BKC * key_BKC).sum(dim=-1) / temperature
        negatives = []
        if internal:
            negatives.append(
                _negative_logits(query_BKC, key_BKC, temperature, weights_BKK, log_importance_BKK)
            )
        if external_MC is not None:
            _check_external(external_MC, query_BKC)
            external_MC = widened(external_MC.detach())
            negatives.append(query_BKC @ external_MC.mT.to(query_BKC.dtype) / temperature)
        _check_any_negative(query_BKC.shape[1], internal, external_MC)
        logits = negatives[0] if len(negatives) == 1 else torch.cat(negatives, dim=-1)
        return (logits.logsumexp(dim=-1) - positive_BK).view(shape_BK)


def hard_negative_weights(key_BKC: Tensor, gamma_divisor: float) -> Tensor:
    """Weights inside the exponent, as released with Jung et al. 2022.

        weights_ij = exp((z_i.z_j - max_{m != i} z_i.z_m) / gamma),   j != i,

    so that the negative which the input itself holds for most similar has weight 1. The released
    gamma divides (50 is gentle, 1 is hard) where the paper's multiplies. Rows are scaled to unit
    length a second time, as released.

    Args:
        key_BKC: rows z of the input; constant.
        gamma_divisor: the released gamma.

    Returns:
        [B, K, K] in (0, 1], without graph; 1 on the diagonal, which stands for the positive and is
        never weighted.

    Raises:
        ShapeError: if there are fewer than two patches.
        ConfigError: if gamma is not positive.

    >>> key_BKC = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    >>> hard_negative_weights(key_BKC, gamma_divisor=1.0)
    tensor([[[1.0000, 1.0000, 0.3679],
             [1.0000, 1.0000, 0.3679],
             [1.0000, 1.0000, 1.0000]]])
    """
    _check_pairs(key_BKC)
    if gamma_divisor <= 0:
        raise ConfigError(f"`gamma_divisor` must be positive; got {gamma_divisor}.")
    with torch.no_grad(), without_autocast(key_BKC):
        rows_BKC = unit_rows(key_BKC)
        similarity_BKK = _without_diagonal(rows_BKC @ rows_BKC.mT)
        hardest_BK1 = similarity_BKK.amax(dim=-1, keepdim=True)
        weights_BKK = ((similarity_BKK - hardest_BK1) / gamma_divisor).exp()
        weights_BKK.diagonal(dim1=-2, dim2=-1).fill_(1)
        return weights_BKK


def log_negative_importance(key_BKC: Tensor, gamma: float) -> Tensor:
    """Logarithm of the importance of each negative (Jung et al. 2022, Eq. 5, as printed).

        importance_ij = e^{gamma z_i.z_j} / mean_{m != i} e^{gamma z_i.z_m},   j != i.

    Args:
        key_BKC: unit rows z of the input; constant.
        gamma: the paper's gamma, a multiplier: 0 weights nothing, large is hard.

    Returns:
        [B, K, K] without graph; the importance's mean over a row's negatives is 1. The diagonal is
        minus infinity: the positive is not among the negatives.

    Raises:
        ShapeError: if there are fewer than two patches.

    >>> log_negative_importance(torch.eye(3).unsqueeze(0), gamma=5.0).exp()
    tensor([[[0., 1., 1.],
             [1., 0., 1.],
             [1., 1., 0.]]])
    """
    _check_pairs(key_BKC)
    with torch.no_grad(), without_autocast(key_BKC):
        key_BKC = widened(key_BKC)
        return log_importance(key_BKC @ key_BKC.mT, gamma)


def log_importance(similarity_BKK: Tensor, gamma: float) -> Tensor:
    """`log_negative_importance` from similarities of negatives that are known already.

    Args:
        similarity_BKK: row i: similarity of each negative to query i's key; constant. The diagonal
            is not read.
        gamma: as `log_negative_importance`.

    Returns:
        As `log_negative_importance`.

    Raises:
        ShapeError: if there are fewer than two patches.

    >>> log_importance(torch.tensor([[[0.0, 2.0], [1.0, 0.0]]]), gamma=1.0).exp()
    tensor([[[0., 1.],
             [1., 0.]]])
    """
    _check_pairs(similarity_BKK)
    with torch.no_grad(), without_autocast(similarity_BKK):
        logits_BKK = _without_diagonal(gamma * widened(similarity_BKK))
        num_negatives = similarity_BKK.shape[-1] - 1
        return logits_BKK.log_softmax(dim=-1) + math.log(num_negatives)


def _negative_logits(
    query_BKC: Tensor,
    key_BKC: Tensor,
    temperature: float,
    weights_BKK: Tensor | None,
    log_importance_BKK: Tensor | None,
) -> Tensor:
    """[B, K, K], minus infinity where a patch meets itself."""
    logits_BKK = query_BKC @ key_BKC.mT / temperature
    if weights_BKK is not None:
        check_same_shape(similarity_BKK=logits_BKK, weights_BKK=weights_BKK)
        logits_BKK = logits_BKK * weights_BKK.detach()
    if log_importance_BKK is not None:
        check_same_shape(similarity_BKK=logits_BKK, log_importance_BKK=log_importance_BKK)
        logits_BKK = logits_BKK + log_importance_BKK.detach()
    return _without_diagonal(logits_BKK)


def _without_diagonal(matrix_BKK: Tensor) -> Tensor:
    diagonal_KK = torch.eye(matrix_BKK.shape[-1], dtype=torch.bool, device=matrix_BKK.device)
    return matrix_BKK.masked_fill(diagonal_KK, -math.inf)


def _check_rows(query_BKC: Tensor, key_BKC: Tensor) -> None:
    if query_BKC.ndim != 3:
        raise ShapeError(
            "`query_BKC` must be [B, K, C]: images, patches, channels; "
            f"got {tuple(query_BKC.shape)}."
        )
    check_same_shape(query_BKC=query_BKC, key_BKC=key_BKC)


def _check_pairs(rows: Tensor) -> None:
    if rows.ndim != 3 or rows.shape[1] < 2:
        raise ShapeError(
            "Weights of negatives need [B, K, C] with at least 2 patches per image; "
            f"got {tuple(rows.shape)}. Draw more patches or use all negatives of the batch."
        )


def _check_external(external_MC: Tensor, query_BKC: Tensor) -> None:
    if external_MC.ndim != 2 or external_MC.shape[1] != query_BKC.shape[2]:
        raise ShapeError(
            f"`external_MC` must be [M, {query_BKC.shape[2]}], as wide as the queries; "
            f"got {tuple(external_MC.shape)}."
        )


def _check_any_negative(group_size: int, internal: bool, external_MC: Tensor | None) -> None:
    if external_MC is not None and len(external_MC):
        return
    if not internal:
        raise ShapeError(
            "There are no negatives: `internal` is False and `external_MC` is empty or missing."
        )
    if group_size < 2:
        raise ShapeError(
            "A single patch per image has no negatives. Draw more patches, or use all negatives of "
            "a batch of at least 2 images."
        )
