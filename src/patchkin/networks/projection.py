"""The projection head F: patches of feature maps become unit vectors that losses compare.

A place is a position y * W + x on the map of its tap.

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.networks.attention import AttentionRouting
from patchkin.networks.cpu.layout import layout_of
from patchkin.networks.places import gather_each
from patchkin.numerics import unit_rows, without_autocast
from patchkin.randomness import Draws, sent


def gather_places(feature_BCHW: Tensor, places_K: Tensor) -> Tensor:
    """The feature vectors at `places_K`, the same places in every image.

    Args:
        feature_BCHW: a map; receives the gradient, laid out as the map itself.
        places_K: int64 positions y * W + x.

    Returns:
        [B, K, C].

    Raises:
        ShapeError: if a place is outside the map. Places on an accelerator are not checked here,
            since that would wait for it, nor in compiled code; they fail in the kernel.

    >>> import torch
    >>> gather_places(torch.arange(6.0).reshape(1, 1, 2, 3), torch.tensor([5, 0]))
    tensor([[[5.],
             [0.]]])
    """
    height, width = feature_BCHW.shape[2:]
    checked = places_K.device.type == "cpu" and not torch.compiler.is_compiling()
    if checked and len(places_K):
        low, high = int(places_K.min()), int(places_K.max())
        if low < 0 or high >= height * width:
            raise ShapeError(
                f"`places_K` must be positions on a map of {height} x {width}, that is 0 to "
                f"{height * width - 1}; got {low} to {high}. Were they drawn for another tap?"
            )
    places_K = sent(places_K, feature_BCHW.device)
    if layout_of(feature_BCHW) == torch.channels_last:
        return feature_BCHW.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, places_K)
    # Index the last axis: permuting first would hand channels-last gradients to the layer below.
    return feature_BCHW.flatten(2).index_select(2, places_K).mT


Places: TypeAlias = Tensor | AttentionRouting
"""Where a map is read: positions [K] shared by the images, [B, K] of each image, or those that
attention chose, with what it makes of the features there."""


def patches_at(feature_BCHW: Tensor, places: Places) -> Tensor:
    """The feature vectors at places of any kind, [B, K, C].

    >>> import torch
    >>> map_BCHW = torch.arange(4.0).reshape(2, 1, 1, 2)
    >>> patches_at(map_BCHW, torch.tensor([1])).flatten().tolist()
    [1.0, 3.0]
    >>> patches_at(map_BCHW, torch.tensor([[1], [0]])).flatten().tolist()
    [1.0, 2.0]
    """
    if isinstance(places, AttentionRouting):
        return places.rows(feature_BCHW)
    if places.ndim == 2:
        return gather_each(feature_BCHW, places)
    return gather_places(feature_BCHW, places)


def draw_places(features: Sequence[Tensor], num_patches: int, draws: Draws) -> list[Tensor]:
    """Places for each map, min(num_patches, H * W) of them, on the maps' device.

    >>> import torch
    >>> from patchkin.randomness import SeededDraws
    >>> maps = [torch.zeros(2, 3, 4, 5), torch.zeros(2, 8, 2, 1)]
    >>> [len(places_K) for places_K in draw_places(maps, 6, SeededDraws(seed=0, step=0))]
    [6, 2]
    """
    return [
        sent(draws.places(feature.shape[2] * feature.shape[3], num_patches), feature.device)
        for feature in features
    ]


class SharedPlaces:
    """Places that are drawn when maps of a size first ask for them and stay: for the parts of a
    batch.

    >>> import torch
    >>> from patchkin.randomness import SeededDraws
    >>> places, maps = SharedPlaces(SeededDraws(0, 0), 3), [torch.zeros(1, 2, 9, 9)]
    >>> torch.equal(places.on(maps)[0], places.on(maps)[0])
    True
    """

    def __init__(self, draws: Draws, num_patches: int) -> None:
        self._draws = draws
        self._num_patches = num_patches
        self._drawn: dict[tuple[torch.Size, ...], list[Tensor]] = {}

    def on(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Places on maps; the same for maps of the same sizes."""
        sizes = tuple(feature.shape[2:] for feature in features)
        if sizes not in self._drawn:
            self._drawn[sizes] = draw_places(features, self._num_patches, self._draws)
        return self._drawn[sizes]


