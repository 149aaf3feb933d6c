"""Other colours for an image of the same structure: what a selector of features is trained on.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from patchkin.randomness import Draws

_STRENGTHS = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.3}
"""Of the changes (LSeSim, released)."""


@dataclass(frozen=True, slots=True)
class ColourChange:
    """Other brightness, contrast, saturation and hue, in some order, alike for all images.

    >>> import torch
    >>> from patchkin.randomness import SeededDraws
    >>> change = ColourChange.drawn(SeededDraws(0, 0))
    >>> change(torch.zeros(2, 3, 4, 5)).shape
    torch.Size([2, 3, 4, 5])
    """

    shifts: tuple[tuple[str, float], ...]
    """What is changed, and by how much in [-strength, strength]; in this order."""

    @classmethod
    def drawn(cls, draws: Draws) -> ColourChange:
        """A random change, in random order."""
        names = list(_STRENGTHS)
        factors = (2 * draws.uniform(len(names)) - 1).tolist()
        order = draws.places(len(names), len(names)).tolist()
        return cls(tuple((names[i], _STRENGTHS[names[i]] * factors[i]) for i in order))

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Colour images in [-1, 1], changed."""
        from torchvision.transforms.v2 import functional as colours  # type: ignore[import-untyped]

        y_BCHW = x_BCHW * 0.5 + 0.5
        for name, shift in self.shifts:
            adjust = getattr(colours, f"adjust_{name}")
            y_BCHW = adjust(y_BCHW, shift if name == "hue" else 1 + shift)
        return y_BCHW * 2 - 1
