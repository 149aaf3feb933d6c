"""Sizes of SinCUT's networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from patchkin.config import flag
from patchkin.errors import ConfigError

FINAL_SIDE = 4
_LARGEST_WORKING_SIZE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleGan2GeneratorConfig:
    """Defaults are SinCUT's generator: 3,068,404 parameters.

    The released small form (`smallstylegan2`) has `blocks` 2 and no `noise`.
    """

    in_channels: int = 3
    """Channels of the source domain."""
    out_channels: int = 3
    """Channels of the target domain."""
    ngf: Annotated[int, flag("--ngf")] = 10
    """Width: 8 ngf channels at 64 pixels, 16 ngf (at most 512) from 32 pixels down."""
    blocks: Annotated[int, flag("--blocks")] = 6
    """Plain residual blocks, half of them before the taps end; an even number."""
    num_downsampling: int = 1
    """How often the sides are halved and doubled."""
    working_size: int = 64
    """The resolution whose widths the outermost layers have, a power of 2. Released: the one
    nearest to the crop. Images may have any size."""
    noise: bool = True
    """Add noise behind each doubling, by a learned weight that starts at 0."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "ngf"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.blocks < 0 or self.blocks % 2:
            raise ConfigError(f"`blocks` must be even, half before the middle; got {self.blocks}.")
        _check_working_size(self.working_size)
        deepest = int(math.log2(self.working_size // FINAL_SIDE))
        if not 0 <= self.num_downsampling <= deepest:
            raise ConfigError(
                f"`num_downsampling` must be 0 to {deepest} at `working_size` "
                f"{self.working_size}; got {self.num_downsampling}."
            )
        if self.width(self.working_size) < 1:
            raise ConfigError(
                f"`ngf` {self.ngf} leaves no channel at `working_size` {self.working_size}; "
                f"use at least {self.working_size // 512}."
            )

    def width(self, resolution: int) -> int:
        """Channels at a resolution.

        >>> [StyleGan2GeneratorConfig().width(resolution) for resolution in (4, 32, 64, 128)]
        [512, 160, 80, 40]
        """
        return round(_width(resolution, self.ngf / 32, widest=512))


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleGan2DiscriminatorConfig:
    """Defaults are SinCUT's discriminator: 5,885,473 parameters."""

    in_channels: int = 3
    """Channels of the images it judges."""
    ndf: Annotated[int, flag("--ndf")] = 8
    """Width: 4 ndf channels at 64 pixels, 8 ndf at 32, and so on to at most 384."""
    working_size: int = 64
    """Side of the square images that it judges, a power of 2. It takes no others."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "ndf"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        _check_working_size(self.working_size)
        if self.width(self.working_size) < 1:
            raise ConfigError(
                f"`ndf` {self.ndf} leaves no channel at `working_size` {self.working_size}; "
                f"use at least {self.working_size // 256}."
            )

    def width(self, resolution: int) -> int:
        """Channels at a resolution.

        >>> [StyleGan2DiscriminatorConfig().width(resolution) for resolution in (4, 16, 32, 64)]
        [384, 128, 64, 32]
        """
        return int(_width(resolution, self.ndf / 64, widest=384))


def _width(resolution: int, multiplier: float, *, widest: int) -> float:
    """StyleGAN2's channels; they double from one resolution to the next lower, up to `widest`."""
    doubling = 16384 * multiplier / resolution
    return min(widest, doubling) if resolution <= 32 else doubling  # as released: no limit above


def _check_working_size(size: int) -> None:
    if not FINAL_SIDE <= size <= _LARGEST_WORKING_SIZE or size & (size - 1):
        raise ConfigError(
            f"`working_size` must be a power of 2 from {FINAL_SIDE} to {_LARGEST_WORKING_SIZE}; "
            f"got {size}."
        )
