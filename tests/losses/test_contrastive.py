import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchkin.errors import ConfigError, ShapeError
from patchkin.losses import (
    decoupled,
    hard_negative_weights,
    info_nce,
    log_importance,
    log_negative_importance,
)
from patchkin.numerics import unit_rows


def rows(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return unit_rows(torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def naive(query_BKC, key_BKC, tau, *, positive, all_negatives=False, weights=None,
          importance=None, external=None, internal=True):  # fmt: skip
    """Patch by patch, with plain exponentials."""
    batch, num_patches = query_BKC.shape[:2]
    losses = []
    for b in range(batch):
        for i in range(num_patches):
            query, terms = query_BKC[b, i], []
            for c in range(batch) if all_negatives else [b]:
                for j in range(num_patches):
                    if (c, j) == (b, i) or not internal:
                        continue
                    place = (
                        (0, b * num_patches + i, c * num_patches + j)
                        if all_negatives
                        else (b, i, j)
                    )
                    weight = 1.0 if weights is None else weights[place]
                    factor = 1.0 if importance is None else importance[place]
                    terms.append(factor * torch.exp(weight * (query @ key_BKC[c, j]) / tau))
            terms += [
                torch.exp(query @ key / tau) for key in ([] if external is None else external)
            ]
            own = torch.exp(query @ key_BKC[b, i] / tau)
            total = sum(terms) + (own if positive else 0.0)
            losses.append(-torch.log(own / total))
    return torch.stack(losses).view(batch, num_patches)


LOSSES = [info_nce, decoupled]
NEGATIVES = [
    ("none", "none"),
    ("inside", "none"),
    ("outside", "none"),
    ("both", "none"),
    ("none", "added"),
    ("both", "added"),
    ("none", "only"),
]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 5, 4), (2, 7, 8)])
@pytest.mark.parametrize("all_negatives", [False, True])
@pytest.mark.parametrize(("weighting", "external"), NEGATIVES)
def test_value_and_gradient_match_loops(loss, shape, all_negatives, weighting, external):
    query, key = rows(*shape, seed=1).requires_grad_(), rows(*shape, seed=2).requires_grad_()
    bank = None if external == "none" else rows(6, shape[2], seed=3).requires_grad_()
    grouped = key.flatten(0, 1)[None] if all_negatives else key
    weights = hard_negative_weights(grouped, 0.7) if weighting in ("inside", "both") else None
    log_weights = (
        log_negative_importance(grouped, 3.0) if weighting in ("outside", "both") else None
    )
    actual = loss(
        query,
        key,
        temperature=0.2,
        weights_BKK=weights,
        log_importance_BKK=log_weights,
        include_all_negatives=all_negatives,
        external_MC=bank,
        internal=external != "only",
    )
    expected = naive(
        query,
        key.detach(),
        0.2,
        positive=loss is info_nce,
        all_negatives=all_negatives,
        weights=weights,
        importance=None if log_weights is None else log_weights.exp(),
        external=None if bank is None else bank.detach(),
        internal=external != "only",
    )
    assert actual.shape == shape[:2]
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    cotangent = torch.randn_like(expected)
    actual.backward(cotangent)
    (gradient,) = torch.autograd.grad(expected, query, cotangent)
    torch.testing.assert_close(query.grad, gradient, rtol=1e-8, atol=1e-11)
    assert key.grad is None
    assert bank is None or bank.grad is None


@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck(loss):
    query, key = rows(2, 4, 3, seed=1).requires_grad_(), rows(2, 4, 3, seed=2)
    weights = hard_negative_weights(key, 1.0)
    assert torch.autograd.gradcheck(
        lambda q: loss(q, key, temperature=0.3, weights_BKK=weights), (query,)
    )


