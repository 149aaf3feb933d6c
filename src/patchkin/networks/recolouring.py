"""Other colours for an image of the same structure: what a selector of features is trained on.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchkin.randomness import Draws

_STRENGTHS = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.3}
"""Of the changes (LSeSim, released)."""


@dataclass(frozen=True, slots=True)
class ColourChange:
    """Other brightness, contrast, saturation and hue, in some order; each image has its own.

    >>> import torch
    >>> from patchkin.randomness import SeededDraws
    >>> change = ColourChange.drawn(SeededDraws(0, 0), 2)
    >>> change(torch.zeros(2, 3, 4, 5)).shape
    torch.Size([2, 3, 4, 5])
    """

    shifts: tuple[tuple[tuple[str, float], ...], ...]
    """Of each image: what is changed, and by how much in [-strength, strength]; in this order."""

    @classmethod
    def drawn(cls, draws: Draws, num_images: int) -> ColourChange:
        """A random change for each image, in random order."""
        names = list(_STRENGTHS)
        factors = (2 * draws.uniform_rows(num_images, len(names)) - 1).tolist()
        orders = draws.order_rows(num_images, len(names)).tolist()
        return cls(
            tuple(
                tuple((names[i], _STRENGTHS[names[i]] * of_image[i]) for i in order)
                for of_image, order in zip(factors, orders, strict=True)
            )
        )

    def split(self, num_images: int | None) -> list[ColourChange]:
        """Those of so many images at a time; of all, if None."""
        step = num_images or len(self.shifts)
        return [
            ColourChange(self.shifts[start : start + step])
            for start in range(0, len(self.shifts), step)
        ]

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Colour images in [-1, 1], changed."""
        images = zip(torch.split(x_BCHW, 1), self.shifts, strict=True)
        return torch.cat([_changed(x_1CHW, shifts) for x_1CHW, shifts in images])


def _changed(x_1CHW: Tensor, shifts: Sequence[tuple[str, float]]) -> Tensor:
    from torchvision.transforms.v2 import functional as colours  # type: ignore[import-untyped]

    y_1CHW = x_1CHW * 0.5 + 0.5
    for name, shift in shifts:
        adjust = getattr(colours, f"adjust_{name}")
        y_1CHW = adjust(y_1CHW, shift if name == "hue" else 1 + shift)
    return y_1CHW * 2 - 1
