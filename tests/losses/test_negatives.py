import math

import pytest
import torch

from patchkin.errors import ConfigError, ShapeError
from patchkin.losses.negatives import generated_info_nce, negative_diversity
from patchkin.numerics import unit_rows

TAU = 0.07


def rows(*shape):
    return unit_rows(torch.randn(*shape, dtype=torch.float64))


@pytest.mark.parametrize(("batch", "patches", "negatives"), [(1, 1, 1), (2, 3, 7), (3, 8, 2)])
def test_contrast_matches_loops(batch, patches, negatives):
    query = rows(batch, patches, 5).requires_grad_()
    key = rows(batch, patches, 5).requires_grad_()
    negative = rows(batch, negatives, 5).requires_grad_()
    expected = []
    for b in range(batch):
        for k in range(patches):
            positive = (query[b, k] @ key[b, k].detach() / TAU).exp()
            others = sum((query[b, k] @ negative[b, p] / TAU).exp() for p in range(negatives))
            expected.append(-(positive / (positive + others)).log())
    expected = torch.stack(expected).view(batch, patches)
    actual = generated_info_nce(query, key, negative, temperature=TAU)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    weights = torch.rand_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((weights * actual).sum(), (query, negative)),
        torch.autograd.grad((weights * expected).sum(), (query, negative)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    assert key.grad is None


def test_keys_have_no_gradient():
    key = rows(1, 2, 3).requires_grad_()
    loss = generated_info_nce(rows(1, 2, 3), key, rows(1, 2, 3), temperature=TAU)
    assert not loss.requires_grad


def test_an_image_meets_its_own_negatives_only():
    query, key, negative = rows(2, 3, 4), rows(2, 3, 4), rows(2, 5, 4)
    both = generated_info_nce(query, key, negative, temperature=TAU)
    for b in range(2):
        part = slice(b, b + 1)
        single = generated_info_nce(query[part], key[part], negative[part], temperature=TAU)
        torch.testing.assert_close(both[part], single, rtol=1e-12, atol=0)


def test_small_losses_stay_exact_in_float32():
    row = torch.tensor([[[1.0, 0.0]]])
    actual = generated_info_nce(row, row, -row, temperature=0.1)
    assert actual.item() == pytest.approx(math.log1p(math.exp(-20)), rel=1e-5)


@pytest.mark.parametrize(("batch", "negatives"), [(1, 2), (2, 7), (3, 8)])
def test_diversity_matches_loops(batch, negatives):
    """With an odd number the last one is left out."""
    negative = rows(batch, negatives, 3).requires_grad_()
    half = negatives // 2
    expected = sum(
        (negative[b, p, c] - negative[b, p + half, c]).abs()
        for b in range(batch)
        for p in range(half)
        for c in range(3)
    ) / (batch * half * 3)
    actual = negative_diversity(negative)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    (ours,) = torch.autograd.grad(actual, negative)
    (theirs,) = torch.autograd.grad(expected, negative)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_rows_are_compared_in_float32(dtype):
    query, key, negative = (rows(2, 4, 8).to(dtype) for _ in range(3))
    actual = generated_info_nce(query, key, negative, temperature=TAU)
    expected = generated_info_nce(query.float(), key.float(), negative.float(), temperature=TAU)
    assert actual.dtype is torch.float32
    assert torch.equal(actual, expected)
    assert negative_diversity(negative).dtype is torch.float32


def test_wording_of_errors():
    with pytest.raises(ShapeError, match=r"`negative_BPC` must be \[2, P, 4\].* got \(1, 5, 4\)"):
        generated_info_nce(rows(2, 3, 4), rows(2, 3, 4), rows(1, 5, 4), temperature=TAU)
    with pytest.raises(ShapeError, match=r"at least one negative .* got \(2, 0, 4\)"):
        generated_info_nce(rows(2, 3, 4), rows(2, 3, 4), rows(2, 0, 4), temperature=TAU)
    with pytest.raises(ShapeError, match=r"must be \[B, K, C\].* got \(3, 4\)"):
        generated_info_nce(rows(3, 4), rows(3, 4), rows(2, 5, 4), temperature=TAU)
    with pytest.raises(ShapeError, match=r"got \(2, 3, 4\) and \(2, 2, 4\)"):
        generated_info_nce(rows(2, 3, 4), rows(2, 2, 4), rows(2, 5, 4), temperature=TAU)
    with pytest.raises(ConfigError, match=r"`temperature` must be positive; got 0"):
        generated_info_nce(rows(1, 3, 4), rows(1, 3, 4), rows(1, 5, 4), temperature=0)
    with pytest.raises(ShapeError, match=r"at least 2 negatives .* got \(2, 1, 4\)"):
        negative_diversity(rows(2, 1, 4))
