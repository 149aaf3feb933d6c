import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.losses.travel import travel_losses


@pytest.mark.parametrize("shape", [(2, 1), (3, 4), (5, 7)])
@pytest.mark.parametrize("margin", [1.0, 10.0])
def test_values_and_gradients_match_loops(shape, margin):
    x, y = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    margins, squares, cosines = [], [], []
    for i in range(shape[0]):
        for j in range(shape[0]):
            if i == j:
                continue
            v, w = x[i] - x[j], y[i] - y[j]
            margins.append((margin - v @ v).clamp_min(0))
            squares.append(((v - w) ** 2).mean())
            cosines.append(-(v @ w) / (v.norm() * w.norm()))
    expected = [torch.stack(rows).mean() for rows in (margins, squares, cosines)]
    actual = travel_losses(x, y, margin=margin)
    torch.testing.assert_close(list(actual), expected, rtol=1e-10, atol=1e-12)
    weights = [0.5, 2.0, 3.0]
    for ours, theirs in zip(
        torch.autograd.grad(sum(w * a for w, a in zip(weights, actual, strict=True)), (x, y)),
        torch.autograd.grad(sum(w * e for w, e in zip(weights, expected, strict=True)), (x, y)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_margin_sees_the_source_only():
    x, y = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    gradients = torch.autograd.grad(
        travel_losses(x, y, margin=100.0).margin, (x, y), allow_unused=True
    )
    assert gradients[0].any()
    assert gradients[1] is None


def test_images_that_fall_together_give_finite_gradients():
    x, y = torch.zeros(3, 4, requires_grad=True), torch.zeros(3, 4, requires_grad=True)
    losses = travel_losses(x, y, margin=10.0)
    assert [loss.item() for loss in losses] == [10, 0, 0]
    sum(losses).backward()
    assert torch.isfinite(x.grad).all()


def test_the_order_of_the_images_does_not_matter():
    x, y = torch.randn(4, 6), torch.randn(4, 6)
    order = torch.tensor([2, 0, 3, 1])
    actual = travel_losses(x[order], y[order], margin=10.0)
    torch.testing.assert_close(list(actual), list(travel_losses(x, y, margin=10.0)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_rows_are_compared_in_float32(dtype):
    x, y = torch.randn(3, 4).to(dtype), torch.randn(3, 4).to(dtype)
    actual = travel_losses(x, y, margin=10.0)
    assert {loss.dtype for loss in actual} == {torch.float32}
    assert actual == travel_losses(x.float(), y.float(), margin=10.0)


def test_wording_of_errors():
    with pytest.raises(ShapeError, match=r"at least 2 images; got \(1, 4\)\. Use a larger batch"):
        travel_losses(torch.zeros(1, 4), torch.zeros(1, 4), margin=10.0)
    with pytest.raises(ShapeError, match=r"got \(2, 4\) and \(2, 3\)"):
        travel_losses(torch.zeros(2, 4), torch.zeros(2, 3), margin=10.0)


def test_directions_count_and_not_lengths_however_short():
    source, output = torch.randn(2, 4, 3, dtype=torch.float64)
    whole, short = (travel_losses(x * source, x * output, margin=10.0) for x in (1.0, 1e-4))
    torch.testing.assert_close(short.cosine, whole.cosine, rtol=1e-9, atol=0)
    torch.testing.assert_close(short.euclid, 1e-8 * whole.euclid, rtol=1e-9, atol=0)
