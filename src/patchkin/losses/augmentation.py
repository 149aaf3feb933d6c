"""Differentiable augmentation of what a discriminator judges: Zhao, Liu, Lin, Zhu and Han, NeurIPS
2020 (arXiv 2006.10738).

Real and generated images are changed at random before the discriminator sees them, in its own
update and in the generator's, whose gradient goes through the change. The discriminator then cannot
learn its few real images by heart, and the generator does not learn to make changed images, as it
would if real ones alone were changed. The three changes and their ranges are those of the paper's
text, with images in [-1, 1]:

    color        brightness +-0.5, saturation times 0 to 2, contrast times 0.5 to 1.5
    translation  up to an eighth of each side; what comes in is 0
    cutout       a rectangle of half of each side, its centre anywhere in the image, becomes 0

Every image has changes of its own.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import ConfigError, nearest
from patchkin.randomness import Draws, sent

AugmentationKind = Literal["color", "translation", "cutout"]
"""A row of the table above."""

_BRIGHTNESS = 0.5
_LARGEST_SHIFT = 8  # the divisor of a side
_CUT = 2


def augmented(x_BCHW: Tensor, kinds: Collection[AugmentationKind], draws: Draws) -> Tensor:
    """Images as the discriminator is to see them, changed at random.

    Args:
        x_BCHW: images in [-1, 1]; they receive the gradient.
        kinds: what is changed, always in the order of the table. Nothing is drawn for none.
        draws: of the step.

    Raises:
        ConfigError: if a kind is unknown.

    >>> from patchkin.randomness import SeededDraws
    >>> x_BCHW = torch.ones(2, 3, 4, 4)
    >>> int((augmented(x_BCHW, ["cutout"], SeededDraws(0, 0)) == 0).sum()) > 0
    True
    >>> augmented(x_BCHW, [], SeededDraws(0, 0)) is x_BCHW
    True
    """
    check_kinds(kinds)
    num_images, _, height, width = x_BCHW.shape
    sides = torch.tensor([height, width])
    if "color" in kinds:
        drawn_B3 = sent(draws.uniform_rows(num_images, 3), x_BCHW)
        x_BCHW = recolour(
            x_BCHW,
            brightness_B=_BRIGHTNESS * (2 * drawn_B3[:, 0] - 1),
            saturation_B=2 * drawn_B3[:, 1],
            contrast_B=0.5 + drawn_B3[:, 2],
        )
    if "translation" in kinds:
        reach = sides // _LARGEST_SHIFT
        x_BCHW = shift(x_BCHW, _below(2 * reach + 1, draws.uniform_rows(num_images, 2)) - reach)
    if "cutout" in kinds:
        size = sides // _CUT
        corner_B2 = _below(sides, draws.uniform_rows(num_images, 2)) - size // 2
        x_BCHW = cut_out(x_BCHW, corner_B2, (height // _CUT, width // _CUT))
    return x_BCHW


def recolour(
    x_BCHW: Tensor, *, brightness_B: Tensor, saturation_B: Tensor, contrast_B: Tensor
) -> Tensor:
    """Brighten, then move away from the pixel's grey, then from the image's mean.

    Args:
        x_BCHW: images.
        brightness_B: added; 0 changes nothing.
        saturation_B: factor on the distance to the mean over channels; 1 changes nothing, 0 leaves
            grey.
        contrast_B: factor on the distance to the mean over channels and pixels; 1 changes nothing.

    >>> x_BCHW = torch.tensor([0.0, 0.25, 0.5]).reshape(1, 3, 1, 1)
    >>> grey_1, bright_1 = torch.zeros(1), torch.full((1,), 0.5)
    >>> recolour(
    ...     x_BCHW, brightness_B=bright_1, saturation_B=grey_1, contrast_B=bright_1
    ... ).flatten()
    tensor([0.7500, 0.7500, 0.7500])
    """
    brightness, saturation, contrast = (
        factor_B.reshape(-1, 1, 1, 1) for factor_B in (brightness_B, saturation_B, contrast_B)
    )
    x_BCHW = x_BCHW + brightness
    x_BCHW = torch.lerp(x_BCHW.mean(dim=1, keepdim=True), x_BCHW, saturation)
    return torch.lerp(x_BCHW.mean(dim=(1, 2, 3), keepdim=True), x_BCHW, contrast)


def shift(x_BCHW: Tensor, shift_B2: Tensor) -> Tensor:
    """Move each image down and to the right by its own whole numbers of pixels; 0 comes in.

    >>> shift(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[1, -1]]))[0, 0]
    tensor([[0., 0.],
            [2., 0.]])
    """
    moved = [
        nnf.pad(x_CHW, (right, -right, down, -down))  # a negative padding crops
        for x_CHW, (down, right) in zip(x_BCHW, shift_B2.tolist(), strict=True)
    ]
    return torch.stack(moved)


def cut_out(x_BCHW: Tensor, corner_B2: Tensor, size: tuple[int, int]) -> Tensor:
    """Set a rectangle of each image to 0.

    Args:
        x_BCHW: images.
        corner_B2: row and column of its first pixel, which may lie outside of the image.
        size: its height and width.

    >>> cut_out(torch.ones(1, 1, 2, 3), torch.tensor([[-1, 1]]), (2, 2))[0, 0]
    tensor([[1., 0., 0.],
            [1., 1., 1.]])
    """
    inside_BH, inside_BW = (
        (torch.arange(side) >= first_B[:, None]) & (torch.arange(side) < first_B[:, None] + extent)
        for side, extent, first_B in zip(x_BCHW.shape[2:], size, corner_B2.unbind(1), strict=True)
    )
    hidden_B1HW = inside_BH[:, None, :, None] & inside_BW[:, None, None, :]
    return x_BCHW.masked_fill(sent(hidden_B1HW, x_BCHW.device), 0.0)


def check_kinds(kinds: Collection[str]) -> None:
    """Refuse an unknown kind of augmentation.

    Raises:
        ConfigError: the nearest known one is offered.
    """
    for kind in kinds:
        if kind not in get_args(AugmentationKind):
            raise ConfigError(
                f"Unknown augmentation `{kind}`. {nearest(kind, get_args(AugmentationKind))}"
            )


def _below(limit_2: Tensor, uniform_B2: Tensor) -> Tensor:
    """Whole numbers 0, ..., limit - 1 from numbers in [0, 1), in float64, which rounds none up."""
    return (uniform_B2.double() * limit_2).floor().long()
