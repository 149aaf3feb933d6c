"""PSNR and SSIM against torchmetrics, against loops, and in cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from patchkin.errors import ShapeError
from patchkin.metrics.similarity import peak_signal_to_noise, structural_similarity


def pair(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (truth + 0.2 * noise).clamp(-1, 1), truth


@pytest.mark.parametrize("shape", [(3, 23, 40), (1, 16, 11), (2, 64, 31)])
def test_both_equal_torchmetrics(shape):
    output, truth = pair(*shape)
    ours = structural_similarity(output, truth)
    _, map_BCHW = structural_similarity_index_measure(
        output[None] + 1, truth[None] + 1, data_range=2.0, return_full_image=True
    )  # its mean counts places of a reflected border too; the paper's and scikit-image's do not
    assert ours == pytest.approx(float(map_BCHW[..., 5:-5, 5:-5].mean()), rel=1e-9)
    theirs = peak_signal_noise_ratio(output, truth, data_range=2.0)  # its peak is in float32
    assert peak_signal_to_noise(output, truth) == pytest.approx(float(theirs), rel=1e-6)
    by_hand = 10 * np.log10(4 / ((output - truth).numpy() ** 2).mean())
    assert peak_signal_to_noise(output, truth) == pytest.approx(by_hand, rel=1e-12)


def test_ssim_equals_the_formula_as_loops():
    """Eq. 13 of Wang et al. 2004 at every place where the window fits."""
    images = pair(1, 13, 14)
    output, truth = ((x.numpy()[0] + 1) for x in images)  # intensities from 0
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    values = []
    for row in range(13 - 10):
        for column in range(14 - 10):
            a = output[row : row + 11, column : column + 11]
            b = truth[row : row + 11, column : column + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a = (window * (a - mean_a) ** 2).sum()
            variance_b = (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
            )  # fmt: skip
    ours = structural_similarity(*images)
    assert ours == pytest.approx(np.mean(values), rel=1e-10)


def test_cases_by_hand():
    black, grey = torch.full((3, 12, 12), -1.0), torch.zeros(3, 12, 12)
    assert peak_signal_to_noise(black, grey) == pytest.approx(10 * math.log10(4))
    assert peak_signal_to_noise(grey, grey) == math.inf
    # Flat images have no structure: (2 * 0 * 1 + C1) / (0 + 1 + C1), C1 = 0.0004.
    assert structural_similarity(black, grey) == pytest.approx(0.0004 / 1.0004)
    assert structural_similarity(black, black) == 1.0


def test_images_that_do_not_fit():
    with pytest.raises(ShapeError, match="must have the same shape"):
        structural_similarity(torch.zeros(1, 12, 12), torch.zeros(1, 12, 13))
    with pytest.raises(ShapeError, match="at least 11 pixels; got 10 x 30"):
        structural_similarity(torch.zeros(1, 30, 10), torch.zeros(1, 30, 10))
