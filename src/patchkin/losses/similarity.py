"""Losses of DCLGAN and SimDCL (Han et al., CVPRW 2021).

Shape suffixes: B images, K patches, C channels, S numbers of a summary.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import check_same_shape
from patchkin.losses.contrastive import info_nce
from patchkin.numerics import widened, without_autocast

_COSINE_EPSILON = 1e-8  # of the released cosine similarity


def cosine_info_nce(
    query_BKC: Tensor,
    key_BKC: Tensor,
    *,
    temperature: float,
    include_all_negatives: bool = False,
) -> Tensor:
    """PatchNCE of cosines, as DCLGAN's released code computes it (Han et al. 2021, Eq. 3).

    `info_nce` of rows that are scaled to unit length once more. The projection head divides by
    ||x|| + 1e-7; at the start of training its rows are about 3e-5 long before that, so they come
    out 0.4 % short and the two forms differ.

    Args:
        query_BKC: rows of the output; receives the gradient.
        key_BKC: rows of the input at the same places; constant.
        temperature: tau.
        include_all_negatives: contrast with the patches of the whole batch, as the released code
            does for batches beyond 1.

    Returns:
        Loss per patch in nats, [B, K].

    Raises:
        ShapeError: as `info_nce`.
        ConfigError: as `info_nce`.

    >>> import torch
    >>> rows_BKC = torch.eye(2).unsqueeze(0)
    >>> cosine_info_nce(3 * rows_BKC, rows_BKC, temperature=1.0)  # log(1 + 1 / e)
    tensor([[0.3133, 0.3133]])
    """
    return info_nce(
        cosine_rows(query_BKC),
        cosine_rows(key_BKC.detach()),
        temperature=temperature,
        include_all_negatives=include_all_negatives,
    )


def summary_distance(
    real_BS: Tensor, fake_BS: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """The similarity loss of one domain (Han et al. 2021, Eq. 6).

        |H_real(real) - H_fake(fake)|_1

    Args:
        real_BS: summaries of real images; receives the gradient.
        fake_BS: summaries of generated images; receives the gradient.
        reduction: over the S numbers of an image. "sum" is Eq. 6; the released code asks for a sum
            and gets the "mean", S = 64 times less, because of a misplaced argument.

    Returns:
        Scalar, averaged over the images, in float32 or float64.

    Raises:
        ShapeError: if the shapes differ.

    >>> import torch
    >>> summary_distance(torch.ones(2, 4), torch.zeros(2, 4), reduction="sum").item()
    4.0
    """
    check_same_shape(real_BS=real_BS, fake_BS=fake_BS)
    with without_autocast(real_BS):
        distance_BS = (widened(real_BS) - widened(fake_BS)).abs()
        distance_B = distance_BS.sum(dim=1) if reduction == "sum" else distance_BS.mean(dim=1)
        return distance_B.mean()


def cosine_rows(rows_BKC: Tensor) -> Tensor:
    """Rows whose products are cosines, as `cosine_info_nce` takes them; receive the gradient.

    >>> import torch
    >>> cosine_rows(torch.tensor([[[3.0, 4.0]]]))
    tensor([[[0.6000, 0.8000]]])
    """
    with without_autocast(rows_BKC):
        return nnf.normalize(widened(rows_BKC), dim=-1, eps=_COSINE_EPSILON)
