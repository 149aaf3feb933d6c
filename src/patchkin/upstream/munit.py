"""Released networks of MUNIT, two to a file: `gen_*.pt` and `dis_*.pt`, each of `a` and `b`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from patchkin.errors import CheckpointError
from patchkin.networks.munit import (
    AdaptiveInstanceNorm2d,
    MultiScaleConfig,
    MultiScaleDiscriminator,
    MunitGenerator,
    MunitGeneratorConfig,
)
from patchkin.upstream.kinds import Layout, NetworkKind, norm_statistics, numbers, shape_of

LICENCE = (
    "MUNIT's released weights are under CC BY-NC-SA 4.0: not for commercial use, and to be shared "
    "under the same licence only. It holds for this model if they are NVIDIA's."
)


@dataclass(frozen=True, kw_only=True)
class AutoencoderShape:
    """Of a generator."""

    channels: int
    """Of its domain."""
    config: MunitGeneratorConfig


@dataclass(frozen=True, kw_only=True)
class JudgeShape:
    """Of a discriminator."""

    channels: int
    """Of its domain."""
    config: MultiScaleConfig


def _autoencoder(layout: Layout) -> AutoencoderShape:
    first = shape_of(layout, "enc_content.model.0.conv.weight", 4)
    convolutions = numbers(layout, r"enc_content\.model\.(\d+)\.conv\.weight$")
    blocks = numbers(layout, rf"enc_content\.model\.{len(convolutions)}\.model\.(\d+)\.")
    if not blocks:
        raise CheckpointError("has no residual blocks where its content encoder should end.")
    mlp = shape_of(layout, "mlp.model.0.fc.weight", 2)
    return AutoencoderShape(
        channels=first[1],
        config=MunitGeneratorConfig(
            width=first[0],
            halvings=len(convolutions) - 1,
            blocks=len(blocks),
            style_width=mlp[1],
            mlp_width=mlp[0],
        ),
    )


def _judge(layout: Layout) -> JudgeShape:
    first = shape_of(layout, "cnns.0.0.conv.weight", 4)
    return JudgeShape(
        channels=first[1],
        config=MultiScaleConfig(
            width=first[0],
            layers=len(numbers(layout, r"cnns\.0\.(\d+)\.conv\.weight$")),
            scales=len(numbers(layout, r"cnns\.(\d+)\.")),
        ),
    )


def _unused(network: nn.Module, name: str) -> str:
    """AdaIN's running statistics stand in every released file and hold nothing."""
    owner, _, last = name.rpartition(".")
    modules = dict(network.named_modules())
    if last in ("running_mean", "running_var") and isinstance(
        modules.get(owner), AdaptiveInstanceNorm2d
    ):
        return "running statistics of AdaIN, which has none"
    return norm_statistics(network, name)


MUNIT_GENERATOR = NetworkKind(
    title="MUNIT autoencoder",
    roles=("gen.a", "gen.b"),
    network=MunitGenerator,
    signature=lambda layout: "enc_content.model.0.conv.weight" in layout,
    configure=_autoencoder,
    build=lambda shape: MunitGenerator(shape.channels, shape.config),
    unused=_unused,
)

MUNIT_DISCRIMINATOR = NetworkKind(
    title="multi-scale discriminator",
    roles=("dis.a", "dis.b"),
    network=MultiScaleDiscriminator,
    signature=lambda layout: "cnns.0.0.conv.weight" in layout,
    configure=_judge,
    build=lambda shape: MultiScaleDiscriminator(shape.channels, shape.config),
    unused=_unused,
)
