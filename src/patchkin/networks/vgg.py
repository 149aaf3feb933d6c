"""Fixed features of VGG16, and the selector that picks from them what tells about structure."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.networks.pretrained import Convolution, Pooling, PretrainedFeatures

VGG16_WIDTH = 64
"""Channels of VGG16's first stage."""


def _stages(*stages: tuple[int, int]) -> tuple[Convolution | Pooling, ...]:
    """Of so many convolutions of a width, and a pooling between every two stages."""
    plan: list[Convolution | Pooling] = []
    for width, number in stages:
        plan += [Pooling()] if plan else []
        plan += [Convolution(width)] * number
    return tuple(plan)


class VGGFeatures(PretrainedFeatures):
    """VGG16's (Simonyan and Zisserman 2015), behind rectifiers 0 (relu1_1) to 12 (relu5_3).

    OMGD gives it images in [0, 1] as they are: not `normalized`.

    >>> import torch
    >>> network = VGGFeatures((4, 9), random=True, width=2)
    >>> [tuple(feature.shape) for feature in network(torch.zeros(1, 3, 32, 24))]
    [(1, 8, 8, 6), (1, 16, 4, 3)]
    >>> VGGFeatures((4, 7, 9)).channels, VGGFeatures((0, 1, 2, 4, 7)).fields
    ([256, 512, 512], [3, 5, 10, 24, 60])
    """

    title = "VGG16"
    setting = "vgg_weights"
    url = "https://download.pytorch.org/models/vgg16-397923af.pth"  # 528 MB, the features 59 MB
    first_width = VGG16_WIDTH
    plan = _stages((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))


class FeatureSelector(nn.Module):
    """Two 1 x 1 convolutions per map: C to max(32, C / 4) channels, a rectifier, and once more.

    >>> selector = FeatureSelector([256, 512, 512])
    >>> sum(weight.numel() for weight in selector.parameters())
    184960
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for count in channels:
            width = max(32, count // 4)
            self.convs.append(
                nn.Sequential(nn.Conv2d(count, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))
            )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """A map of the same height and width for each map.

        Raises:
            ShapeError: if the number of maps is another than the selector's.
        """
        if len(features) != len(self.convs):
            raise ShapeError(
                f"The selector is made for {len(self.convs)} maps; got {len(features)}."
            )
        return [conv(feature) for conv, feature in zip(self.convs, features, strict=True)]
