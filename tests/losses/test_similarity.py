import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.losses import cosine_info_nce, info_nce, summary_distance
from patchkin.numerics import unit_rows


@pytest.mark.parametrize("all_negatives", [False, True])
def test_cosine_nce_matches_the_formula_written_as_loops(all_negatives):
    q = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for b in range(2):
        for i in range(4):
            others = [(c, j) for c in range(2) for j in range(4) if (c, j) != (b, i)]
            others = [(c, j) for c, j in others if all_negatives or c == b]
            cosines = [
                (q[b, i] @ k[c, j].detach()) / (q[b, i].norm() * k[c, j].detach().norm()) / 0.07
                for c, j in [(b, i), *others]
            ]
            logits = torch.stack(cosines)
            expected[b, i] = logits.logsumexp(0) - logits[0]
    actual = cosine_info_nce(q, k, temperature=0.07, include_all_negatives=all_negatives)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(x.mean(), q)[0] for x in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


def test_keys_get_no_gradient():
    q, k = (torch.randn(1, 4, 3, requires_grad=True) for _ in "qk")
    cosine_info_nce(q, k, temperature=0.1).sum().backward()
    assert k.grad is None
    assert q.grad is not None


def test_differs_from_the_dot_product_where_the_heads_rows_are_short():
    raw = torch.randn(1, 5, 8, dtype=torch.float64) * 1e-6
    rows = unit_rows(raw)
    dot, cosine = (f(rows, rows, temperature=0.07) for f in (info_nce, cosine_info_nce))
    assert not torch.allclose(dot, cosine, rtol=1e-3)
    unit = rows / rows.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(cosine, info_nce(unit, unit, temperature=0.07))


def test_summary_distance_by_hand_and_its_gradient_reaches_both():
    real = torch.tensor([[1.0, 0.0], [0.5, 0.5]], requires_grad=True)
    fake = torch.tensor([[0.0, 2.0], [0.5, 1.5]], requires_grad=True)
    assert summary_distance(real, fake).item() == pytest.approx((1.5 + 0.5) / 2)
    assert summary_distance(real, fake, reduction="sum").item() == pytest.approx((3 + 1) / 2)
    summary_distance(real, fake).backward()
    assert real.grad.tolist() == [[0.25, -0.25], [0.0, -0.25]]
    assert torch.equal(fake.grad, -real.grad)


def test_shapes_must_fit():
    with pytest.raises(ShapeError, match="`real_BS` and `fake_BS`"):
        summary_distance(torch.zeros(1, 4), torch.zeros(2, 4))
