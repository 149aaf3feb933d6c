"""Places that each image has for itself: gathering them, and choosing them by a discriminator.

A place is a position y * W + x on a map. `projection.py` has the places that images share.

Shape suffixes: B images, C channels, H and W pixels of a map, h and w patches of a discriminator, K
places, N judgements of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from patchkin.config import check_at_least_one
from patchkin.errors import ConfigError, ShapeError
from patchkin.numerics import widened
from patchkin.randomness import Draws, sent


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceConfig:
    """What `guided_places` is given. Defaults are EnCo's."""

    oversampling: int = 4
    """Candidates per place."""
    random_share: float = 0.5
    """Of the places, those that are drawn all the same."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "oversampling")
        if not 0 <= self.random_share <= 1:
            raise ConfigError(f"`random_share` must be in [0, 1]; got {self.random_share}.")


def gather_each(feature_BCHW: Tensor, places_BK: Tensor) -> Tensor:
    """The feature vectors at places that differ between the images; a place may come twice.

    Args:
        feature_BCHW: a map; receives the gradient.
        places_BK: int64 positions y * W + x, as many for each image.

    Returns:
        [B, K, C].

    Raises:
        ShapeError: if images and places differ in number, or a place is outside the map (which is
            not checked on an accelerator, nor in compiled code).

    >>> gather_each(torch.arange(6.0).reshape(1, 1, 2, 3), torch.tensor([[5, 0, 5]]))
    tensor([[[5.],
             [0.],
             [5.]]])
    """
    images, _, height, width = feature_BCHW.shape
    if places_BK.ndim != 2 or len(places_BK) != images:
        raise ShapeError(
            f"`places_BK` must be [{images}, K], a row for each image; "
            f"got {tuple(places_BK.shape)}."
        )
    checked = places_BK.device.type == "cpu" and not torch.compiler.is_compiling()
    if checked and places_BK.numel():
        low, high = int(places_BK.min()), int(places_BK.max())
        if low < 0 or high >= height * width:
            raise ShapeError(
                f"`places_BK` must be positions on a map of {height} x {width}, that is 0 to "
                f"{height * width - 1}; got {low} to {high}. Were they drawn for another tap?"
            )
    return select_each(feature_BCHW.flatten(2).mT, places_BK)


def select_each(rows_BNC: Tensor, places: Tensor) -> Tensor:
    """Rows of each image at its own places.

    The gradient of a row that comes twice is summed in a fixed order on every device, unlike that
    of `torch.gather`.

    Args:
        rows_BNC: receives the gradient.
        places: int64 numbers of rows, [B, ...].

    Returns:
        [B, ..., C].

    >>> select_each(torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([[1], [0]]))
    tensor([[[2.]],
            [[3.]]])
    """
    images = torch.arange(len(rows_BNC), device=rows_BNC.device)
    return rows_BNC[images.view(-1, *[1] * (places.ndim - 1)), sent(places, rows_BNC.device)]


def guided_places(
    logits_BNhw: Tensor,
    size: tuple[int, int],
    num_patches: int,
    draws: Draws,
    *,
    oversampling: int = 4,
    random_share: float = 0.5,
) -> Tensor:
    """Places that look fake to a discriminator, and some at random (EnCo's DAG; Cai et al. 2024).

    Of K = min(num_patches, H * W) places, floor(K * random_share) are random. The others are those
    of lowest logit among min(K * oversampling, H * W) random candidates; ties: earlier candidate
    first. Random places may repeat guided ones, which then count twice.

    Args:
        logits_BNhw: what the discriminator says of each translation; constant. Of N judgements (a
            discriminator with features) the mean counts.
        size: height and width of the map on which places are wanted.
        num_patches: places per image.
        draws: of the step; two draws, each with its own numbers for each image.
        oversampling: candidates per place, at least 1.
        random_share: 1 takes random places alone.

    Returns:
        int64 positions y * W + x, [B, K]: the guided ones by rising logit, then the random ones.

    Raises:
        ShapeError: if the logits are no map.
        ConfigError: if the share is not within 0 and 1, or there are fewer candidates than places.

    >>> from patchkin.randomness import SeededDraws
    >>> logits_BNhw = torch.tensor([[[[0.0, 9.0]]]])
    >>> guided_places(logits_BNhw, (1, 4), 2, SeededDraws(0, 0), random_share=0.0)
    tensor([[0, 1]])
    """
    if not 0 <= random_share <= 1:
        raise ConfigError(f"`random_share` must be in [0, 1]; got {random_share}.")
    if oversampling < 1:
        raise ConfigError(f"`oversampling` must be at least 1; got {oversampling}.")
    num_places = size[0] * size[1]
    num_chosen = min(num_patches, num_places)
    num_random = int(num_chosen * random_share)
    parts = []
    if num_random < num_chosen:
        order_BN = _permutations(draws, len(logits_BNhw), num_places, logits_BNhw.device)
        candidates_BM = order_BN[:, : num_chosen * oversampling]
        values_BM = enlarged(logits_BNhw, size).gather(1, candidates_BM)
        rising_BM = values_BM.sort(dim=1, stable=True).indices
        parts.append(candidates_BM.gather(1, rising_BM[:, : num_chosen - num_random]))
    if num_random:
        order_BN = _permutations(draws, len(logits_BNhw), num_places, logits_BNhw.device)
        parts.append(order_BN[:, num_places - num_random :])
    return torch.cat(parts, dim=1)


def enlarged(logits_BNhw: Tensor, size: tuple[int, int]) -> Tensor:
    """The logit at each place of a map, bilinear and without graph: [B, H * W], float32 or float64.

    Of several judgements of a place it is the mean.

    As `interpolate` without aligned corners, but the border's values are repeated to the bit, so
    that ties there are ties whatever the rounding of the logits.

    >>> enlarged(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
    tensor([[0., 1., 3., 4.]])
    """
    if logits_BNhw.ndim != 4:
        raise ShapeError(
            "A discriminator that guides must give a map [B, N, h, w]; "
            f"got {tuple(logits_BNhw.shape)}."
        )
    map_BHW = widened(logits_BNhw.detach()).mean(dim=1)
    for dim, length in zip((1, 2), size, strict=True):
        before, behind, share = _neighbours(map_BHW.shape[dim], length, map_BHW)
        share = share.view(-1, *[1] * (2 - dim))
        map_BHW = map_BHW.index_select(dim, before).lerp(map_BHW.index_select(dim, behind), share)
    return map_BHW.flatten(1)


def _neighbours(length: int, enlarged: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each enlarged position the two next to it on the axis, and the share of the second."""
    positions = torch.arange(enlarged, dtype=like.dtype, device=like.device)
    positions = ((positions + 0.5) * (length / enlarged) - 0.5).clamp(0, length - 1)
    before = positions.long()
    return before, (before + 1).clamp(max=length - 1), positions - before


def _permutations(draws: Draws, num_images: int, num_places: int, device: torch.device) -> Tensor:
    """A random order of all places for each image, [B, N]."""
    order_BN = sent(draws.uniform_rows(num_images, num_places), device)
    return order_BN.argsort(dim=1, stable=True)
