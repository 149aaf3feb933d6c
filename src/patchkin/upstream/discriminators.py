"""Released discriminators that judge patches or pixels."""

from __future__ import annotations

from patchkin.networks import PatchGAN, PatchGANConfig, PixelDiscriminator
from patchkin.upstream.generators import norm_of
from patchkin.upstream.kinds import Layout, NetworkKind, numbers, shape_of

_DISCRIMINATORS = ("D", "D_A", "D_B", "D_gc_B")
_KERNEL = 4
_STRIDED_SECOND = 2
"""Index of the second convolution without a blur before it."""


def _is_patchgan(layout: Layout) -> bool:
    first = layout.get("model.0.weight", ())
    return len(first) == 4 and first[2:] == (_KERNEL, _KERNEL)


def _patchgan_config(layout: Layout) -> PatchGANConfig:
    first = shape_of(layout, "model.0.weight", 4)
    convolutions = [
        index
        for index in numbers(layout, r"model\.(\d+)\.weight$")
        if len(layout[f"model.{index}.weight"]) == 4
    ]
    second = convolutions[min(1, len(convolutions) - 1)]
    return PatchGANConfig(
        in_channels=first[1],
        ndf=first[0],
        layers=len(convolutions) - 2,  # halving ones, one more, and the logits
        norm=norm_of(layout, f"model.{second}", f"model.{second + 1}"),
        antialias=second != _STRIDED_SECOND,
    )


PATCHGAN = NetworkKind(
    title="PatchGAN discriminator",
    roles=_DISCRIMINATORS,
    network=PatchGAN,
    signature=_is_patchgan,
    configure=_patchgan_config,
    build=PatchGAN,
)


def _is_pixel(layout: Layout) -> bool:
    first = layout.get("net.0.weight", ())
    return len(first) == 4 and first[2:] == (1, 1)


def _pixel_config(layout: Layout) -> PatchGANConfig:
    first = shape_of(layout, "net.0.weight", 4)
    return PatchGANConfig(
        kind="pixel",
        in_channels=first[1],
        ndf=first[0],
        norm=norm_of(layout, "net.2", "net.3"),
        antialias=False,
    )


PIXEL = NetworkKind(
    title="pixel discriminator",
    roles=_DISCRIMINATORS,
    network=PixelDiscriminator,
    signature=_is_pixel,
    configure=_pixel_config,
    build=PixelDiscriminator,
)
