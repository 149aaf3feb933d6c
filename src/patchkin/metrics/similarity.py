"""How near an output is to the truth, pixel by pixel: PSNR and SSIM.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from patchkin.errors import ShapeError, check_same_shape

PEAK = 2.0
"""Width of [-1, 1], the values of images."""
WINDOW_PIXELS = 11
"""Side of the window of SSIM."""
_DEVIATION_PIXELS = 1.5
_LUMINANCE, _CONTRAST = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2  # C1 and C2, of K1 and K2


def peak_signal_to_noise(output: Tensor, truth: Tensor) -> float:
    """PSNR in dB, 10 log10(peak^2 / mean square error); infinite for equal images.

    Args:
        output: in [-1, 1], any shape.
        truth: of the same shape.

    Raises:
        ShapeError: if the shapes differ.

    >>> round(peak_signal_to_noise(torch.full((1, 2, 2), 0.1), torch.zeros(1, 2, 2)), 4)
    26.0206
    """
    check_same_shape(output=output, truth=truth)
    return psnr_of_error((output - truth).double())


def psnr_of_error(error: Tensor) -> float:
    """PSNR of a difference of images in [-1, 1], summed in the order of rows in any layout."""
    mean_square = float(error.contiguous().square().mean())
    return math.inf if mean_square == 0 else 10 * math.log10(PEAK**2 / mean_square)


def structural_similarity(output_CHW: Tensor, truth_CHW: Tensor) -> float:
    """SSIM (Wang, Bovik, Sheikh and Simoncelli 2004), 1 for equal images.

    With the paper's settings: a Gaussian window of 11 x 11 pixels with a deviation of 1.5, K1 0.01,
    K2 0.03, in float64; the mean over all places where the window fits and over the channels, as
    scikit-image's with Gaussian weights. (torchmetrics also counts places beside a reflected
    border.)

    Args:
        output_CHW: in [-1, 1].
        truth_CHW: of the same shape.

    Raises:
        ShapeError: if the shapes differ, or a side has fewer than 11 pixels.

    >>> image_CHW = torch.linspace(-1, 1, 256).reshape(1, 16, 16)
    >>> structural_similarity(image_CHW, image_CHW)
    1.0
    """
    check_same_shape(output_CHW=output_CHW, truth_CHW=truth_CHW)
    if min(output_CHW.shape[1:]) < WINDOW_PIXELS:
        height, width = output_CHW.shape[1:]
        raise ShapeError(
            f"SSIM needs images of at least {WINDOW_PIXELS} pixels; got {width} x {height}."
        )
    # Of intensities from 0: SSIM compares means by their ratio.
    channels = zip(output_CHW.double() + 1, truth_CHW.double() + 1, strict=True)
    return float(torch.stack([_similarity(a_HW, b_HW) for a_HW, b_HW in channels]).mean())


def _similarity(a_HW: Tensor, b_HW: Tensor) -> Tensor:
    mean_a, mean_b, square_a, square_b, product = (
        _windowed(x_HW) for x_HW in (a_HW, b_HW, a_HW * a_HW, b_HW * b_HW, a_HW * b_HW)
    )
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _LUMINANCE) / (mean_a**2 + mean_b**2 + _LUMINANCE)
    structure = (2 * covariance + _CONTRAST) / (variance_a + variance_b + _CONTRAST)
    return (luminance * structure).mean()


def _windowed(x_HW: Tensor) -> Tensor:
    """Weighted means over all windows that fit."""
    offsets = torch.arange(WINDOW_PIXELS, dtype=x_HW.dtype) - (WINDOW_PIXELS - 1) / 2
    weights = torch.exp(-0.5 * (offsets / _DEVIATION_PIXELS) ** 2)
    for axis in (0, 1):
        x_HW = _weighted(x_HW, (weights / weights.sum()).tolist(), axis)
    return x_HW


def _weighted(x_HW: Tensor, weights: Sequence[float], axis: int) -> Tensor:
    """Sums along an axis. torch's convolution of float64 copies its input once per weight."""
    length = x_HW.shape[axis] - len(weights) + 1
    total_HW = torch.zeros_like(x_HW.narrow(axis, 0, length))
    for offset, weight in enumerate(weights):
        total_HW.add_(x_HW.narrow(axis, offset, length), alpha=weight)
    return total_HW
