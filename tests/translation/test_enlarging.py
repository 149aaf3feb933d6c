from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import ShapeError
from patchkin.translation.enlarging import (
    enlarged,
    guided_coefficients,
    jointly_enlarged,
    reduced,
)


def _images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("channels", [(3, 3), (1, 3), (3, 1), (5, 2)])
def test_coefficients_match_the_filter_written_as_loops(channels):
    of_guide, of_output = channels
    guide, y = _images(2, of_guide, 7, 9), _images(2, of_output, 7, 9, seed=1)
    a, b = guided_coefficients(guide, y, radius=2, epsilon=0.05)
    height, width = 7, 9
    for image in range(2):
        windows_a, windows_b = {}, {}
        for i in range(height):
            for j in range(width):
                rows = slice(max(0, i - 2), i + 3)
                columns = slice(max(0, j - 2), j + 3)
                x_NX = guide[image, :, rows, columns].flatten(1).T.double().numpy()
                y_NC = y[image, :, rows, columns].flatten(1).T.double().numpy()
                variance = x_NX.T @ x_NX / len(x_NX) - np.outer(x_NX.mean(0), x_NX.mean(0))
                covariance = x_NX.T @ y_NC / len(x_NX) - np.outer(x_NX.mean(0), y_NC.mean(0))
                a_XC = np.linalg.inv(variance + 0.05 * np.eye(of_guide)) @ covariance
                windows_a[i, j] = a_XC.T
                windows_b[i, j] = y_NC.mean(0) - a_XC.T @ x_NX.mean(0)
        for i in range(height):
            for j in range(width):
                near = [
                    (k, m)
                    for k in range(max(0, i - 2), min(height, i + 3))
                    for m in range(max(0, j - 2), min(width, j + 3))
                ]
                expected_a = np.mean([windows_a[place] for place in near], axis=0)
                expected_b = np.mean([windows_b[place] for place in near], axis=0)
                np.testing.assert_allclose(a[image, :, :, i, j], expected_a, atol=2e-6)
                np.testing.assert_allclose(b[image, :, i, j], expected_b, atol=2e-6)


def test_a_translation_that_recolours_gets_the_detail_of_the_input():
    large = _images(1, 3, 60, 80)
    small = reduced(large, 15)
    assert small.shape[-2:] == (15, 20)
    recolour = torch.tensor([[0.2, 0.5, 0.1], [-0.4, 0.3, 0.2], [0.0, 0.0, 0.6]])

    def recoloured(x):
        return torch.einsum("cx,bxhw->bchw", recolour, x) + 0.1

    joint = jointly_enlarged(recoloured(small), small, large, epsilon=1e-9)
    torch.testing.assert_close(joint, recoloured(large), atol=1e-4, rtol=0)
    plain = enlarged(recoloured(small), (60, 80))
    assert float((plain - recoloured(large)).abs().mean()) > 0.1


def test_what_the_input_does_not_explain_is_enlarged_plainly():
    y = _images(1, 3, 12, 16)
    joint = jointly_enlarged(y, torch.full((1, 3, 12, 16), 0.25), torch.full((1, 3, 48, 64), 0.25))
    b = y.clone()
    for _ in range(2):  # of a flat input a is 0 and b the mean of the means of windows
        means = torch.empty_like(b)
        for i in range(12):
            for j in range(16):
                near = b[:, :, max(0, i - 4) : i + 5, max(0, j - 4) : j + 5]
                means[:, :, i, j] = near.mean(dim=(2, 3))
        b = means
    smooth = nnf.interpolate(b, (48, 64), mode="bilinear", align_corners=False)
    rest = nnf.interpolate(y - b, (48, 64), mode="bicubic", align_corners=False)
    torch.testing.assert_close(joint, (smooth + rest).clamp(-1, 1), atol=1e-5, rtol=0)


def test_images_do_not_depend_on_their_batch():
    large, y = _images(3, 3, 32, 24), _images(3, 3, 16, 12, seed=2)
    y[0] *= 3  # beyond [-1, 1], as of a generator without tanh
    small = reduced(large, 12)
    together = jointly_enlarged(y, small, large)
    for index in range(3):
        one = slice(index, index + 1)
        alone = jointly_enlarged(y[one], small[one], large[one])
        torch.testing.assert_close(together[one], alone, atol=1e-6, rtol=0)


def test_sizes_that_do_not_belong_together():
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ShapeError, match="must have the same size"):
        jointly_enlarged(x, torch.zeros(1, 3, 8, 9), x)
