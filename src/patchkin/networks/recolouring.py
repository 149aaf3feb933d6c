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
        if name == "hue":
            y_1CHW = with_other_hue(y_1CHW, shift)
        else:
            y_1CHW = getattr(colours, f"adjust_{name}")(y_1CHW, 1 + shift)
    return y_1CHW * 2 - 1


def with_other_hue(x_BCHW: Tensor, turn: float) -> Tensor:
    """Turn the hue of images in [0, 1], by the colour hexagon of HSV; grey ones stay.

    To the bit what torchvision's `adjust_hue` does, which sends a table to the device in each call
    and may wait for it.

    Args:
        x_BCHW: of one channel or three.
        turn: share of a whole turn.

    >>> import torch
    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> with_other_hue(red, 1 / 3).flatten().round()  # green
    tensor([0., 1., 0.])
    """
    if x_BCHW.shape[1] == 1:
        return x_BCHW
    wide_BCHW = x_BCHW.float()
    low, high = wide_BCHW.aminmax(dim=1)
    grey = high == low
    saturation = (high - low) / high.masked_fill(grey, 1.0)
    below_BCHW = (high[:, None] - wide_BCHW) / (high - low).masked_fill(grey, 1.0)[:, None]
    red, green, blue = below_BCHW.unbind(1)
    corner = torch.where(
        wide_BCHW[:, 0] == high,
        blue - green,
        torch.where(wide_BCHW[:, 1] == high, red + 2.0 - blue, green + 4.0 - red),
    )
    sixths = ((corner * (1 / 6) + 1).fmod(1.0) + turn).remainder(1.0) * 6
    side = sixths.floor()
    along = sixths - side
    lowest = ((1 - saturation) * high).clamp(0, 1)
    falling = ((1 - saturation * along) * high).clamp(0, 1)
    rising = ((saturation * along + (1 - saturation)) * high).clamp(0, 1)

    def channel(first_side: int) -> Tensor:
        """High on the side of this number and the one before it, low on those opposite."""
        of_six = (side - first_side).remainder(6)
        value = torch.where(of_six == 1, falling, lowest)
        value = torch.where(of_six == 4, rising, value)
        return torch.where((of_six == 0) | (of_six == 5), high, value)

    return torch.stack([channel(0), channel(2), channel(4)], dim=1).to(x_BCHW.dtype)
