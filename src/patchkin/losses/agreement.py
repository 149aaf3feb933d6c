"""Agreement of two views without negatives: EnCo's content term (SimSiam's and BYOL's distance).

Shape suffixes: B images, K patches, C channels of an embedded patch.
"""

from __future__ import annotations

import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import check_same_shape
from patchkin.numerics import widened, without_autocast

_FLOOR = 1e-8
"""Least length by which a row is divided."""


def disagreement(query_BKC: Tensor, key_BKC: Tensor, *, stop_gradient: bool = True) -> Tensor:
    """The squared distance of unit vectors (Cai et al. 2024; its abstract calls it MSE).

        loss = |q / |q| - k / |k||^2 = 2 - 2 cos(q, k)

    Args:
        query_BKC: predictions of the key; receives the gradient.
        key_BKC: what is to be predicted; constant, unless not `stop_gradient`.
        stop_gradient: whether the key is constant.

    Returns:
        Loss per patch, [B, K], from 0 to 4; 2 where both have nothing to do with each other.

    Raises:
        ShapeError: if the shapes differ.

    >>> import torch
    >>> rows_BKC = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> disagreement(rows_BKC, 3 * rows_BKC.flip(0, 2)), disagreement(rows_BKC, -rows_BKC)
    (tensor([[2., 2.]]), tensor([[4., 4.]]))
    """
    check_same_shape(query_BKC=query_BKC, key_BKC=key_BKC)
    with without_autocast(query_BKC):
        key_BKC = widened(key_BKC.detach() if stop_gradient else key_BKC)
        return 2 - 2 * nnf.cosine_similarity(widened(query_BKC), key_BKC, dim=-1, eps=_FLOOR)
