"""The narrow generator that GAN Compression and Hneg_SRC release; supernets have its names too."""

from __future__ import annotations

import re

import torch

from patchkin.compression import CompressedResNetConfig
from patchkin.errors import CheckpointError
from patchkin.networks.separable import SeparableGenerator, channels_of
from patchkin.upstream.kinds import Layout, NetworkKind, numbers, shape_of


def _is_compressed(layout: Layout) -> bool:
    return any(re.match(r"model\.\d+\.conv_block\.\d\.conv\.0\.weight$", name) for name in layout)


def _config(layout: Layout) -> CompressedResNetConfig:
    """The eight entries, which no file tells but by its shapes."""
    for name in layout:
        if name.endswith(".weight"):
            shape_of(layout, name, 4)
    try:
        channels = channels_of({n: torch.empty(s, device="meta") for n, s in layout.items()})
    except CheckpointError as error:
        raise CheckpointError(f"cannot be imported: {error}") from error
    last = max(numbers(layout, r"model\.(\d+)\.weight$"))
    return CompressedResNetConfig(
        channels=channels,
        in_channels=shape_of(layout, "model.1.weight", 4)[1],
        out_channels=shape_of(layout, f"model.{last}.weight", 4)[0],
    )


COMPRESSED = NetworkKind(
    title="compressed generator",
    roles=("G", "G_A", "G_B"),
    network=SeparableGenerator,
    signature=_is_compressed,
    configure=_config,
    build=lambda config: SeparableGenerator(
        config.channels, config.in_channels, config.out_channels
    ),
)
