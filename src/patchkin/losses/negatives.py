"""Contrast with negatives that a network makes up, and the diversity asked of them (NEGCUT).

Every image has negatives of its own and meets no other patch, neither its own nor another image's.

Shape suffixes: B images, K patches, P negatives, C channels.
"""

from __future__ import annotations

import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import ConfigError, ShapeError, check_same_shape
from patchkin.numerics import widened, without_autocast


def generated_info_nce(
    query_BKC: Tensor, key_BKC: Tensor, negative_BPC: Tensor, *, temperature: float
) -> Tensor:
    """InfoNCE of one positive against generated negatives (Wang et al. 2021).

        loss_i = -log( e^{w_i.z_i / tau} / (e^{w_i.z_i / tau} + sum_p e^{w_i.n_p / tau}) ).

    Args:
        query_BKC: unit rows w of the output; receives the gradient.
        key_BKC: unit rows z of the input at the same places; constant.
        negative_BPC: unit rows n; receives the gradient.
        temperature: tau.

    Returns:
        Loss per patch in nats, [B, K], at least 0. Its mean over patches and images is NEGCUT's.

    Raises:
        ShapeError: if the shapes do not fit, or there is no negative.
        ConfigError: if tau is not positive.

    >>> import torch
    >>> row = torch.tensor([[[1.0, 0.0]]])
    >>> generated_info_nce(row, row, row.expand(1, 3, 2), temperature=1.0)  # log 4
    tensor([[1.3863]])
    """
    if query_BKC.ndim != 3:
        raise ShapeError(
            "`query_BKC` must be [B, K, C]: images, patches, channels; "
            f"got {tuple(query_BKC.shape)}."
        )
    check_same_shape(query_BKC=query_BKC, key_BKC=key_BKC)
    images, _, width = query_BKC.shape
    fits = negative_BPC.ndim == 3 and negative_BPC.shape[::2] == (images, width)
    if not fits or negative_BPC.shape[1] == 0:
        raise ShapeError(
            f"`negative_BPC` must be [{images}, P, {width}] with at least one negative per image; "
            f"got {tuple(negative_BPC.shape)}."
        )
    if temperature <= 0:
        raise ConfigError(f"`temperature` must be positive; got {temperature}.")
    with without_autocast(query_BKC):
        query_BKC, key_BKC = widened(query_BKC), widened(key_BKC.detach())
        positive_BK = (query_BKC * key_BKC).sum(dim=-1) / temperature
        negative_BKP = query_BKC @ widened(negative_BPC).mT / temperature
        # log(1 + e^x) keeps small losses exact; torch's default would cut it off at x = 20.
        return nnf.softplus(negative_BKP.logsumexp(dim=-1) - positive_BK, threshold=50)


def negative_diversity(negative_BPC: Tensor) -> Tensor:
    """How far an image's negatives are from each other: half of them against the other half.

        mean |n_p - n_{p + h}|,   p = 1 ... h,   h = floor(P / 2).

    With an odd number the last negative is not compared.

    Args:
        negative_BPC: generated from independent noise; receives the gradient.

    Returns:
        Scalar, the mean over images, pairs and channels; the generator of negatives maximises it.

    Raises:
        ShapeError: if there are fewer than two negatives per image.

    >>> import torch
    >>> negative_diversity(torch.tensor([[[0.0], [1.0], [0.5], [1.5]]])).item()
    0.5
    """
    half = negative_BPC.shape[-2] // 2 if negative_BPC.ndim == 3 else 0
    if half == 0:
        raise ShapeError(
            "`negative_BPC` must be [B, P, C] with at least 2 negatives per image; "
            f"got {tuple(negative_BPC.shape)}."
        )
    with without_autocast(negative_BPC):
        rows_BPC = widened(negative_BPC)
        return (rows_BPC[:, :half] - rows_BPC[:, half : 2 * half]).abs().mean()
