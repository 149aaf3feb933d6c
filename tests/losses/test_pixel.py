import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.losses import pixel_distance
from patchkin.losses.pixel import whitened_distance


def test_matches_the_formula_written_as_loops():
    x, y = torch.randn(2, 3, 2, 5, dtype=torch.float64), torch.randn(2, 3, 2, 5).double()
    expected = sum(abs(float(a - b)) for a, b in zip(x.flatten(), y.flatten(), strict=True)) / 60
    assert pixel_distance(x, y).item() == pytest.approx(expected, rel=1e-12)


def test_a_batch_gives_the_mean_of_its_images_and_the_gradient_is_a_sign():
    x, y = torch.randn(3, 1, 4, 2, requires_grad=True), torch.randn(3, 1, 4, 2)
    singles = torch.stack([pixel_distance(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(pixel_distance(x, y), singles.mean())
    (gradient,) = torch.autograd.grad(pixel_distance(x, y), x)
    torch.testing.assert_close(gradient, (x - y).sign().detach() / 24)


def test_16_bits_are_widened_and_shapes_checked():
    x = torch.full((1, 1, 300, 300), 0.1, dtype=torch.bfloat16)
    assert pixel_distance(x, x * 0).dtype is torch.float32
    for distance in (pixel_distance, whitened_distance):
        with pytest.raises(ShapeError, match=r"got \(1, 1, 2, 2\) and \(1, 3, 2, 2\)"):
            distance(torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2))


def test_whitened_features_match_instance_norm_and_have_its_gradient():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for image in range(2):
        for channel in range(3):
            rows = [z[image, channel].flatten() for z in (x, y)]
            first, second = ((r - r.mean()) / (r.var(unbiased=False) + 1e-5) ** 0.5 for r in rows)
            expected = expected + (first - second).square().sum()
    expected = expected / x.numel()
    actual = whitened_distance(x, y)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)
