"""Patches of outputs and of inputs, brought together: what every patch loss compares.

Places are drawn on the input's maps (`draw_places`, `SharedPlaces`), both sides are read at them
and embedded by a head. All methods do so here: another way to choose places, or to read features at
them, needs to be known here only.

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from patchkin.errors import ConfigError


class Head(Protocol):
    """What embeds patches, such as a `ProjectionHead`."""

    def __call__(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """Rows [B, K, width] per tap, from maps [B, C, H, W] at places [K]."""
        ...


def embedded_pairs(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    places: Sequence[Tensor],
    *,
    query_head: Head,
    key_head: Head,
) -> list[tuple[Tensor, Tensor]]:
    """Embedded patches w of outputs and z of inputs at the same places (Jung et al. 2022, Fig. 3).

    Args:
        queries: a map [B, C, H, W] of the outputs per tap; receive the gradient.
        keys: maps of the inputs; constant.
        places: positions y * W + x [K] per tap, shared by the images.
        query_head: embeds the outputs; receives the gradient.
        key_head: embeds the inputs, without graph; often the same.

    Returns:
        (queries, keys) [B, K, width] per tap.

    >>> from patchkin.networks import ProjectionHead
    >>> head, x_BCHW = ProjectionHead([3], width=8), torch.rand(2, 3, 4, 4, requires_grad=True)
    >>> ((query_BKC, key_BKC),) = embedded_pairs(
    ...     [x_BCHW], [x_BCHW], [torch.tensor([5, 0])], query_head=head, key_head=head
    ... )
    >>> torch.equal(query_BKC, key_BKC), query_BKC.requires_grad, key_BKC.requires_grad
    (True, True, False)
    """
    with torch.no_grad():
        key_rows = key_head(keys, places)
    return list(zip(query_head(queries, places), key_rows, strict=True))


def check_patches(taps: Sequence[int], num_patches: int, *, fewest: int = 1) -> None:
    """Refuse settings that leave nothing to compare.

    Raises:
        ConfigError: there are no taps, or too few patches.

    >>> check_patches((), 256)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: `taps` must name at least one layer of the generator.
    """
    if not taps:
        raise ConfigError("`taps` must name at least one layer of the generator.")
    if num_patches < fewest:
        raise ConfigError(f"`num_patches` must be at least {fewest}; got {num_patches}.")
