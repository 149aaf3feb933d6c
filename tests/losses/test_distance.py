import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.losses.distance import (
    Spread,
    distance_preservation,
    half_distances,
    pair_distances,
    spread,
)


def images(*shape):
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def assert_same_gradient(ours, theirs, x):
    weights = torch.randn_like(ours)
    (actual,) = torch.autograd.grad((weights * ours).sum(), x)
    (expected,) = torch.autograd.grad((weights * theirs).sum(), x)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("shape", [(2, 1, 3, 4), (3, 3, 5, 2), (5, 2, 1, 1)])
def test_pairs_match_loops(shape):
    x = images(*shape)
    expected = torch.stack(
        [(x[i] - x[j]).abs().mean() for i in range(shape[0]) for j in range(i + 1, shape[0])]
    )
    actual = pair_distances(x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    assert_same_gradient(actual, expected, x)


@pytest.mark.parametrize("shape", [(1, 1, 2, 4), (3, 3, 5, 2), (2, 2, 8, 3)])
def test_halves_match_loops(shape):
    """The middle row of an odd number is in neither half."""
    x = images(*shape)
    half = shape[2] // 2
    expected = torch.stack(
        [(image[:, :half] - image[:, shape[2] - half :]).abs().mean() for image in x]
    )
    actual = half_distances(x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    assert_same_gradient(actual, expected, x)


def test_spread_is_that_of_the_population():
    found = spread(torch.tensor([1.0, 2.0, 6.0]))
    assert found.expectation == 3
    assert found.deviation.item() == pytest.approx((14 / 3) ** 0.5)
    assert spread(torch.tensor([2.0])) == Spread(torch.tensor(2.0), torch.tensor(1.0))


def test_preservation_by_hand():
    a, b = Spread(torch.tensor(1.0), torch.tensor(2.0)), Spread(torch.tensor(3.0), torch.tensor(4))
    source, output = torch.tensor([1.0, 5.0]), torch.tensor([3.0, 7.0], requires_grad=True)
    loss = distance_preservation(source, output, a, b)  # |0 - 0| and |2 - 1|
    assert loss.item() == 0.5
    loss = distance_preservation(source, output + 4, a, b)  # |0 - 1| and |2 - 2|
    (gradient,) = torch.autograd.grad(loss, output)
    assert gradient.tolist() == [0.125, 0.0]


def test_self_distances_of_a_batch_have_the_mean_loss_of_its_images():
    x, y = images(4, 3, 6, 5), images(4, 3, 6, 5)
    unit = Spread(torch.tensor(0.2), torch.tensor(0.3))

    def loss(part):
        return distance_preservation(half_distances(x[part]), half_distances(y[part]), unit, unit)

    singles = [loss(slice(i, i + 1)) for i in range(4)]
    torch.testing.assert_close(loss(slice(None)), sum(singles) / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_images_are_compared_in_float32(dtype):
    x = torch.randn(3, 2, 4, 4).to(dtype)
    for distances in (pair_distances, half_distances):
        assert distances(x).dtype is torch.float32
        assert torch.equal(distances(x), distances(x.float()))


def test_wording_of_errors():
    with pytest.raises(ShapeError, match=r"at least 2 of them; got 1\. Use a larger batch"):
        pair_distances(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ShapeError, match=r"at least 2 rows; got \(2, 3, 1, 4\)"):
        half_distances(torch.zeros(2, 3, 1, 4))
    unit = spread(torch.zeros(1))
    with pytest.raises(ShapeError, match=r"got \(3,\) and \(1,\)"):
        distance_preservation(torch.zeros(3), torch.zeros(1), unit, unit)
