"""QS-Attn: places chosen by the entropy of attention, features routed by it (Hu et al., CVPR 2022).

A place of the source attends to the places of its own map by softmax(f_i.f_j), without scale,
temperature or parameters. The places whose attention is most peaked are kept, and the features
there, of the source and of its translation, become sums of features weighted by the source's
attention. Head and contrast follow as ever: `ProjectionHead.embedder` takes the rows.

Differs from the released code: entropies are compared by their logarithms, since with raw features
hundreds are exactly 0 in float32 and the order among them is the sort's; the local form reads its
windows rightly (`layout`); attention is a constant (`released_gradient`); rows of attention are
formed in blocks, not as an N x N matrix. Only the paper's abstract was to be had.

Cost: N^2 C multiplications per map, 4.3 G for a map of 64 x 64 x 256; in memory K N numbers.

Shape suffixes: B images, C channels, H and W pixels of a map, K chosen places, N what a place
attends to (all H * W places, or the P = window^2 of a window), and for entropies all H * W places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.config import check_at_least_one
from patchkin.errors import ConfigError, ShapeError, nearest
from patchkin.networks.places import select_each
from patchkin.numerics import widened, without_autocast

AttentionMode = Literal["global", "local", "local_global"]
"""Attention over the map, or over a window around each place; `local_global` chooses places by the
window and routes over the map."""
WindowLayout = Literal["window", "released"]
"""How the numbers of a window are read: as they are, or as the release does, which takes a list
channel by channel for one place by place and so mixes channels, places and (in mode `local`) the
chosen places with each other. For parity only."""

_BLOCK_NUMBERS = 2**22
"""Numbers of logits or windows formed at a time."""
_TINY_LOGARITHM = -80.0
"""Below, ln(1 + e^a) is e^a to more digits than there are, and would soon underflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """What `route_by_attention` is given, and where. Defaults are the published command's.

    The gradient through the attention is not on offer here: methods keep no graph of the side that
    is held constant.

    >>> AttentionConfig().routed((0, 4, 8, 12, 16)), AttentionConfig(taps=(4,)).routed((0, 4, 8))
    (frozenset({16, 12}), frozenset({4}))
    """

    mode: AttentionMode = "global"
    """Attend to the map, to a window around each place (local), or choose places by the window and
    route over the map (local_global)."""
    taps: tuple[int, ...] | None = None
    """Layers where places are chosen so; the others draw them. By default the last two that are
    compared, which in CUT's generator are the published 12 and 16."""
    window: int = 7
    """Side of the window of the local modes, odd."""
    layout: WindowLayout = "window"
    """`released` mixes channels and places, as the released local modes do. For parity only."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "window")
        if self.window % 2 == 0:
            raise ConfigError(f"`window` must be odd, 1, 3, 5, ...; got {self.window}.")

    def routed(self, taps: Sequence[int]) -> frozenset[int]:
        """Those of the layers that are compared where attention chooses.

        Raises:
            ConfigError: one is named that is not compared.
        """
        chosen = tuple(taps)[-2:] if self.taps is None else self.taps
        absent = sorted(set(chosen) - set(taps))
        if absent:
            raise ConfigError(
                f"`attention.taps` must be among the layers that are compared, "
                f"{', '.join(map(str, taps))}; got {', '.join(map(str, absent))}."
            )
        return frozenset(chosen)


class AttentionRouting(NamedTuple):
    """The places that attention chose in each image, and what it makes of features there."""

    places_BK: Tensor
    """int64 positions y * W + x, each image its own, the most peaked attention first."""
    attention_BKN: Tensor
    """Rows sum to 1."""
    window: int | None
    """Side of the windows that N counts; None for the whole map."""
    layout: WindowLayout
    size: tuple[int, int]
    """Height and width of the map."""

    def rows(self, feature_BCHW: Tensor) -> Tensor:
        """Features routed to the chosen places.

        Args:
            feature_BCHW: the source's map or its translation's, of one size; receives the gradient.

        Returns:
            [B, K, C] in float32 or float64.

        Raises:
            ShapeError: if the map is not as large as the source's, or of other images.
        """
        images = len(self.places_BK)
        if len(feature_BCHW) != images or feature_BCHW.shape[2:] != self.size:
            raise ShapeError(
                f"The attention is of {images} maps of {self.size[0]} x {self.size[1]}; got "
                f"`feature_BCHW` of shape {tuple(feature_BCHW.shape)}. Source and translation must "
                "have one size."
            )
        with without_autocast(feature_BCHW):
            feature_BCHW = widened(feature_BCHW)
            if self.window is None:
                return self.attention_BKN @ feature_BCHW.flatten(2).mT
            windows_BKPC = _windows(feature_BCHW, self.places_BK, self.window)
            if self.layout == "released":
                # one list of all numbers of the image: list by chosen place, read as windows
                windows_BKPC = windows_BKPC.mT.flatten(2).mT.reshape(windows_BKPC.shape)
            return (self.attention_BKN[:, :, None] @ windows_BKPC).squeeze(2)


def route_by_attention(
    source_BCHW: Tensor,
    num_patches: int,
    *,
    mode: AttentionMode = "global",
    window: int = 7,
    layout: WindowLayout = "window",
    released_gradient: bool = False,
) -> AttentionRouting:
    """Choose the places of least entropy, and keep the attention there.

    Args:
        source_BCHW: a map of the source, before the head; constant unless `released_gradient`.
        num_patches: places per image; all, ordered by entropy, if the map has fewer.
        mode: where a place attends to.
        window: side of the window of the local modes, odd; zeros outside the map take part.
        layout: of the windows.
        released_gradient: let the gradient of the routed translation reach the source through the
            attention; the choice of places has none. For parity only.

    Raises:
        ShapeError: if the source is no map.
        ConfigError: if a setting is unknown or out of range.

    >>> map_BCHW = torch.tensor([[[[3.0, 0.0, 0.1]]]])
    >>> routing = route_by_attention(map_BCHW, 1)
    >>> routing.places_BK, routing.rows(map_BCHW)  # the first attends to itself
    (tensor([[0]]), tensor([[[2.9991]]]))
    """
    if mode not in get_args(AttentionMode):
        raise ConfigError(f"Unknown `mode` `{mode}`. {nearest(mode, get_args(AttentionMode))}")
    if num_patches < 1:
        raise ConfigError(f"`num_patches` must be at least 1; got {num_patches}.")
    log_entropy_BN = log_attention_entropy(
        source_BCHW, window=None if mode == "global" else window, layout=layout
    )
    return attention_at(
        source_BCHW,
        least_entropy_places(log_entropy_BN, num_patches),
        window=window if mode == "local" else None,
        layout=layout,
        released_gradient=released_gradient,
    )


def attention_at(
    source_BCHW: Tensor,
    places_BK: Tensor,
    *,
    window: int | None = None,
    layout: WindowLayout = "window",
    released_gradient: bool = False,
) -> AttentionRouting:
    """The attention of the source at given places.

    Args:
        source_BCHW: as `route_by_attention`.
        places_BK: positions y * W + x, each image its own.
        window: side of the window around each place; None for the whole map.
        layout: of the windows.
        released_gradient: as `route_by_attention`.

    Raises:
        ShapeError: as `route_by_attention`.
        ConfigError: as `route_by_attention`.
    """
    _check(source_BCHW, window, layout)
    with nullcontext() if released_gradient else torch.no_grad(), without_autocast(source_BCHW):
        logits_BKN = _logits(widened(source_BCHW), places_BK, window, layout)
        size = (source_BCHW.shape[2], source_BCHW.shape[3])
        return AttentionRouting(places_BK, logits_BKN.softmax(dim=-1), window, layout, size)


@torch.no_grad()
def log_attention_entropy(
    feature_BCHW: Tensor, *, window: int | None = None, layout: WindowLayout = "window"
) -> Tensor:
    """Logarithm of the entropy of each place's attention.

        A_i = softmax_j(f_i.f_j),   H_i = -sum_j A_ij ln A_ij.

    Where one place takes nearly all attention, H is far below the smallest number of float32 but
    its logarithm is still exact.

    Args:
        feature_BCHW: f; constant.
        window: attend to the window of this side around each place, zeros outside the map
            included; None attends to the whole map.
        layout: of the windows.

    Returns:
        [B, H * W] in float32 or float64, at most ln ln N; minus infinity on a map of one place.

    Raises:
        ShapeError: as `route_by_attention`.
        ConfigError: as `route_by_attention`.

    >>> log_attention_entropy(torch.zeros(1, 1, 1, 2)).exp()  # even attention: ln 2
    tensor([[0.6931, 0.6931]])
    """
    _check(feature_BCHW, window, layout)
    with without_autocast(feature_BCHW):
        feature_BCHW = widened(feature_BCHW)
        images, channels, height, width = feature_BCHW.shape
        num_places = height * width
        per_place = num_places if window is None else window * window * channels
        length = max(1, _BLOCK_NUMBERS // (images * per_place))
        places_N = torch.arange(num_places, device=feature_BCHW.device)
        blocks = [
            _log_entropy(_logits(feature_BCHW, part_K.expand(images, -1), window, layout))
            for part_K in torch.split(places_N, length)
        ]
        return torch.cat(blocks, dim=1)


def least_entropy_places(log_entropy_BN: Tensor, num_patches: int) -> Tensor:
    """The places of least entropy in rising order, [B, min(num_patches, N)]; ties: lowest first.

    >>> least_entropy_places(torch.tensor([[0.3, 0.1, 0.1, 0.2]]), 3)
    tensor([[1, 2, 3]])
    """
    return log_entropy_BN.sort(dim=1, stable=True).indices[:, :num_patches]


def saturated_share(log_entropy_BN: Tensor) -> Tensor:
    """The share of places whose attention goes to one place alone: entropy 0 in float32.

    Routing does nothing there. Worth logging: where it nears 1, features are too long for the
    choice to mean much.

    >>> saturated_share(torch.tensor([[-200.0, -3.0, 0.5, 1.0]]))
    tensor(0.2500)
    """
    smallest = math.log(torch.finfo(torch.float32).tiny)
    return (log_entropy_BN < smallest).to(log_entropy_BN.dtype).mean()


def _logits(
    feature_BCHW: Tensor, places_BK: Tensor, window: int | None, layout: WindowLayout
) -> Tensor:
    """What some places give the softmax, [B, K, N]."""
    rows_BNC = feature_BCHW.flatten(2).mT
    queries_BKC = select_each(rows_BNC, places_BK)
    if window is None:
        return queries_BKC @ rows_BNC.mT
    keys_BKPC = _windows(feature_BCHW, places_BK, window)
    if layout == "released":
        keys_BKPC = keys_BKPC.mT.reshape(keys_BKPC.shape)
    return (keys_BKPC @ queries_BKC[..., None]).squeeze(3)


def _windows(feature_BCHW: Tensor, places_BK: Tensor, window: int) -> Tensor:
    """The features around places, row-major, zeros outside the map: [B, K, P, C]."""
    width = feature_BCHW.shape[3]
    rows_BNC = nnf.pad(feature_BCHW, [window // 2] * 4).flatten(2).mT
    padded_width = width + 2 * (window // 2)
    steps_w = torch.arange(window, device=feature_BCHW.device)
    offsets_P = (steps_w[:, None] * padded_width + steps_w).flatten()
    corners_BK = places_BK // width * padded_width + places_BK % width
    return select_each(rows_BNC, corners_BK[..., None] + offsets_P)


def _log_entropy(logits_BKN: Tensor) -> Tensor:
    """The logarithm of H = s e^{-s} + sum_{others} (s - d_j) e^{d_j - s}, [B, K].

    d are the distances to the largest logit, and s = ln(1 + sum_{others} e^{d_j}).
    """
    largest_BK1, place_BK1 = logits_BKN.max(dim=-1, keepdim=True)
    distance_BKN = logits_BKN - largest_BK1
    own_BKN = torch.zeros_like(distance_BKN, dtype=torch.bool).scatter_(-1, place_BK1, True)
    log_others_BK1 = distance_BKN.masked_fill(own_BKN, -math.inf).logsumexp(-1, keepdim=True)
    total_BK1 = torch.logaddexp(log_others_BK1, torch.zeros_like(log_others_BK1))  # s
    log_total_BK1 = torch.where(log_others_BK1 < _TINY_LOGARITHM, log_others_BK1, total_BK1.log())
    others_BKN = distance_BKN - total_BK1 + (total_BK1 - distance_BKN).log()
    others_BK = others_BKN.masked_fill(own_BKN, -math.inf).logsumexp(-1)
    return torch.logaddexp((log_total_BK1 - total_BK1)[..., 0], others_BK)


def _check(feature_BCHW: Tensor, window: int | None, layout: WindowLayout) -> None:
    if feature_BCHW.ndim != 4:
        raise ShapeError(
            f"Attention needs a map [B, C, H, W]; got shape {tuple(feature_BCHW.shape)}."
        )
    if window is not None and (window < 1 or window % 2 == 0):
        raise ConfigError(f"`window` must be odd, 1, 3, 5, ...; got {window}.")
    if layout not in get_args(WindowLayout):
        raise ConfigError(f"Unknown `layout` `{layout}`. {nearest(layout, get_args(WindowLayout))}")
