import contextlib
import math

import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.losses import relatives
from patchkin.losses.relatives import (
    dcl,
    dclw,
    dclw_weights,
    flat_clr_margins,
    flat_nce,
    hcl,
    simclr,
)
from patchkin.numerics import unit_rows


def views(batch, width=5):
    make = lambda: unit_rows(torch.randn(batch, width, dtype=torch.float64))  # noqa: E731
    return make().requires_grad_(), make().requires_grad_()


def check(loss, naive, inputs):
    actual, expected = loss(*inputs), naive(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    for a, e in zip(
        torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-11)


def naive_dcl(z1, z2, temperature, weights=None):
    losses = []
    for i in range(len(z1)):
        total = sum(
            torch.exp(z1[i] @ z1[j] / temperature) + torch.exp(z1[i] @ z2[j] / temperature)
            for j in range(len(z1))
            if j != i
        )
        weight = 1.0 if weights is None else weights[i]
        losses.append(-weight * (z1[i] @ z2[i]) / temperature + torch.log(total))
    return torch.stack(losses).mean()


def naive_weights(z1, z2, sigma):
    scores = [torch.exp(a @ b / sigma) for a, b in zip(z1, z2, strict=True)]
    return [2 - len(z1) * score / sum(scores) for score in scores]


def naive_two_way(z1, z2, t, tau_plus, beta, *, hard):
    z, batch = torch.cat([z1, z2]), len(z1)
    losses = []
    for i in range(2 * batch):
        partner = (i + batch) % (2 * batch)
        positive = torch.exp(z[i] @ z[partner] / t)
        negatives = [torch.exp(z[i] @ z[j] / t) for j in range(2 * batch) if j not in (i, partner)]
        total = sum(negatives)
        if hard:
            importance = [negative**beta for negative in negatives]
            mean = sum(importance) / len(importance)
            reweighted = sum(w * n for w, n in zip(importance, negatives, strict=True)) / mean
            total = (reweighted - tau_plus * len(negatives) * positive) / (1 - tau_plus)
            total = torch.clamp(total, min=len(negatives) * math.exp(-1 / t))
        losses.append(-torch.log(positive / (positive + total)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("batch", [2, 5])
def test_dcl_and_dclw_match_loops(batch):
    check(lambda a, b: dcl(a, b, temperature=0.2), lambda a, b: naive_dcl(a, b, 0.2), views(batch))
    check(
        lambda a, b: dclw(a, b, temperature=0.2, sigma=0.6),
        lambda a, b: naive_dcl(a, b, 0.2, naive_weights(a, b, 0.6)),
        views(batch),
    )


def test_the_weights_of_dclw_average_one():
    weights = dclw_weights(*views(6))
    assert weights.mean().item() == pytest.approx(1)
    assert weights.requires_grad


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize(("tau_plus", "beta"), [(0.1, 1.0), (0.0, 0.0), (0.6, 2.5)])
def test_hcl_matches_loops(batch, tau_plus, beta):
    check(
        lambda a, b: hcl(a, b, temperature=0.5, tau_plus=tau_plus, beta=beta),
        lambda a, b: naive_two_way(a, b, 0.5, tau_plus, beta, hard=True),
        views(batch),
    )


def test_simclr_matches_loops_and_is_hcl_without_hardness_and_debiasing():
    check(
        lambda a, b: simclr(a, b, temperature=0.4),
        lambda a, b: naive_two_way(a, b, 0.4, 0.0, 0.0, hard=False),
        views(4),
    )
    a, b = views(4)
    torch.testing.assert_close(hcl(a, b, tau_plus=0.0, beta=0.0), simclr(a, b))


def test_flat_clr_margins_match_loops():
    features = torch.randn(8, 5, dtype=torch.float64)
    margins = flat_clr_margins(features, temperature=0.3)
    rows = features / features.norm(dim=1, keepdim=True)
    for i in range(8):
        partner = (i + 4) % 8
        others = [j for j in range(8) if j not in (i, partner)]
        expected = [((rows[i] @ rows[j] - rows[i] @ rows[partner]) / 0.3).item() for j in others]
        assert margins[i].tolist() == pytest.approx(expected, rel=1e-10)


def test_flat_nce_has_the_value_of_infonce_and_the_gradient_of_its_margin():
    margins = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    loss = flat_nce(margins)
    expected = torch.stack([torch.log(1 + row.exp().sum()) for row in margins]).mean()
    torch.testing.assert_close(loss, expected)
    v = torch.stack([torch.log(row.exp().sum()) for row in margins])
    carrier = (v - v.detach()).exp().mean()
    torch.testing.assert_close(
        torch.autograd.grad(loss, margins)[0], torch.autograd.grad(carrier, margins)[0]
    )


def test_wording_of_errors():
    with pytest.raises(ShapeError, match=r"got \(3, 2\) and \(2, 2\)"):
        dcl(torch.ones(3, 2), torch.ones(2, 2))
    for loss in (dcl, dclw, hcl, simclr):
        with pytest.raises(ShapeError, match=r"at least 2 images.* got \(1, 2\)"):
            loss(torch.ones(1, 2), torch.ones(1, 2))
    for num_rows in (2, 5):
        with pytest.raises(ShapeError, match=f"two views of at least 2 images; got {num_rows}"):
            flat_clr_margins(torch.ones(num_rows, 3))


def test_published_settings_are_the_defaults():
    first, second = views(4)
    features = torch.cat([first, second])
    for loss, inputs, published in (
        (flat_clr_margins, (features,), {"temperature": 0.1}),
        (dcl, (first, second), {"temperature": 0.1}),
        (dclw_weights, (first, second), {"sigma": 0.5}),
        (dclw, (first, second), {"temperature": 0.1, "sigma": 0.5}),
        (hcl, (first, second), {"temperature": 0.5, "tau_plus": 0.1, "beta": 1.0}),
        (simclr, (first, second), {"temperature": 0.5}),
    ):
        assert torch.equal(loss(*inputs), loss(*inputs, **published))


@pytest.mark.parametrize("margin", [-60.0, 19.0, 21.0, 30.0, 60.0])
def test_flat_nce_is_exact_for_margins_of_any_size(margin):
    loss = flat_nce(torch.tensor([[margin]], dtype=torch.float64))
    expected = max(margin, 0) + math.log1p(math.exp(-abs(margin)))
    assert loss.item() == pytest.approx(expected, rel=1e-14)


def test_what_they_make_is_where_the_rows_are(monkeypatch):
    """torch's `meta` stands for a card: it meets no tensor of the host either."""
    monkeypatch.setattr(relatives, "without_autocast", contextlib.nullcontext)
    rows_BC = torch.zeros(4, 3, device="meta")
    for loss in (dcl, dclw):  # of the others torch cannot tell how many rows there will be
        assert loss(rows_BC, rows_BC).device.type == "meta"
    assert flat_nce(rows_BC).device.type == "meta"
