"""The filters of arrays are those of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchkin.translation.enlarging import enlarged, jointly_enlarged, reduced
from patchkin.translation.resampled import (
    jointly_enlarged_array,
    reduced_array,
    resized_translation,
)
from patchkin.translation.resizing import Resizing


def images(*shape: int) -> torch.Tensor:
    torch.manual_seed(sum(shape))
    return torch.rand(*shape) * 2 - 1


@pytest.mark.parametrize("shape", [(2, 3, 61, 47), (1, 1, 30, 200), (1, 4, 9, 9)])
@pytest.mark.parametrize("side", [8, 9])
def test_made_smaller_and_larger(shape, side):
    large_BXHW = images(*shape)
    small_BXHW = reduced(large_BXHW, side)
    ours_BXHW = reduced_array(large_BXHW.numpy(), side)
    np.testing.assert_allclose(ours_BXHW, small_BXHW.numpy(), atol=2e-6)
    y_BCHW = 1.4 * images(shape[0], 2, *small_BXHW.shape[-2:])  # beyond [-1, 1], as without tanh
    again_BCHW = jointly_enlarged(y_BCHW, small_BXHW, large_BXHW)
    ours_BCHW = jointly_enlarged_array(y_BCHW.numpy(), small_BXHW.numpy(), large_BXHW.numpy())
    assert ours_BCHW.dtype == np.float32
    np.testing.assert_allclose(ours_BCHW, again_BCHW.numpy(), atol=5e-5)  # of places in float32


@pytest.mark.parametrize("enlarging", ["plain", "joint"])
def test_translated_at_a_smaller_size(enlarging):
    large_BXHW = images(1, 3, 50, 41)
    small_BXHW = reduced(large_BXHW, 16)
    resizing = Resizing(side=16, enlarging=enlarging)
    ours_BCHW = resized_translation(lambda x_BCHW: -x_BCHW, large_BXHW.numpy(), resizing)
    expected_BCHW = (
        enlarged(-small_BXHW, (50, 41))
        if enlarging == "plain"
        else jointly_enlarged(-small_BXHW, small_BXHW, large_BXHW)
    )
    np.testing.assert_allclose(ours_BCHW, expected_BCHW.numpy(), atol=1e-5)
    as_it_is = resized_translation(lambda x_BCHW: -x_BCHW, large_BXHW.numpy(), Resizing(side=41))
    np.testing.assert_array_equal(as_it_is, -large_BXHW.numpy())
