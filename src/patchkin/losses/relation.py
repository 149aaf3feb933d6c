"""Semantic relation consistency: the output's patches should be as alike as the input's.

Shape suffixes: B images, K patches, C channels.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from patchkin.errors import ShapeError, check_same_shape
from patchkin.numerics import unit_rows, widened, without_autocast


def relation_consistency(
    output_BKC: Tensor,
    input_BKC: Tensor,
    *,
    reduction: Literal["sum", "mean"] = "sum",
    renormalize: bool = True,
) -> Tensor:
    """Semantic relation consistency L_SRC (Jung et al. 2022, Eq. 3).

    For each patch k the distribution over all patches of the input, P_k = softmax_i(z_k.z_i), and
    that of the output, Q_k = softmax_i(w_k.w_i); the loss is their Jensen-Shannon divergence. There
    is no temperature, and a patch is compared with itself too.

    Args:
        output_BKC: embeddings w of the output's patches; receives the gradient.
        input_BKC: embeddings z of the input's patches at the same places; constant.
        reduction: over the K patches of an image. "sum" is the paper's and the released one, which
            ties the weight lambda_SRC to K; lambda * K with "mean" is the same. Images are averaged
            in both cases, so that lambda_SRC does not depend on the batch.
        renormalize: scale rows to x / (||x|| + 1e-7) before comparing them. The released code does
            so, although the head has done it once; it matters where the head's outputs are short.
            False takes the rows as they are, which is Eq. 3 for exact unit rows.

    Returns:
        Scalar in nats, in float32 or float64; below 0.33 per patch.

    Raises:
        ShapeError: if the shapes differ or are not [B, K, C].

    >>> rows_BKC = torch.eye(4).expand(2, 4, 4)
    >>> relation_consistency(rows_BKC, rows_BKC).item()
    0.0
    """
    divergence_BK = relation_divergence(output_BKC, input_BKC, renormalize=renormalize)
    return (divergence_BK.sum(dim=1) if reduction == "sum" else divergence_BK.mean(dim=1)).mean()


def relation_divergence(
    output_BKC: Tensor,
    input_BKC: Tensor,
    *,
    renormalize: bool = True,
    rows_at_once: int | None = None,
) -> Tensor:
    """The Jensen-Shannon divergence JSD(P_k, Q_k) of each patch: `relation_consistency` unreduced.

    As written in the paper, the divergence of nearly equal relations is a difference of numbers
    close to log K and drowns in float32 rounding (a true 1.88e-9 came out as -8.4e-8). With
    d = (log Q - log P) / 2 it is

        JSD_k = sum_i P_i e^{d_i} (d_i sinh d_i - cosh d_i log cosh d_i),

    whose terms are all >= 0 and vanish with d, and d follows from the difference of similarities.

    Args:
        output_BKC: as `relation_consistency`; once differentiable.
        input_BKC: as `relation_consistency`.
        renormalize: as `relation_consistency`.
        rows_at_once: patches whose relations are in memory at a time; None: all K, which takes
            about 40 K^2 bytes.

    Returns:
        [B, K] in nats.

    Raises:
        ShapeError: if the shapes differ or are not [B, K, C].

    >>> output_BKC, input_BKC = torch.ones(1, 2, 1), torch.tensor([[[1.0], [-1.0]]])
    >>> relation_divergence(output_BKC, input_BKC)  # JSD of (0.5, 0.5) and (0.881, 0.119)
    tensor([[0.0895, 0.0895]])
    """
    check_same_shape(output_BKC=output_BKC, input_BKC=input_BKC)
    if output_BKC.ndim != 3:
        raise ShapeError(
            "`output_BKC` must be [B, K, C]: images, patches, channels; "
            f"got {tuple(output_BKC.shape)}."
        )
    with without_autocast(output_BKC):
        rows = unit_rows if renormalize else widened
        output_BKC, input_BKC = rows(output_BKC), rows(input_BKC.detach())
        if rows_at_once is None:  # apart: views would add up the gradients in another order
            whole_BK: Tensor = _JensenShannon.apply(
                output_BKC @ output_BKC.mT, input_BKC @ input_BKC.mT
            )
            return whole_BK
        parts = [
            _JensenShannon.apply(some_BKC @ output_BKC.mT, same_BKC @ input_BKC.mT)
            for some_BKC, same_BKC in zip(
                torch.split(output_BKC, rows_at_once, dim=1),
                torch.split(input_BKC, rows_at_once, dim=1),
                strict=True,
            )
        ]
        divergence_BK: Tensor = torch.cat(parts, dim=1)
        return divergence_BK


class _JensenShannon(torch.autograd.Function):
    """JSD of softmax(output) and softmax(input) per row; the input is constant.

    The gradient is Q (g - sum Q g) with g = (log Q - log M) / 2 and M = (P + Q) / 2, written out
    so that the hyperbolic functions need not be differentiated.
    """

    @staticmethod
    def forward(ctx: Any, output_BKK: Tensor, input_BKK: Tensor) -> Tensor:
        p_BKK = input_BKK.softmax(dim=-1)  # Eq. 1
        difference_BKK = output_BKK - input_BKK
        # log Q - log P = difference - (log-sum-exp of the output - that of the input)
        shift_BK1 = (p_BKK * (difference_BKK.exp() - 1)).sum(dim=-1, keepdim=True).log1p()
        d_BKK = (difference_BKK - shift_BK1) / 2
        sinh_half_BKK = (d_BKK / 2).sinh()
        cosh_minus_1_BKK = 2 * sinh_half_BKK.square()
        log_cosh_BKK = cosh_minus_1_BKK.log1p()
        sinh_BKK = 2 * sinh_half_BKK * (1 + sinh_half_BKK.square()).sqrt()
        terms_BKK = d_BKK * sinh_BKK - (1 + cosh_minus_1_BKK) * log_cosh_BKK
        if ctx.needs_input_grad[0]:
            q_BKK = p_BKK * (2 * d_BKK).exp()  # Eq. 2
            g_BKK = (d_BKK - log_cosh_BKK) / 2
            mean_BK1 = (q_BKK * g_BKK).sum(dim=-1, keepdim=True)
            ctx.save_for_backward(q_BKK * (g_BKK - mean_BK1))
        return (p_BKK * d_BKK.exp() * terms_BKK).sum(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_BK: Tensor) -> tuple[Tensor, None]:
        (slope_BKK,) = ctx.saved_tensors
        return gradients_BK[0].unsqueeze(-1) * slope_BKK, None