def test_the_released_form_has_this_gradient_and_the_infonce_value():
    """mean exp(v - sg v) - 1 + sg(CE): the value of weighted InfoNCE, the gradient of DCE."""
    query, key = rows(2, 6, 5, seed=1).requires_grad_(), rows(2, 6, 5, seed=2)
    weights = hard_negative_weights(key, 0.5)
    similarity = query @ key.mT
    positive = similarity.diagonal(dim1=1, dim2=2)
    masked = (similarity * weights).masked_fill(torch.eye(6, dtype=torch.bool), -10)
    v = ((masked - positive[..., None]) / 0.07).logsumexp(dim=-1)
    logits = torch.cat([positive[..., None], masked], dim=-1) / 0.07
    entropy = -logits.log_softmax(dim=-1)[..., 0]
    released = (v - v.detach()).exp().mean() - 1 + entropy.detach().mean()
    (expected,) = torch.autograd.grad(released, query)
    value = info_nce(query, key, temperature=0.07, weights_BKK=weights).mean()
    torch.testing.assert_close(value, released, rtol=1e-10, atol=0)
    loss = decoupled(query, key, temperature=0.07, weights_BKK=weights).mean()
    torch.testing.assert_close(torch.autograd.grad(loss, query)[0], expected, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(2, 9), st.just(4)),
    seed=st.integers(0, 999),
    all_negatives=st.booleans(),
    weighted=st.booleans(),
)
@pytest.mark.parametrize("loss", LOSSES)
def test_permuting_patches_and_images_permutes_the_losses(
    loss, shape, seed, all_negatives, weighted
):
    query, key = rows(*shape, seed=seed), rows(*shape, seed=seed + 1)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randperm(shape[0], generator=generator)
    patches = torch.randperm(shape[1], generator=generator)

    def losses(q, k):
        grouped = k.flatten(0, 1)[None] if all_negatives else k
        weights = hard_negative_weights(grouped, 0.5) if weighted else None
        return loss(q, k, temperature=0.1, weights_BKK=weights, include_all_negatives=all_negatives)

    actual = losses(query[images][:, patches], key[images][:, patches])
    torch.testing.assert_close(
        actual, losses(query, key)[images][:, patches], rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_four_has_the_mean_gradient_of_its_images(loss):
    query, key = rows(4, 6, 5, seed=1).requires_grad_(), rows(4, 6, 5, seed=2)

    def gradient(images):
        k = key[images]
        value = loss(
            query[images],
            k,
            temperature=0.07,
            weights_BKK=hard_negative_weights(k, 0.3),
            log_importance_BKK=log_negative_importance(k, 2.0),
        ).mean()
        return torch.autograd.grad(value, query)[0]

    expected = sum(gradient(slice(i, i + 1)) for i in range(4)) / 4
    torch.testing.assert_close(gradient(slice(None)), expected, rtol=1e-9, atol=1e-12)


def test_small_and_large_losses_are_exact():
    """A loss of 1e-12 is not rounded to 0, one of 40 has its exponential tail."""
    query = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], dtype=torch.float64)
    easy = info_nce(query, query, temperature=2 / 28)
    torch.testing.assert_close(
        easy, torch.full((1, 2), math.log1p(math.exp(-28)), dtype=easy.dtype)
    )
    for x in (21.0, 40.0):
        hard = info_nce(query, -query, temperature=2 / x)
        expected = torch.full((1, 2), x + math.log1p(math.exp(-x)), dtype=hard.dtype)
        torch.testing.assert_close(hard, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES)
def test_16_bit_rows_are_contrasted_in_float32(loss, dtype):
    query, key = rows(2, 9, 16, seed=1, dtype=dtype), rows(2, 9, 16, seed=2, dtype=dtype)
    expected = loss(
        query.float(),
        key.float(),
        temperature=0.07,
        weights_BKK=hard_negative_weights(key.float(), 0.1),
        log_importance_BKK=log_negative_importance(key.float(), 50.0),
        external_MC=key[0].float(),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = loss(
            query,
            key,
            temperature=0.07,
            weights_BKK=hard_negative_weights(key, 0.1),
            log_importance_BKK=log_negative_importance(key, 50.0),
            external_MC=key[0],
        )
    assert actual.dtype is torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_hard_negative_weights_match_loops():
    key = 1.3 * rows(3, 5, 4).requires_grad_()
    weights = hard_negative_weights(key, 0.4)
    unit = unit_rows(key.detach())
    for b in range(3):
        for i in range(5):
            hardest = max((unit[b, i] @ unit[b, m]).item() for m in range(5) if m != i)
            for j in range(5):
                expected = (
                    1.0 if i == j else math.exp(((unit[b, i] @ unit[b, j]).item() - hardest) / 0.4)
                )
                assert weights[b, i, j].item() == pytest.approx(expected, rel=1e-12)
    assert not weights.requires_grad
    assert weights.max().item() == 1


def test_extreme_divisors_stay_finite():
    query, key = rows(1, 6, 4, seed=1, dtype=torch.float32).requires_grad_(), rows(1, 6, 4, seed=2)
    weights = hard_negative_weights(key.float(), 1e-4)
    assert weights.isfinite().all()
    decoupled(query, key.float(), temperature=0.07, weights_BKK=weights).mean().backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 50.0])
