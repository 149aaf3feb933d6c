"""LSeSim's spatially-correlative loss, fixed or learned (Zheng, Cham and Cai, CVPR 2021).

Shape suffixes: B images, C channels, H and W pixels, K places,
N positions that a place is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from patchkin.config import check_at_least_one, check_not_negative, check_positive
from patchkin.errors import ConfigError
from patchkin.losses import mean_over_taps
from patchkin.losses.spatial_correlation import (
    MapComparison,
    self_similarity,
    structure_contrast,
    structure_distance,
)
from patchkin.networks import InitConfig, SharedPlaces, initialize
from patchkin.networks.vgg import VGG16_WIDTH, FeatureSelector, VGGFeatures


@dataclass(frozen=True, kw_only=True, slots=True)
class StructureConfig:
    """Defaults are the settings that LSeSim's author recommends."""

    weight: float = 10.0
    """lambda_spatial."""
    features: Literal["vgg16", "random"] = "vgg16"
    """Of which network. `random` has VGG16's layers with seeded weights that learned nothing."""
    vgg_weights: str | None = None
    """File with torchvision's VGG16; needed to train, not to translate."""
    feature_width: int = VGG16_WIDTH
    """Channels of the first stage; other than 64 only with `random`."""
    layers: tuple[int, ...] = (4, 7, 9)
    """Rectifiers of VGG16 whose maps are compared: relu3_1, relu4_1, relu4_3."""
    num_patches: int = 256
    """Places drawn per layer, shared by the images of a batch; fewer if the map has fewer. 0 takes
    all."""
    window: int = 32
    """Side of the window around a place (64 with fixed features)."""
    learned: bool = True
    """Train a selector of features; without it the loss is FSeSim's."""
    temperature: float = 0.07
    """tau of the selector's contrast."""
    comparison: MapComparison = "cosine"
    """Of two maps (released: loss_mode)."""
    unit_features: bool = False
    """Scale features to unit length (released: use_norm)."""

    def __post_init__(self) -> None:
        check_not_negative(self, "num_patches")
        check_at_least_one(self, "window")
        check_positive(self, "temperature")


def check_colours(channels: int, name: str) -> None:
    """Refuse images that VGG16 cannot see.

    Raises:
        ConfigError: they are neither grey nor colour.

    >>> check_colours(4, "in_channels")
    Traceback (most recent call last):
    patchkin.errors.ConfigError: VGG16 sees grey or colour images: `in_channels` must be 1 or 3;
    got 4.
    """
    if channels not in (1, 3):
        raise ConfigError(
            f"VGG16 sees grey or colour images: `{name}` must be 1 or 3; got {channels}."
        )


class StructureContent(nn.Module):
    """How unlike the structure of an image and its translation is, and the selector that says so.

    Its parameters are the selector's; VGG16 does not learn and is no part of a checkpoint.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> small = StructureConfig(features="random", feature_width=2, layers=(1, 2), num_patches=9)
    >>> content, x_BCHW = StructureContent(small), torch.rand(2, 3, 16, 16)
    >>> from patchkin.randomness import SeededDraws
    >>> places, features = SharedPlaces(SeededDraws(0, 0), 9), content.vgg(x_BCHW)
    >>> round(content.distance(features, features, places).item(), 6)
    0.0
    """

    def __init__(self, config: StructureConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StructureConfig()
        self.vgg = VGGFeatures(
            config.layers,
            weights=config.vgg_weights,
            random=config.features == "random",
            width=config.feature_width,
        )
        self.selector = FeatureSelector(self.vgg.channels) if config.learned else None
        initialize(self, InitConfig(kind="normal"))

    def distance(
        self, source: Sequence[Tensor], output: Sequence[Tensor], places: SharedPlaces
    ) -> Tensor:
        """The distance of the similarity maps, a scalar, the mean over layers.

        Args:
            source: VGG16's features of images, per layer; receive the gradient, unless they were
                made without graph.
            output: features of their translations; receive the gradient.
            places: where the maps are compared.
        """
        config = self.config
        return mean_over_taps(
            structure_distance(*pair, comparison=config.comparison, unit=config.unit_features)
            for pair in self._similarities([source, output], places)
        )

    def contrast(
        self,
        source: Sequence[Tensor],
        same: Sequence[Tensor],
        other: Sequence[Tensor],
        places: SharedPlaces,
    ) -> Tensor:
        """What the selector learns by, a scalar in nats, the mean over layers.

        An image belongs to its translation, and to itself in other colours (`ColourChange`).
        Another image, turned by 180 degrees, belongs to neither, in its own colours or others.

        Args:
            source: VGG16's features of images, per layer, without graph.
            same: features of images of the same structure, without graph.
            other: features of images of another structure, without graph.
            places: where the maps are compared.
        """
        return mean_over_taps(
            structure_contrast(*maps, temperature=self.config.temperature)
            for maps in self._similarities([source, same, other], places)
        )

    def _similarities(
        self, images: Sequence[Sequence[Tensor]], places: SharedPlaces
    ) -> list[tuple[Tensor, ...]]:
        """Similarity maps at the same places of several images, [B, K, N] per layer."""
        config = self.config
        if self.selector is not None:
            images = [self.selector(maps) for maps in images]
        places_LK: list[Tensor | None] = [None] * len(config.layers)
        if config.num_patches:
            places_LK = [*places.on(images[0])]
        return [
            tuple(
                self_similarity(map_BCHW, places_K, window=config.window, unit=config.unit_features)
                for map_BCHW in layer
            )
            for places_K, *layer in zip(places_LK, *images, strict=True)
        ]
