import math

import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.losses.agreement import disagreement


def rows(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def test_value_matches_loops_for_rows_of_any_length():
    query, key = 3 * rows(2, 5, 4, seed=1), 0.1 * rows(2, 5, 4, seed=2)
    loss = disagreement(query, key)
    for b in range(2):
        for k in range(5):
            q, z = (x[b, k] / math.sqrt(float(x[b, k] @ x[b, k])) for x in (query, key))
            expected = sum(float(a - c) ** 2 for a, c in zip(q, z, strict=True))
            assert loss[b, k].item() == pytest.approx(expected, rel=1e-12)


def test_bounds():
    query = rows(1, 6, 3)
    torch.testing.assert_close(disagreement(query, 2 * query), torch.zeros(1, 6).double())
    torch.testing.assert_close(disagreement(query, -query), torch.full((1, 6), 4.0).double())


def test_gradients_and_the_stop():
    query, key = rows(2, 3, 4, seed=1).requires_grad_(), rows(2, 3, 4, seed=2).requires_grad_()
    disagreement(query, key).sum().backward()
    assert key.grad is None
    assert torch.autograd.gradcheck(lambda q: disagreement(q, key), (query,))
    assert torch.autograd.gradcheck(
        lambda q, k: disagreement(q, k, stop_gradient=False), (query, key)
    )


def test_a_row_of_zeros_has_a_finite_gradient():
    query = torch.zeros(1, 1, 3, requires_grad=True)
    loss = disagreement(query, torch.ones(1, 1, 3))
    assert loss.item() == 2
    loss.backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_rows_are_compared_in_float32(dtype):
    query, key = rows(2, 9, 16, seed=1, dtype=dtype), rows(2, 9, 16, seed=2, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = disagreement(query, key)
    assert actual.dtype is torch.float32
    torch.testing.assert_close(actual, disagreement(query.float(), key.float()), rtol=0, atol=0)


def test_wording_of_errors():
    with pytest.raises(ShapeError, match=r"got \(2, 3, 4\) and \(2, 2, 4\)"):
        disagreement(rows(2, 3, 4), rows(2, 2, 4))
