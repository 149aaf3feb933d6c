import pytest
import torch

from patchkin.numerics import unit_rows, widened, without_autocast


def test_unit_rows_divides_by_the_length_plus_1e_7():
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    expected = torch.stack([row / (row.square().sum().sqrt() + 1e-7) for row in x.flatten(0, 1)])
    torch.testing.assert_close(unit_rows(x), expected.view_as(x), rtol=1e-14, atol=0)


def test_short_rows_are_not_blown_up():
    x = torch.tensor([[1e-9, 0.0], [0.0, 0.0]], requires_grad=True)
    rows = unit_rows(x)
    torch.testing.assert_close(rows[0, 0].item(), 1e-9 / (1e-9 + 1e-7), rtol=1e-5, atol=0)
    rows.sum().backward()
    assert x.grad.isfinite().all()


def test_unit_rows_passes_gradcheck():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_rows, (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_widened_and_autocast_is_left(dtype):
    x = torch.randn(4, 8, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x.float() @ x.float().mT).dtype is torch.bfloat16
        with without_autocast(x):
            assert (widened(x) @ widened(x).mT).dtype is torch.float32
        torch.testing.assert_close(unit_rows(x), unit_rows(x.float()), rtol=0, atol=0)
