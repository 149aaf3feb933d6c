"""Released generators made of convolutions: CycleGAN's and CUT's ResNet, pix2pix's U-Net."""

from __future__ import annotations

import re

from patchkin.errors import CheckpointError
from patchkin.networks import NormKind, ResNetConfig, ResNetGenerator, UNet, UNetConfig
from patchkin.upstream.kinds import Layout, NetworkKind, numbers, shape_of

_GENERATORS = ("G", "G_A", "G_B", "G_AB", "G_gc_AB")
_ANTIALIASED_START = 12
_STRIDED_START = 10


def norm_of(layout: Layout, convolution: str, norm: str) -> NormKind:
    """The norm behind a convolution, from what has weights: only instance norm leaves it a bias.

    Raises:
        CheckpointError: both have; that is an instance norm with learned scales.

    >>> norm_of({"model.1.weight": (8, 3, 7, 7), "model.1.bias": (8,)}, "model.1", "model.2")
    'instance'
    """
    has_bias, has_scale = f"{convolution}.bias" in layout, f"{norm}.weight" in layout
    if has_bias and has_scale:
        raise CheckpointError(
            f"has instance norms with learned scales (`{norm}.weight`), as DistanceGAN's networks "
            "do; patchkin's have none, so it cannot be imported."
        )
    return "instance" if has_bias else "batch" if has_scale else "none"


def _is_resnet(layout: Layout) -> bool:
    return len(layout.get("model.1.weight", ())) == 4 and any(
        re.match(r"model\.\d+\.conv_block\.\d+\.(weight|bias)$", name) for name in layout
    )


def _resnet_config(layout: Layout) -> ResNetConfig:
    """Everything but what has no weights, by where the released indices place the layers."""
    blocks = numbers(layout, r"model\.(\d+)\.conv_block\.")
    plain = [index for index in numbers(layout, r"model\.(\d+)\.weight$") if index > blocks[-1]]
    if blocks[0] not in (_ANTIALIASED_START, _STRIDED_START) or not plain:
        raise CheckpointError(
            f"has residual blocks from `model.{blocks[0]}` on; with two halvings they begin at "
            f"{_STRIDED_START}, or antialiased at {_ANTIALIASED_START}."
        )
    inner = set(numbers(layout, r"model\.\d+\.conv_block\.(\d+)\.weight$"))
    if 0 in inner:
        raise CheckpointError("has residual blocks padded with zeros; patchkin's reflect.")
    first = shape_of(layout, "model.1.weight", 4)
    last = shape_of(layout, f"model.{plain[-1]}.weight", 4)
    return ResNetConfig(
        in_channels=first[1],
        out_channels=last[0],
        ngf=first[0],
        blocks=len(blocks),
        norm=norm_of(layout, "model.1", "model.2"),
        antialias_down=blocks[0] == _ANTIALIASED_START,
        # Behind the last block: BlurUpsample, convolution; or at once a transposed convolution.
        antialias_up=plain[0] == blocks[-1] + 2,
        # conv_block 5 and with batch norm 6 (its scale), or with dropout 6 and 7.
        dropout=5 not in inner,
    )


RESNET = NetworkKind(
    title="ResNet generator",
    roles=_GENERATORS,
    network=ResNetGenerator,
    signature=_is_resnet,
    configure=_resnet_config,
    build=ResNetGenerator,
)


def _is_unet(layout: Layout) -> bool:
    return "model.model.0.weight" in layout


def _unet_config(layout: Layout) -> UNetConfig:
    """Levels by how deep the names nest. Dropout leaves no trace; it is on, as in pix2pix."""
    inner = [re.match(r"model(\.model\.\d+)+\.weight$", name) for name in layout]
    depth = max(match[0].count(".model.") for match in inner if match)
    first = shape_of(layout, "model.model.0.weight", 4)
    last = shape_of(layout, "model.model.3.weight", 4)
    second = "model.model.1.model.1"  # of the innermost level if there are two: no norm behind it
    return UNetConfig(
        in_channels=first[1],
        out_channels=last[1],
        ngf=first[0],
        levels=depth,
        norm=norm_of(layout, second, f"{second[:-1]}{2 if depth > 2 else 4}"),
    )


UNET = NetworkKind(
    title="U-Net generator",
    roles=_GENERATORS,
    network=UNet,
    signature=_is_unet,
    configure=_unet_config,
    build=UNet,
)
