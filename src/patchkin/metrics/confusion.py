"""What was confused in a translation: stripes where they do not belong, an animal that is gone.

For images whose hidden truths are known, as those of the toy world `farm` (`data.toy_farm`).

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import math

import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import check_same_shape

_WINDOW_SHARE = 0.1
"""Side of the window that contrast is taken over; a stripe and its gap have 0.07."""
_LEAST_SHARE = 0.002
"""Of an image, below which a region is too small to say anything."""


def striping(output_CHW: Tensor, input_CHW: Tensor, striped_CHW: Tensor, mask_HW: Tensor) -> float:
    """How far a region that should stay plain was striped: 0 not at all, 1 as in a striped image.

    The contrast of grey values with their neighbourhood, wherever the stripes lie, on the way from
    the input's to that of the striped image. Less contrast than the input's counts as 0.

    Args:
        output_CHW: the translation, in [-1, 1].
        input_CHW: what was translated.
        striped_CHW: the same scene with stripes in the region.
        mask_HW: the region.

    Returns:
        A number from 0, perhaps above 1; NaN where the region is too small, or where the striped
        image has no more contrast than the input.

    Raises:
        ShapeError: if the images differ in shape.

    >>> import torch
    >>> plain_CHW, mask_HW = torch.zeros(1, 40, 40), torch.ones(40, 40, dtype=torch.bool)
    >>> striped_CHW = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(10).expand(1, 40, 40)
    >>> [
    ...     round(striping(output_CHW, plain_CHW, striped_CHW, mask_HW), 3)
    ...     for output_CHW in (plain_CHW, 0.5 * striped_CHW, striped_CHW)
    ... ]
    [0.0, 0.5, 1.0]
    """
    check_same_shape(output_CHW=output_CHW, input_CHW=input_CHW, striped_CHW=striped_CHW)
    if float(mask_HW.double().mean()) < _LEAST_SHARE:
        return math.nan
    ours, plain, striped = (
        _contrast(image_CHW, mask_HW) for image_CHW in (output_CHW, input_CHW, striped_CHW)
    )
    if striped <= plain:
        return math.nan
    return max(0.0, (ours - plain) / (striped - plain))


def is_lost(
    output_CHW: Tensor, input_CHW: Tensor, truth_CHW: Tensor, empty_CHW: Tensor, mask_HW: Tensor
) -> bool:
    """Whether an animal is gone: its place is nearer to the scene without it than to it.

    Args:
        output_CHW: the translation, in [-1, 1].
        input_CHW: what was translated.
        truth_CHW: what it should be.
        empty_CHW: the same scene without the animal.
        mask_HW: where the animal is.

    Raises:
        ShapeError: if the images differ in shape.

    >>> import torch
    >>> animal_CHW, empty_CHW = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    >>> mask_HW = torch.ones(4, 4, dtype=torch.bool)
    >>> [
    ...     is_lost(output_CHW, animal_CHW, animal_CHW - 0.5, empty_CHW, mask_HW)
    ...     for output_CHW in (animal_CHW + 0.4, animal_CHW + 0.6)
    ... ]
    [False, True]
    """
    check_same_shape(
        output_CHW=output_CHW, input_CHW=input_CHW, truth_CHW=truth_CHW, empty_CHW=empty_CHW
    )
    there, wanted, gone = (
        float((output_CHW - other_CHW)[:, mask_HW].double().abs().mean())
        for other_CHW in (input_CHW, truth_CHW, empty_CHW)
    )
    return gone < min(there, wanted)


def _contrast(image_CHW: Tensor, mask_HW: Tensor) -> float:
    """Mean distance of the region's grey values from the mean of their part of the region."""
    grey_HW = image_CHW.double().mean(dim=0)
    inside_HW = mask_HW.double()
    half = max(1, round(_WINDOW_SHARE * min(grey_HW.shape) / 2))

    def summed(x_HW: Tensor) -> Tensor:
        return nnf.avg_pool2d(x_HW[None, None], 2 * half + 1, stride=1, padding=half)[0, 0]

    mean_HW = summed(grey_HW * inside_HW) / summed(inside_HW).clamp_min(1e-12)
    return float((grey_HW - mean_HW).abs()[mask_HW].mean())
