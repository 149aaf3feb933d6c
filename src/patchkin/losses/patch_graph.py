"""Graphs of patches as dense matrices, and the contrast of their nodes (PatchGCL).

Patches of the source that resemble each other are joined; the same graph is laid over the
translation. Every image has its own graph. Jung, Kwon and Ye, AAAI 2024 (arXiv 2312.08223).

Shape suffixes: B images, K nodes, C channels. In "BKK" rows and columns are nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchkin.errors import ConfigError, ShapeError, check_same_shape
from patchkin.numerics import widened, without_autocast


@torch.no_grad()
def patch_adjacency(rows_BKC: Tensor, threshold: float) -> Tensor:
    """Which patches are joined: those whose similarity exceeds a threshold, and each with itself.

    Args:
        rows_BKC: unit rows of the source; constant.
        threshold: below 1; -1 or less joins all (published: 0.1).

    Returns:
        [B, K, K] of truth values, symmetric.

    Raises:
        ShapeError: if the rows are not [B, K, C].
        ConfigError: if the threshold is 1 or more.

    >>> rows_BKC = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]])
    >>> patch_adjacency(rows_BKC, 0.7).int()
    tensor([[[1, 0, 0],
             [0, 1, 1],
             [0, 1, 1]]], dtype=torch.int32)
    """
    if threshold >= 1:
        raise ConfigError(f"`threshold` must be below 1; got {threshold}.")
    if rows_BKC.ndim != 3:
        raise ShapeError(
            f"`rows_BKC` must be [B, K, C]: images, nodes, channels; got {tuple(rows_BKC.shape)}."
        )
    with without_autocast(rows_BKC):
        rows_BKC = widened(rows_BKC)
        return _with_diagonal(rows_BKC @ rows_BKC.mT > threshold)


@torch.no_grad()
def two_step_adjacency(adjacency_BKK: Tensor) -> Tensor:
    """Which nodes are at most two steps apart, [B, K, K] of truth values.

    >>> chain_BKK = torch.tensor([[[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]]).bool()
    >>> two_step_adjacency(chain_BKK)[0, 0]
    tensor([ True,  True,  True, False])
    """
    with without_autocast(adjacency_BKK):
        steps_BKK = adjacency_BKK.float()  # counts up to K are exact
        return steps_BKK @ steps_BKK > 0


def propagation(adjacency_BKK: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What carries features over one hop: P = D^{-1/2} M D^{-1/2}, M = A + I.

    The graph library of the release adds a loop to every node whether or not it has one, so M is 2
    on the diagonal; both loops count in the degrees D.

    Args:
        adjacency_BKK: A, truth values, true on the diagonal.
        dtype: of the result.

    >>> propagation(torch.ones(1, 2, 2, dtype=torch.bool))
    tensor([[[0.6667, 0.3333],
             [0.3333, 0.6667]]])
    """
    own_KK = torch.eye(adjacency_BKK.shape[-1], dtype=dtype, device=adjacency_BKK.device)
    matrix_BKK = adjacency_BKK.to(dtype) + own_KK
    scale_BK = matrix_BKK.sum(dim=-1).rsqrt()
    return scale_BK[..., :, None] * matrix_BKK * scale_BK[..., None, :]


def two_way_contrast(source_BKC: Tensor, target_BKC: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE from source to target and from target to source, summed (Jung et al. 2024).

        L = mean_i (ln sum_j e^{s_ij} - s_ii) + mean_j (ln sum_i e^{s_ij} - s_jj),
        s_ij = v_i.z_j / tau.

    Args:
        source_BKC: unit rows v of the source's nodes; constant.
        target_BKC: unit rows z of the translation's nodes; receives the gradient.
        temperature: tau.

    Returns:
        Loss per image in nats, [B], at least 0; 0 for a single node.

    Raises:
        ShapeError: if the rows are not [B, K, C], or differ in shape.
        ConfigError: if tau is not positive.

    >>> rows_BKC = torch.eye(2).unsqueeze(0)
    >>> two_way_contrast(rows_BKC, rows_BKC, temperature=1.0)  # 2 log(1 + 1 / e)
    tensor([0.6265])
    """
    if temperature <= 0:
        raise ConfigError(f"`temperature` must be positive; got {temperature}.")
    if source_BKC.ndim != 3:
        raise ShapeError(
            "`source_BKC` must be [B, K, C]: images, nodes, channels; "
            f"got {tuple(source_BKC.shape)}."
        )
    check_same_shape(source_BKC=source_BKC, target_BKC=target_BKC)
    with without_autocast(target_BKC):
        source_BKC, target_BKC = widened(source_BKC.detach()), widened(target_BKC)
        logits_BKK = source_BKC @ target_BKC.mT / temperature
        both_BK = logits_BKK.logsumexp(dim=-1) + logits_BKK.logsumexp(dim=-2)
        return (both_BK - 2 * logits_BKK.diagonal(dim1=-2, dim2=-1)).mean(dim=-1)


def _with_diagonal(matrix_BKK: Tensor) -> Tensor:
    """Rounding could leave a row's similarity with itself below a threshold near 1."""
    return matrix_BKK | torch.eye(matrix_BKK.shape[-1], dtype=torch.bool, device=matrix_BKK.device)
