"""Sizes of StarGAN v2's networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from patchkin.config import flag
from patchkin.errors import ConfigError

StyleGeneratorForm = Literal["paper", "released"]
"""StarGAN v2's generator, or that of the semantic-relation release."""

_WIDTH_BUDGET = 2**14
"""Channels of the first layer times `image_size` (released)."""
INNERMOST = 4
"""Side of the last map of E and D at `image_size`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleNetworksConfig:
    """Sizes of the four networks. Defaults are the published ones at 256 pixels."""

    num_domains: Annotated[int, flag("--num-domains")] = 2
    """Domains to translate between, as many as the data has."""
    image_size: Annotated[int, flag("--image-size")] = 256
    """A power of two that decides how deep the networks are. E and D take this size and larger
    ones: of the map that they then end with, they take the mean (ours)."""
    channels: int = 3
    """Of all images."""
    generator: StyleGeneratorForm = "paper"
    """StarGAN v2's (33.9 million weights at 256), or the semantic-relation release's (10.7)."""
    base_width: Annotated[int | None, flag("--ngf")] = None
    """Channels of the first layer of G, E and D; 2^14 / image_size unless given, so 64 at 256."""
    max_width: int = 512
    """Channels double from level to level up to this number."""
    style_width: int = 64
    """Numbers of a style."""
    latent_width: int = 16
    """Numbers of a latent."""
    hidden_width: int = 512
    """Of the layers of F."""

    def __post_init__(self) -> None:
        size = self.image_size
        if size < 16 or size & (size - 1):
            raise ConfigError(f"`image_size` must be a power of two from 16 on; got {size}.")
        for name in ("channels", "max_width", "style_width", "latent_width", "hidden_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.num_domains < 2:
            raise ConfigError(
                f"`num_domains` must be at least 2, to translate between; got {self.num_domains}."
            )
        if self.base_width is not None and self.base_width < 1:
            raise ConfigError(f"`base_width` must be at least 1; got {self.base_width}.")

    def widths(self, levels: int) -> list[int]:
        """Channels of the first layer and after each of these levels.

        >>> StyleNetworksConfig().widths(4)
        [64, 128, 256, 512, 512]
        """
        base = self.base_width or max(1, _WIDTH_BUDGET // self.image_size)
        return [base] + [min(base << level, self.max_width) for level in range(1, levels + 1)]
