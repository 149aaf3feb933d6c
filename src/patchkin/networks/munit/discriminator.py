"""Patch logits at several resolutions.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.networks.munit.blocks import ConvBlock
from patchkin.networks.munit.config import MultiScaleConfig


class MultiScaleDiscriminator(nn.Module):
    """Patch logits at several resolutions (Wang et al. 2018), without norms.

    Between the scales images are averaged over 3 x 3 pixels, stride 2, what lies outside not
    counted.

    >>> network = MultiScaleDiscriminator(3, MultiScaleConfig(width=2, scales=2))
    >>> [logits.shape for logits in network(torch.zeros(1, 3, 64, 36))]
    [torch.Size([1, 1, 4, 2]), torch.Size([1, 1, 2, 1])]
    >>> network.min_size
    31
    """

    min_size: int
    """Shortest side: the last halving at the coarsest scale pads two pixels at least."""

    def __init__(self, in_channels: int, config: MultiScaleConfig | None = None) -> None:
        super().__init__()
        config = config or MultiScaleConfig()
        self.min_size = 2 ** (config.scales - 1) * (2**config.layers - 1) + 1
        self.cnns = nn.ModuleList(_judge(in_channels, config) for _ in range(config.scales))

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Logits [B, 1, h, w], the finest scale first."""
        logits = []
        for scale, network in enumerate(self.cnns):
            if scale:
                x_BCHW = nnf.avg_pool2d(x_BCHW, 3, stride=2, padding=1, count_include_pad=False)
            logits.append(network(x_BCHW))
        return logits


def _judge(in_channels: int, config: MultiScaleConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = config.width
    for layer in range(config.layers):
        width_in = width if layer else in_channels
        width = 2 * width if layer else width
        layers.append(
            ConvBlock(
                width_in, width, 4, stride=2, padding=1, activation=nn.LeakyReLU(config.slope)
            )
        )
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1))


def judge_scales_together(
    network: MultiScaleDiscriminator, *images_BCHW: Tensor
) -> list[list[Tensor]]:
    """What the network says of several batches, each at all scales, in one pass if sizes allow.

    >>> network = MultiScaleDiscriminator(3, MultiScaleConfig(width=2, layers=2, scales=2))
    >>> fake, real = judge_scales_together(network, torch.zeros(2, 3, 8, 8), torch.ones(1, 3, 8, 8))
    >>> [len(logits) for logits in fake], [len(logits) for logits in real]
    ([2, 2], [1, 1])
    """
    if len({images.shape[1:] for images in images_BCHW}) > 1:
        return [network(images) for images in images_BCHW]
    counts = [len(images) for images in images_BCHW]
    scales = [logits.split(counts) for logits in network(torch.cat(images_BCHW))]
    return [list(batch) for batch in zip(*scales, strict=True)]
