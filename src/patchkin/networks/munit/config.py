"""Sizes of MUNIT's networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from patchkin.config import check_halvings, flag
from patchkin.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class MunitGeneratorConfig:
    """Defaults are the released ones: 15,026,187 parameters."""

    width: Annotated[int, flag("--ngf")] = 64
    """Channels at full resolution (dim); the content has 2^halvings times as many."""
    halvings: int = 2
    """Strided layers of the content encoder. The style encoder always has four."""
    blocks: Annotated[int, flag("--blocks")] = 4
    """Residual blocks of the content encoder, and of the decoder."""
    style_width: int = 8
    """Numbers of a style."""
    mlp_width: int = 256
    """Of the layers between a style and the decoder's scales and shifts."""

    def __post_init__(self) -> None:
        for name in ("width", "halvings", "blocks", "style_width", "mlp_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        check_halvings(self, "halvings")


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiScaleConfig:
    """Defaults are MUNIT's discriminator: 8,271,171 parameters."""

    width: Annotated[int, flag("--ndf")] = 64
    """Channels of the first layer (dim); every further one doubles them."""
    layers: int = 4
    """Strided layers of each network."""
    scales: int = 3
    """Networks; each sees half the resolution of the one before."""
    slope: float = 0.2
    """Of the leaky ReLU (DRIT: 0.01)."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "scales"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        check_halvings(self, "layers", "scales")
        if not 0 <= self.slope < 1:
            raise ConfigError(f"`slope` must be in [0, 1); got {self.slope}.")
