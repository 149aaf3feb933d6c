"""Where styles come from: latents by F, images by E.

Shape suffixes: B images, C channels, H and W pixels, L numbers of a latent, S numbers of
a style.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class StyleTask:
    """Images to translate, and for each two sources of styles of its target domain."""

    x_BCHW: Tensor
    domain_B: Tensor
    """The images' own domains."""
    target_B: Tensor
    """The domains to translate into."""
    source: Tensor
    """Of the style: latents [B, L], or images of the target domains [B, C, H, W]."""
    second_source: Tensor
    """Of another style, for diversity."""

    def __len__(self) -> int:
        return len(self.x_BCHW)

    def split(self, num_images: int | None) -> list[StyleTask]:
        """Parts of at most so many images, in order; one part if None.

        >>> rows = torch.arange(5)
        >>> [len(part) for part in StyleTask(rows, rows, rows, rows, rows).split(2)]
        [2, 2, 1]
        """
        rows = (self.x_BCHW, self.domain_B, self.target_B, self.source, self.second_source)
        parts = (torch.split(tensor, num_images or len(self)) for tensor in rows)
        return [StyleTask(*part) for part in zip(*parts, strict=True)]


def style_of(F: nn.Module, E: nn.Module, source: Tensor, domain_B: Tensor) -> Tensor:
    """Styles from latents by F, or from images by E, [B, S].

    Args:
        F: the mapping network.
        E: the style encoder.
        source: [B, L] or [B, C, H, W].
        domain_B: the domains of the styles.
    """
    style_BS: Tensor = (F if source.ndim == 2 else E)(source, domain_B)
    return style_BS
