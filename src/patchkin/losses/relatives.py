"""Relatives of InfoNCE between two views of the same images, for comparison.

FlatNCE (Chen et al. 2021, arXiv 2107.01152), decoupled contrastive learning (Yeh et al. 2021,
arXiv 2110.06848) and debiased hard negatives (Robinson et al. 2021, arXiv 2010.04592). The patch
forms of these are `info_nce` and `decoupled` in `contrastive.py`.

Shape suffixes: N rows (both views), B images, C channels, M negatives.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import ShapeError, check_same_shape
from patchkin.numerics import widened, without_autocast


def flat_nce(margins_NM: Tensor) -> Tensor:
    """FlatNCE: the gradient of v_i = logsumexp_j margins_ij, the value of InfoNCE.

    FlatNCE is exp(v - v.detach()), whose value is always 1 and whose gradient is that of v, which
    is the decoupled loss; the released training step reports InfoNCE = softplus(v) in its place.

    Args:
        margins_NM: (similarity of negative j - similarity of the positive) / temperature for each
            query; receives the gradient.

    Returns:
        Scalar, the mean over queries.

    >>> margins = torch.tensor([[0.0]], requires_grad=True)
    >>> loss = flat_nce(margins)
    >>> loss.backward()
    >>> round(loss.item(), 4), margins.grad.item()
    (0.6931, 1.0)
    """
    with without_autocast(margins_NM):
        v_N = widened(margins_NM).logsumexp(dim=-1)
        return (v_N - v_N.detach() + nnf.softplus(v_N.detach(), threshold=50)).mean()


def flat_clr_margins(features_NC: Tensor, *, temperature: float = 0.1) -> Tensor:
    """The margins that FlatCLR feeds to `flat_nce`.

    Args:
        features_NC: two views of N/2 images, one after the other, of any length; receives the
            gradient. Row i's positive is row i + N/2, counted round.
        temperature: 0.1 as published.

    Returns:
        [N, N - 2]: columns ascend over all rows but i and its positive.

    Raises:
        ShapeError: if N is odd or below 4.

    >>> flat_clr_margins(torch.eye(4), temperature=1.0).shape
    torch.Size([4, 2])
    """
    num_rows = len(features_NC)
    if num_rows < 4 or num_rows % 2:
        raise ShapeError(
            f"`features_NC` must hold two views of at least 2 images; got {num_rows} rows."
        )
    with without_autocast(features_NC):
        rows_NC = nnf.normalize(widened(features_NC), dim=-1)
        similarity_NN = rows_NC @ rows_NC.mT
        index_N = torch.arange(num_rows, device=features_NC.device)
        positive_N = index_N.roll(num_rows // 2)
        positive_N1 = similarity_NN.gather(1, positive_N[:, None])
        is_negative_NN = (index_N != index_N[:, None]) & (index_N != positive_N[:, None])
        negatives_NM = similarity_NN[is_negative_NN].view(num_rows, num_rows - 2)
        return (negatives_NM - positive_N1) / temperature


def dcl(
    query_BC: Tensor,
    key_BC: Tensor,
    *,
    temperature: float = 0.1,
    positive_weights_B: Tensor | None = None,
) -> Tensor:
    """Decoupled contrastive learning, one way (Yeh et al. 2021, Eq. 6).

        loss_i = -weight_i q_i.k_i / tau + log sum_{j != i} (e^{q_i.k_j / tau} + e^{q_i.q_j / tau})

    Args:
        query_BC: unit rows of one view; receives the gradient.
        key_BC: unit rows of the other; receives the gradient too.
        temperature: tau.
        positive_weights_B: as `dclw_weights`; 1 by default.

    Returns:
        Scalar, the mean over queries.

    Raises:
        ShapeError: if the shapes differ or there are fewer than two rows.

    >>> round(dcl(torch.eye(2), torch.eye(2), temperature=1.0).item(), 4)  # log 2 - 1
    -0.3069
    """
    _check_views(query_BC, key_BC)
    with without_autocast(query_BC):
        query_BC, key_BC = widened(query_BC), widened(key_BC)
        positive_B = (query_BC * key_BC).sum(dim=-1) / temperature
        if positive_weights_B is not None:
            positive_B = positive_B * positive_weights_B
        both_BM = torch.cat([query_BC @ query_BC.mT, query_BC @ key_BC.mT], dim=1) / temperature
        diagonal_BM = torch.eye(len(query_BC), dtype=torch.bool, device=query_BC.device).repeat(
            1, 2
        )
        return (both_BM.masked_fill(diagonal_BM, -math.inf).logsumexp(dim=1) - positive_B).mean()


def dclw_weights(query_BC: Tensor, key_BC: Tensor, *, sigma: float = 0.5) -> Tensor:
    """Weights of the positives in DCLW: 2 - B softmax_i(q_i.k_i / sigma).

    Args:
        query_BC: unit rows of one view; receives the gradient, as released.
        key_BC: unit rows of the other; receives the gradient.
        sigma: of the von Mises-Fisher weighting.

    Returns:
        [B], mean 1.

    Raises:
        ShapeError: if the shapes differ or there are fewer than two rows.

    >>> dclw_weights(torch.eye(3), torch.eye(3))
    tensor([1., 1., 1.])
    """
    _check_views(query_BC, key_BC)
    with without_autocast(query_BC):
        positive_B = (widened(query_BC) * widened(key_BC)).sum(dim=-1)
        return 2 - len(query_BC) * (positive_B / sigma).softmax(dim=0)


def dclw(
    query_BC: Tensor, key_BC: Tensor, *, temperature: float = 0.1, sigma: float = 0.5
) -> Tensor:
    """`dcl` with the positives weighted by `dclw_weights`.

    >>> round(dclw(torch.eye(2), torch.eye(2), temperature=1.0).item(), 4)
    -0.3069
    """
    weights_B = dclw_weights(query_BC, key_BC, sigma=sigma)
    return dcl(query_BC, key_BC, temperature=temperature, positive_weights_B=weights_B)


def hcl(
    first_BC: Tensor,
    second_BC: Tensor,
    *,
    temperature: float = 0.5,
    tau_plus: float = 0.1,
    beta: float = 1.0,
) -> Tensor:
    """Debiased contrast with hard negatives (Robinson et al. 2021, Eq. 3 and 4).

    Each row of both views is a query with M = 2B - 2 negatives n_j = e^{s_j / t}; with importance
    n_j^beta the negatives' sum is R = sum(importance * n) / mean(importance), and

        Ng = max((R - tau_plus M pos) / (1 - tau_plus), M e^{-1/t}),
        loss = -log(pos / (pos + Ng)).

    Args:
        first_BC: unit rows of one view; receives the gradient.
        second_BC: unit rows of the other; receives the gradient.
        temperature: t.
        tau_plus: assumed share of false negatives.
        beta: hardness. The gradient goes through the importance, as released.

    Returns:
        Scalar, the mean over all 2B rows.

    Raises:
        ShapeError: if the shapes differ or there are fewer than two rows.

    >>> rows_BC = torch.eye(2)
    >>> round(hcl(rows_BC, rows_BC, temperature=1.0, tau_plus=0.0).item(), 4)  # log(1 + 2 / e)
    0.5514
    """
    positive_N, negatives_NM = _two_way(first_BC, second_BC, temperature)
    num_negatives = negatives_NM.shape[1]
    importance_NM = negatives_NM**beta
    reweighted_N = (importance_NM * negatives_NM).sum(dim=1) / importance_NM.mean(dim=1)
    debiased_N = (reweighted_N - tau_plus * num_negatives * positive_N) / (1 - tau_plus)
    least = num_negatives * math.exp(-1 / temperature)
    return (1 + debiased_N.clamp_min(least) / positive_N).log().mean()


def simclr(first_BC: Tensor, second_BC: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Two-way InfoNCE over both views (SimCLR; "easy" in the code of Robinson et al.).

    Args:
        first_BC: unit rows of one view; receives the gradient.
        second_BC: unit rows of the other; receives the gradient.
        temperature: t.

    Returns:
        Scalar, the mean over all 2B rows.

    Raises:
        ShapeError: if the shapes differ or there are fewer than two rows.

    >>> round(simclr(torch.eye(2), torch.eye(2), temperature=1.0).item(), 4)
    0.5514
    """
    positive_N, negatives_NM = _two_way(first_BC, second_BC, temperature)
    return (1 + negatives_NM.sum(dim=1) / positive_N).log().mean()


def _two_way(first_BC: Tensor, second_BC: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """e^{s/t} of each row's positive [N] and of its negatives [N, M]."""
    _check_views(first_BC, second_BC)
    with without_autocast(first_BC):
        rows_NC = torch.cat([widened(first_BC), widened(second_BC)])
        num_images, num_rows = len(first_BC), len(rows_NC)
        exponentials_NN = (rows_NC @ rows_NC.mT / temperature).exp()
        image_N = torch.arange(num_rows, device=rows_NC.device) % num_images
        is_negative_NN = image_N != image_N[:, None]
        negatives_NM = exponentials_NN[is_negative_NN].view(num_rows, num_rows - 2)
        positive_B = ((widened(first_BC) * widened(second_BC)).sum(dim=1) / temperature).exp()
        return positive_B.repeat(2), negatives_NM


def _check_views(first_BC: Tensor, second_BC: Tensor) -> None:
    check_same_shape(first_BC=first_BC, second_BC=second_BC)
    if first_BC.ndim != 2 or len(first_BC) < 2:
        raise ShapeError(
            "Both views must be [B, C] with at least 2 images, as negatives come from other "
            f"images; got {tuple(first_BC.shape)}."
        )
