import pytest
import torch

from patchkin.errors import ConfigError, ShapeError
from patchkin.losses.style import fading_weight, style_distance, style_diversity


def test_the_distance_of_styles_is_the_mean_over_all_numbers():
    encoded = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    style = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    expected = 0.0
    for row, other in zip(encoded, style, strict=True):
        for a, b in zip(row, other, strict=True):
            expected += abs(float(a.detach()) - float(b.detach())) / 12
    distance = style_distance(encoded, style)
    assert distance.item() == pytest.approx(expected)
    distance.backward()
    torch.testing.assert_close(encoded.grad, (encoded - style).detach().sign() / 12)
    torch.testing.assert_close(style.grad, -encoded.grad)  # neither side is constant


def test_diversity_teaches_the_first_image_only():
    output = torch.randn(2, 1, 3, 5, requires_grad=True)
    other = torch.randn(2, 1, 3, 5, requires_grad=True)
    diversity = style_diversity(output, other)
    torch.testing.assert_close(diversity, (output - other).abs().sum() / 30)
    diversity.backward()
    torch.testing.assert_close(output.grad, (output - other).detach().sign() / 30)
    assert other.grad is None


def test_16_bit_styles_are_compared_in_float32():
    style = torch.full((1, 2), 1e-3, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert style_distance(style, style).dtype is torch.float32


def test_the_weight_falls_to_zero_and_stays():
    weights = [fading_weight(2.0, step, 100_000) for step in range(0, 100_001, 25_000)]
    assert weights == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert fading_weight(2.0, 99_999, 100_000) == pytest.approx(2e-5)
    assert fading_weight(2.0, 10**7, 100_000) == 0.0


def test_in_a_single_step():
    assert [fading_weight(2.0, step, 1) for step in (0, 1, 2)] == [2.0, 0.0, 0.0]


def test_it_is_the_released_countdown():
    left = 2.0
    for step in range(50):
        assert fading_weight(2.0, step, 50) == pytest.approx(left, abs=1e-12)
        left -= 2.0 / 50


def test_wording_of_errors():
    with pytest.raises(ShapeError, match=r"`encoded_BS` and `style_BS` .* \(2, 3\) and \(1, 3\)"):
        style_distance(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(ShapeError, match="same shape"):
        style_diversity(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    with pytest.raises(ConfigError, match="`fade_steps` must be at least 1; got 0"):
        fading_weight(1.0, 0, 0)
