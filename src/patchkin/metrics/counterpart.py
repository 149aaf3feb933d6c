"""Scores against the true counterpart of an input, where one is known.

Unpaired sets have none. The built-in toy set hides one for each held-out image: the same scene
with the other coat, and a mask of the animal. It is never trained on.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from patchkin.errors import check_same_shape
from patchkin.metrics.similarity import psnr_of_error

PIXEL_LEVELS = 127.5
"""8-bit levels per unit of [-1, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CounterpartScores:
    """One translated image against the truth."""

    psnr: float
    """Peak signal-to-noise ratio in dB of the whole image; higher is better."""
    psnr_inside: float
    """In dB, of the pixels in the mask. Stripes at other places than the true ones cost more here
    than no stripes at all, so it says little alone."""
    tone_inside: float
    """Distance of the grey levels inside the mask from those of the truth wherever they are (the
    first Wasserstein distance), 0 to 255; a plain coat is far from a black and white one."""
    stripe_iou: float
    """Intersection over union, in the mask, of what is darker than the truth's mean there: 1 if
    the dark stripes are where the true ones are, 1/3 for unrelated stripes on half of the coat."""
    change_outside: float
    """Mean absolute change of the input's pixels outside the mask, 0 to 255; should be near 0."""
    detail_inside: float
    """Mean gradient magnitude inside the mask over that of the truth; 1 is as much detail as the
    truth has, a plain coat has little."""


def score_against_counterpart(
    output_CHW: Tensor, input_CHW: Tensor, truth_CHW: Tensor, mask_HW: Tensor
) -> CounterpartScores:
    """Scores of one translation.

    Args:
        output_CHW: the translation, in [-1, 1].
        input_CHW: what was translated, in [-1, 1].
        truth_CHW: what it should be, in [-1, 1].
        mask_HW: true where input and truth are meant to differ.

    Raises:
        ShapeError: if the images differ in shape.

    >>> truth = torch.zeros(1, 4, 4)
    >>> mask = torch.eye(4, dtype=torch.bool)
    >>> off_by_a_tenth = score_against_counterpart(truth + 0.1, truth, truth, mask)
    >>> round(off_by_a_tenth.psnr, 3), round(off_by_a_tenth.change_outside, 2)
    (26.021, 12.75)
    """
    check_same_shape(output_CHW=output_CHW, input_CHW=input_CHW, truth_CHW=truth_CHW)
    error_CHW = (output_CHW - truth_CHW).double()
    change_CHW = (output_CHW - input_CHW).abs().double()
    truth_detail = _detail(truth_CHW)[mask_HW].mean()
    return CounterpartScores(
        psnr=psnr_of_error(error_CHW),
        psnr_inside=psnr_of_error(error_CHW[:, mask_HW]),
        tone_inside=_tone_distance(output_CHW[:, mask_HW], truth_CHW[:, mask_HW]),
        stripe_iou=_dark_overlap(output_CHW[:, mask_HW], truth_CHW[:, mask_HW]),
        change_outside=float(change_CHW[:, ~mask_HW].mean()) * PIXEL_LEVELS,
        detail_inside=float(_detail(output_CHW)[mask_HW].mean() / truth_detail.clamp_min(1e-12)),
    )


def mean_scores(scores: Sequence[CounterpartScores]) -> dict[str, float]:
    """Means over images, by name."""
    return {
        field.name: sum(getattr(score, field.name) for score in scores) / len(scores)
        for field in fields(CounterpartScores)
    }


def _tone_distance(a_CN: Tensor, b_CN: Tensor) -> float:
    a_N, b_N = (x.double().mean(dim=0).sort().values for x in (a_CN, b_CN))
    return float((a_N - b_N).abs().mean()) * PIXEL_LEVELS


def _dark_overlap(a_CN: Tensor, b_CN: Tensor) -> float:
    a_N, b_N = (x.double().mean(dim=0) for x in (a_CN, b_CN))
    a_dark_N, b_dark_N = (x < b_N.mean() for x in (a_N, b_N))
    union = int((a_dark_N | b_dark_N).sum())
    return int((a_dark_N & b_dark_N).sum()) / union if union else 1.0


def _detail(image_CHW: Tensor) -> Tensor:
    """Gradient magnitude per pixel, forward differences, zero at the far borders."""
    grey_HW = image_CHW.double().mean(dim=0)
    down_HW, right_HW = torch.zeros_like(grey_HW), torch.zeros_like(grey_HW)
    down_HW[:-1] = grey_HW.diff(dim=0)
    right_HW[:, :-1] = grey_HW.diff(dim=1)
    return (down_HW.square() + right_HW.square()).sqrt()