class ProjectionHead(nn.Module):
    """A two-layer perceptron per tap, then unit length (CUT's `mlp_sample`).

    The head runs in float32 under autocast: with the released initialisation its outputs have
    lengths from 3e-5 on, below the normal numbers of float16, before they are scaled to 1.

    Args:
        channels: of the map at each tap.
        width: length of an embedded patch.

    >>> import torch
    >>> head = ProjectionHead([3, 8], width=16)
    >>> maps = [torch.randn(2, 3, 5, 4), torch.randn(2, 8, 2, 2)]
    >>> rows = head(maps, [torch.tensor([19, 0, 7]), torch.tensor([3])])
    >>> [tuple(rows_BKC.shape) for rows_BKC in rows]
    [(2, 3, 16), (2, 1, 16)]
    """

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(count, width), nn.ReLU(), nn.Linear(width, width))
            for count in channels
        )

    def forward(self, features: Sequence[Tensor], places: Sequence[Places]) -> list[Tensor]:
        """Embed the patches at `places`.

        Args:
            features: a map [B, C, H, W] per tap; receive the gradient.
            places: per tap: int64 positions [K] shared by the images, or any other `Places`.

        Returns:
            Rows x / (||x|| + 1e-7), [B, K, width] per tap.

        Raises:
            ShapeError: if the numbers of maps, places and taps differ, a map has other channels
                than its tap, or a place is outside its map.
        """
        if not len(features) == len(places) == len(self.mlps):
            raise ShapeError(
                f"The head has {len(self.mlps)} taps and needs a map and places for each; got "
                f"{len(features)} maps and {len(places)} sets of places."
            )
        return [
            self._embed(mlp, feature, chosen, tap)
            for tap, (mlp, feature, chosen) in enumerate(
                zip(self.mlps, features, places, strict=True)
            )
        ]

    def _embed(self, mlp: nn.Module, feature_BCHW: Tensor, places: Places, tap: int) -> Tensor:
        weight = mlp.get_parameter("0.weight")
        if feature_BCHW.shape[1] != weight.shape[1]:
            raise ShapeError(
                f"Map {tap} must have {weight.shape[1]} channels for this head; got "
                f"{feature_BCHW.shape[1]}. Was the head made for other taps?"
            )
        return _unit_embedding(mlp, patches_at(feature_BCHW, places))

    def embedder(self, index: int) -> Callable[[Tensor], Tensor]:
        """What embeds feature vectors [..., C] of the tap at this place in the list of taps."""
        return partial(_unit_embedding, self.mlps[index])


def _unit_embedding(mlp: nn.Module, rows: Tensor) -> Tensor:
    with without_autocast(rows):
        return unit_rows(mlp(rows.to(mlp.get_parameter("0.weight").dtype)))


class PatchMap(NamedTuple):
    """The map of one tap, and what makes its patches comparable."""

    tap: int
    """Which layer of the generator."""
    feature_BCHW: Tensor
    embed: Callable[[Tensor], Tensor]
    """Feature vectors [..., C] become unit vectors."""
    origin: int
    """Row and column of the image's first pixel, on a padded map; 0 on the others."""
    field_pixels: int
    """Side of the square of the image that a patch depends on, norms apart."""


class Tapped(Protocol):
    """A generator whose inner maps can be read."""

    def encode(self, x_BCHW: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """The maps at `taps`."""
        ...

    def tap_origin(self, tap: int) -> int:
        """Row and column of the image's first pixel on the map at `tap`."""
        ...

    def tap_fields(self, taps: Sequence[int]) -> list[int]:
        """Sides of the receptive fields at `taps`."""
        ...


def patch_maps(
    generator: Tapped, head: ProjectionHead, taps: Sequence[int], x_BCHW: Tensor
) -> list[PatchMap]:
    """The maps that a method compares, with its head.

    >>> from patchkin.networks import ResNetConfig, ResNetGenerator
    >>> import torch
    >>> generator = ResNetGenerator(ResNetConfig(ngf=2, blocks=1))
    >>> head = ProjectionHead(generator.tap_channels((0, 4)), width=16)
    >>> padded, later = patch_maps(generator, head, (0, 4), torch.zeros(1, 3, 8, 12))
    >>> padded.feature_BCHW.shape, padded.origin, later.feature_BCHW.shape, later.field_pixels
    (torch.Size([1, 3, 14, 18]), 3, torch.Size([1, 4, 8, 12]), 9)
    """
    features, fields = generator.encode(x_BCHW, taps), generator.tap_fields(taps)
    return [
        PatchMap(tap, feature, head.embedder(index), generator.tap_origin(tap), field)
        for index, (tap, feature, field) in enumerate(zip(taps, features, fields, strict=True))
    ]


__all__ = [
    "PatchMap",
    "Places",
    "ProjectionHead",
    "SharedPlaces",
    "draw_places",
    "gather_places",
    "patch_maps",
    "patches_at",
    "unit_rows",
]
