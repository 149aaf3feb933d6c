"""A discriminator that judges by what a classifier of ImageNet sees as well.

Kumari, Zhang, Shechtman and Zhu, CVPR 2022 (arXiv 2112.09130): beside the discriminator that learns
from nothing, small heads learn on features of a network that was trained before and stays as it is.
Features know objects from the first step on, so that few steps teach a generator what belongs on an
animal and not on the grass. Here they are AlexNet's, the smallest that torchvision has: behind its
third and fifth rectifiers, of images that are enlarged first.

Shape suffixes: B images, C channels, H and W pixels, N judgements, h and w patches.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.networks.patchgan import PatchGAN, PatchGANConfig
from patchkin.networks.pretrained import AlexNetFeatures
from patchkin.numerics import widened

_LAYERS = (2, 4)
"""Rectifiers of AlexNet, counted from 0."""
_ENLARGED = 2
"""How many times, before AlexNet sees an image: its first convolution takes every fourth pixel."""
_WIDTH = 64
"""Channels of a head."""
_SLOPE = 0.2
_SQUARE_EPSILON = 1e-6


class VisionAided(nn.Module):
    """A PatchGAN, and a head on each of two layers of AlexNet, which does not learn.

    >>> network = VisionAided(PatchGANConfig(ndf=2, features="random"))
    >>> network(torch.zeros(1, 3, 64, 48)).shape  # three votes of patches, one of each head
    torch.Size([1, 5, 6, 4])
    """

    keeps_channels_last: ClassVar[bool] = True
    """See `networks.cpu.layout`."""
    min_size: int
    """Shortest side that yields a judgement of patches, and features."""

    def __init__(self, config: PatchGANConfig) -> None:
        super().__init__()
        self.patch_votes = config.patch_votes
        self.patches = PatchGAN(config)
        self.features = AlexNetFeatures(
            _LAYERS, weights=config.alexnet_weights, random=config.features == "random"
        )
        self.heads = nn.ModuleList(_head(channels) for channels in self.features.channels)
        self.min_size = max(self.patches.min_size, -(-self.features.min_size // _ENLARGED))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, N, h, w]: those of the patches `patch_votes` times, then each head's, resized
        to as many places.

        Raises:
            ConfigError: the weights of AlexNet are missing, or the file is another.
        """
        logits_B1hw = widened(self.patches(x_BCHW))
        enlarged_BCHW = _resized(widened(x_BCHW), scale_factor=_ENLARGED)
        judgements = [logits_B1hw] * self.patch_votes
        for head, feature in zip(self.heads, self.features(enlarged_BCHW), strict=True):
            by_features = widened(head(_of_unit_size(feature)))
            judgements.append(_resized(by_features, size=logits_B1hw.shape[2:]))
        return torch.cat(judgements, dim=1)

    def rectified(self, x_BCHW: Tensor) -> list[Tensor]:
        """See `PatchGAN`."""
        return self.patches.rectified(x_BCHW)


def _head(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, _WIDTH, 1),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(_WIDTH, 1, 1),
    )


def _resized(x_BCHW: Tensor, **to: Any) -> Tensor:
    return nnf.interpolate(x_BCHW, **to, mode="bilinear", align_corners=False)


def _of_unit_size(feature_BCHW: Tensor) -> Tensor:
    """Divided by the root of the mean square of each place's channels; 0 stays 0."""
    square_B1HW = widened(feature_BCHW).square().mean(dim=1, keepdim=True)
    return feature_BCHW * (square_B1HW + _SQUARE_EPSILON).rsqrt()