def test_importance_matches_loops_and_averages_one(gamma):
    key = rows(2, 5, 4).requires_grad_()
    importance = log_negative_importance(key, gamma).exp()
    assert not importance.requires_grad
    for b in range(2):
        for i in range(5):
            raw = {j: math.exp(gamma * (key[b, i] @ key[b, j]).item()) for j in range(5) if j != i}
            for j, value in raw.items():
                expected = value / (sum(raw.values()) / 4)
                assert importance[b, i, j].item() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(importance.sum(dim=-1), torch.full((2, 5), 4.0).double())
    assert not importance.diagonal(dim1=1, dim2=2).any()


def test_importance_of_given_similarities_ignores_the_diagonal():
    similarity = torch.randn(1, 4, 4, dtype=torch.float64)
    other = similarity + 7 * torch.eye(4, dtype=torch.float64)
    assert torch.equal(log_importance(similarity, 2.0), log_importance(other, 2.0))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_single_patch_needs_the_batch_or_a_bank(loss):
    query, key = rows(3, 1, 4, seed=1), rows(3, 1, 4, seed=2)
    with pytest.raises(ShapeError, match=r"Draw more patches, or use all negatives"):
        loss(query, key, temperature=0.07)
    with pytest.raises(ShapeError, match="no negatives"):
        loss(query[:1], key[:1], temperature=0.07, include_all_negatives=True)
    assert loss(query, key, temperature=0.07, include_all_negatives=True).isfinite().all()
    bank = rows(5, 4)
    only = loss(query, key, temperature=0.07, external_MC=bank, internal=False)
    torch.testing.assert_close(loss(query, key, temperature=0.07, external_MC=bank), only)


@pytest.mark.parametrize("loss", LOSSES)
def test_wording_of_errors(loss):
    query, key = rows(2, 3, 4, seed=1), rows(2, 3, 4, seed=2)
    with pytest.raises(ShapeError, match=r"got \(2, 3, 4\) and \(2, 2, 4\)"):
        loss(query, key[:, :2], temperature=0.07)
    with pytest.raises(ShapeError, match=r"must be \[B, K, C\].* got \(6, 4\)"):
        loss(query.flatten(0, 1), key.flatten(0, 1), temperature=0.07)
    with pytest.raises(ConfigError, match="`temperature` must be positive; got 0"):
        loss(query, key, temperature=0.0)
    with pytest.raises(ShapeError, match=r"`external_MC` must be \[M, 4\].* got \(5, 3\)"):
        loss(query, key, temperature=0.07, external_MC=rows(5, 3))
    with pytest.raises(ShapeError, match="`external_MC` is empty or missing"):
        loss(query, key, temperature=0.07, internal=False)
    with pytest.raises(ShapeError, match=r"`weights_BKK` must have the same shape"):
        loss(query, key, temperature=0.07, weights_BKK=torch.ones(1, 6, 6))
    with pytest.raises(ShapeError, match=r"`log_importance_BKK` must have the same shape"):
        loss(query, key, temperature=0.07, log_importance_BKK=torch.ones(2, 3, 4))


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_of_left_out_negatives_are_refused(loss):
    query, key = rows(2, 3, 4, seed=1), rows(2, 3, 4, seed=2)
    with pytest.raises(ConfigError, match="`internal` is False"):
        loss(
            query,
            key,
            temperature=0.07,
            weights_BKK=torch.ones(2, 3, 3),
            external_MC=rows(5, 4),
            internal=False,
        )


def test_weights_need_two_patches_and_a_positive_divisor():
    for weigh in (hard_negative_weights, log_negative_importance, log_importance):
        with pytest.raises(ShapeError, match="at least 2 patches per image"):
            weigh(torch.ones(2, 1, 1), 1.0)
    with pytest.raises(ConfigError, match="`gamma_divisor` must be positive; got 0"):
        hard_negative_weights(rows(1, 3, 2), 0.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_bank_may_have_another_precision(loss):
    query, key, bank = rows(2, 3, 4, seed=1), rows(2, 3, 4, seed=2), rows(6, 4, seed=3)
    actual = loss(query, key, temperature=0.07, external_MC=bank.float())
    expected = loss(query, key, temperature=0.07, external_MC=bank.float().double())
    assert torch.equal(actual, expected)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 6)),
    st.integers(0, 9),
    st.booleans(),
    st.sampled_from(LOSSES),
)
def test_any_shape_matches_loops_or_is_refused(shape, seed, all_negatives, loss):
    batch, places, width = shape
    query, key = (rows(batch, places, width, seed=seed + more) for more in (0, 100))
    options = {"temperature": 0.3, "include_all_negatives": all_negatives}
    if places == 1 and not (all_negatives and batch > 1):
        with pytest.raises(ShapeError, match="at least 2"):
            loss(query, key, **options)
        return
    actual = loss(query, key, **options)
    positive = loss is info_nce
    expected = naive(query, key, 0.3, positive=positive, all_negatives=all_negatives)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
