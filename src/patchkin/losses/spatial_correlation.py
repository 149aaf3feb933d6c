"""Spatially-correlative losses: what is alike within an image should be alike in its translation.

A self-similarity map says how much the feature at a place resembles the features around it. It does
not know what things look like, so the maps of an input and of its translation can be compared.

Shape suffixes: B images, C channels, H and W pixels of a feature map, K places, N positions that a
place is compared with.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import ConfigError, ShapeError, check_same_shape, nearest
from patchkin.numerics import widened, without_autocast
from patchkin.randomness import sent

MapComparison = Literal["cosine", "l1"]
"""How two similarity maps are compared (released: `cos`, `l1`)."""

_EPSILON = 1e-12


def self_similarity(
    feature_BCHW: Tensor, places_K: Tensor | None = None, *, window: int, unit: bool = False
) -> Tensor:
    """Self-similarity maps (Zheng et al. 2021, as released).

    The channel means over the map are subtracted from the features f; then

        S = tanh(f_p . f_q / (10 C)),   or with unit-length features   S = f_p . f_q.

    Around place p lie the positions q of a window of `window` x `window`, shifted to stay inside
    the map; all positions, if the map is no larger than the window in height or width. (The
    released code finds the row of a place by dividing by H where W is meant, which is wrong on
    maps that are not square.)

    Args:
        feature_BCHW: f; receives the gradient through both factors and through the means.
        places_K: positions y * W + x, the same in every image; None takes all.
        window: side of the window in pixels of the map.
        unit: scale features to unit length instead of dividing by sqrt(C).

    Returns:
        [B, K, N] in (-1, 1) or [-1, 1], in float32 or float64; row-major in the window.

    Raises:
        ShapeError: if the features are no maps.
        ConfigError: if the window is empty.

    >>> feature_BCHW = torch.tensor([[[[1.0, 1.0, -2.0]]]])
    >>> self_similarity(feature_BCHW, torch.tensor([0]), window=5, unit=True)
    tensor([[[ 1.,  1., -1.]]])
    """
    if feature_BCHW.ndim != 4:
        raise ShapeError(f"`feature_BCHW` must be [B, C, H, W]; got {tuple(feature_BCHW.shape)}.")
    if window < 1:
        raise ConfigError(f"`window` must be at least 1; got {window}.")
    channels, height, width = feature_BCHW.shape[1:]
    with without_autocast(feature_BCHW):
        keys_BCN = widened(feature_BCHW).flatten(2)
        keys_BCN = keys_BCN - keys_BCN.mean(dim=2, keepdim=True)
        if unit:
            keys_BCN = nnf.normalize(keys_BCN, dim=1, eps=_EPSILON)
        else:
            keys_BCN = keys_BCN / math.sqrt(channels)
        if places_K is None:
            places_K = torch.arange(height * width, device=feature_BCHW.device)
        places_K = sent(places_K, feature_BCHW.device)
        similarity_BKN = keys_BCN.index_select(2, places_K).mT @ keys_BCN
        if window < height and window < width:
            # All products cost less than copying a window of features for every place.
            around_KN = _windows(places_K, height, width, window)
            similarity_BKN = similarity_BKN.gather(2, around_KN.expand(len(keys_BCN), -1, -1))
        return similarity_BKN if unit else torch.tanh(similarity_BKN / 10)


def structure_distance(
    source_BKN: Tensor,
    target_BKN: Tensor,
    *,
    comparison: MapComparison = "cosine",
    unit: bool = False,
) -> Tensor:
    """How much the similarity maps of a translation differ from those of its input.

    Each map counts only where the translation's own similarity is in its top quarter: floor(N / 4)
    + 1 positions, more if there are ties; there is no gradient through the choice. Elsewhere both
    are 0.

        cosine: mean crit(1, cos(S, T))        l1: mean crit(a S, a T),   a = N / floor(N / 4)

    crit is |x - y|, or without unit-length features smooth L1, half the square below 1.

    Args:
        source_BKN: S, maps of the input; receives the gradient.
        target_BKN: T, maps of the translation at the same places; receives the gradient.
        comparison: of two maps.
        unit: whether the features had unit length.

    Returns:
        Scalar, the mean over places (for l1 also over all N) and images.

    Raises:
        ShapeError: if the shapes differ.
        ConfigError: if the comparison is unknown.

    >>> maps_BKN = torch.tensor([[[0.9, 0.1, 0.2, 0.3]]])
    >>> structure_distance(maps_BKN, maps_BKN).item()
    0.0
    """
    check_same_shape(source_BKN=source_BKN, target_BKN=target_BKN)
    if comparison not in get_args(MapComparison):
        raise ConfigError(
            f"Unknown comparison `{comparison}`. {nearest(comparison, get_args(MapComparison))}"
        )
    criterion = nnf.l1_loss if unit else nnf.smooth_l1_loss
    with without_autocast(target_BKN):
        source_BKN, target_BKN = widened(source_BKN), widened(target_BKN)
        num_positions = target_BKN.shape[-1]
        quarter = num_positions // 4
        least_BK1 = target_BKN.detach().topk(quarter + 1, dim=-1).values[..., -1:]
        counted_BKN = target_BKN.detach() >= least_BK1
        source_BKN, target_BKN = source_BKN * counted_BKN, target_BKN * counted_BKN
        if comparison == "cosine":
            cosine_BK = nnf.cosine_similarity(source_BKN, target_BKN, dim=-1)
            return criterion(cosine_BK, torch.ones_like(cosine_BK))
        scale = num_positions / max(1, quarter)
        return criterion(scale * source_BKN, scale * target_BKN)


def structure_contrast(
    source_BKN: Tensor, target_BKN: Tensor, other_BKN: Tensor, *, temperature: float
) -> Tensor:
    """The contrast that trains a selector of features.

    With maps of unit length, the map of place i in S should be closer to that of place i in T than
    to T's other maps, and than the maps of another image O are to either:

        mean_i -log( e^{S_i.T_i / tau} / sum_j (e^{S_i.T_j / tau} + e^{S_i.O_j / tau}
                                                + e^{T_i.O_j / tau}) ).

    Args:
        source_BKN: S, maps of an image.
        target_BKN: T, maps of an image with the same structure.
        other_BKN: O, maps of an image with another structure. All receive the gradient.
        temperature: tau.

    Returns:
        Scalar in nats, the mean over places and images; image b meets only image b.

    Raises:
        ShapeError: if the shapes differ.
        ConfigError: if tau is not positive.

    >>> maps_BKN = torch.eye(2)[None]
    >>> round(structure_contrast(maps_BKN, maps_BKN, -maps_BKN, temperature=1.0).item(), 4)
    0.8647
    """
    check_same_shape(source_BKN=source_BKN, target_BKN=target_BKN, other_BKN=other_BKN)
    if temperature <= 0:
        raise ConfigError(f"`temperature` must be positive; got {temperature}.")
    with without_autocast(target_BKN):
        source, target, other = (
            nnf.normalize(widened(maps), dim=-1, eps=_EPSILON)
            for maps in (source_BKN, target_BKN, other_BKN)
        )
        same_BKK = source @ target.mT
        logits = torch.cat([same_BKK, source @ other.mT, target @ other.mT], dim=-1) / temperature
        positive_BK = same_BKK.diagonal(dim1=-2, dim2=-1) / temperature
        return (logits.logsumexp(dim=-1) - positive_BK).mean()


def _windows(places_K: Tensor, height: int, width: int, window: int) -> Tensor:
    """Positions in the window around each place, [K, window * window], row-major."""
    steps = torch.arange(window, device=places_K.device)
    rows_Kw = (places_K // width - window // 2).clamp(0, height - window)[:, None] + steps
    columns_Kw = (places_K % width - window // 2).clamp(0, width - window)[:, None] + steps
    return (rows_Kw[:, :, None] * width + columns_Kw[:, None, :]).flatten(1)
