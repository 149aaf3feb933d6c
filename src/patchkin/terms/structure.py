"""LSeSim's loss as a content term for other methods (Zheng, Cham and Cai, CVPR 2021).

Shape suffixes: B images, C channels, H and W pixels, K places,
N positions that a place is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.losses.spatial_correlation import (
    self_similarity,
    structure_contrast,
    structure_distance,
)
from patchkin.networks import InitConfig, SharedPlaces, initialize
from patchkin.networks.recolouring import ColourChange
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
    """Places drawn per layer, shared by the images of a batch; fewer if the map has fewer."""
    window: int = 32
    """Side of the window around a place (64 with fixed features)."""
    learned: bool = True
    """Train a selector of features; without it the loss is FSeSim's."""
    temperature: float = 0.07
    """tau of the selector's contrast."""

    def __post_init__(self) -> None:
        for name in ("num_patches", "window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.temperature <= 0:
            raise ConfigError(f"`temperature` must be positive; got {self.temperature}.")


class StructureContent(nn.Module):
    """How unlike the structure of an image and its translation is, and the selector that says so.

    Its parameters are the selector's; VGG16 does not learn and is no part of a checkpoint.

    >>> _ = torch.manual_seed(0)
    >>> small = StructureConfig(features="random", feature_width=2, layers=(1, 2), num_patches=9)
    >>> content, x_BCHW = StructureContent(small), torch.rand(2, 3, 16, 16)
    >>> from patchkin.randomness import SeededDraws
    >>> places = SharedPlaces(SeededDraws(0, 0), small.num_patches)
    >>> round(content.distance(x_BCHW, x_BCHW, places).item(), 6)
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

    def distance(self, x_BCHW: Tensor, output_BCHW: Tensor, places: SharedPlaces) -> Tensor:
        """The distance of the similarity maps, the mean over layers.

        Args:
            x_BCHW: images; constant.
            output_BCHW: their translations; receives the gradient.
            places: where the maps are compared.
        """
        output = self.vgg(output_BCHW)
        with torch.no_grad():
            source = self.vgg(x_BCHW)
        pairs = self._similarities([source, output], places)
        return torch.stack([structure_distance(*pair) for pair in pairs]).mean()

    def contrast(
        self,
        x_BCHW: Tensor,
        output_BCHW: Tensor,
        other_BCHW: Tensor,
        places: SharedPlaces,
        colours: Sequence[ColourChange],
    ) -> Tensor:
        """What the selector learns by; the images receive no gradient.

        An image belongs to its translation and to itself in other colours. Another image, turned
        by 180 degrees, belongs to neither, in its own colours or others.

        Args:
            x_BCHW: images.
            output_BCHW: their translations.
            other_BCHW: images of as many pixels.
            places: where the maps are compared.
            colours: a change for `x_BCHW`, and one for `other_BCHW`.
        """
        own, other = (
            change(images) for change, images in zip(colours, (x_BCHW, other_BCHW), strict=True)
        )
        with torch.no_grad():
            source = self.vgg(x_BCHW.repeat(2, 1, 1, 1))
            target = self.vgg(torch.cat([output_BCHW, own]))
            others = self.vgg(torch.cat([other_BCHW, other]).flip(2, 3))
        losses = [
            structure_contrast(*maps, temperature=self.config.temperature)
            for maps in self._similarities([source, target, others], places)
        ]
        return torch.stack(losses).mean()

    def _similarities(
        self, images: Sequence[Sequence[Tensor]], places: SharedPlaces
    ) -> list[tuple[Tensor, ...]]:
        """Similarity maps at the same places of several images, [B, K, N] per layer."""
        if self.selector is not None:
            images = [self.selector(maps) for maps in images]
        return [
            tuple(
                self_similarity(map_BCHW, places_K, window=self.config.window) for map_BCHW in layer
            )
            for places_K, *layer in zip(places.on(images[0]), *images, strict=True)
        ]
