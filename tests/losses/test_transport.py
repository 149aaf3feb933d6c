import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchkin.errors import ConfigError, ShapeError
from patchkin.losses.transport import (
    _by_logarithms,
    _by_products,
    log_transport_importance,
    log_transport_plan,
)
from patchkin.numerics import unit_rows


def rows(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return unit_rows(torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def plan_by_loops(query_KC, key_KC, cost, epsilon, rounds):
    """Sinkhorn's iteration number by number, with plain exponentials."""
    places = range(len(query_KC))
    kernel = [[0.0 for _ in places] for _ in places]
    for i in places:
        for j in places:
            similarity = float(query_KC[i] @ key_KC[j])
            gain = similarity if cost == "hard" else 1 - similarity
            kernel[i][j] = math.exp((-10.0 if i == j else gain) / epsilon)
    v = [1.0 for _ in places]
    for _ in range(rounds):
        u = [1 / sum(kernel[i][j] * v[j] for j in places) for i in places]
        v = [1 / sum(u[i] * kernel[i][j] for i in places) for j in places]
    return torch.tensor(
        [[u[i] * kernel[i][j] * v[j] for j in places] for i in places], dtype=torch.float64
    )


@pytest.mark.parametrize("cost", ["hard", "easy"])
@pytest.mark.parametrize(("epsilon", "rounds"), [(1.0, 50), (0.1, 1), (0.1, 7), (0.03, 20)])
@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 5, 4), (2, 9, 6)])
def test_plan_and_weights_match_loops(shape, epsilon, rounds, cost):
    query, key = rows(*shape, seed=1), rows(*shape, seed=2)
    options = {"cost": cost, "epsilon": epsilon, "rounds": rounds}
    expected = torch.stack(
        [plan_by_loops(q, k, **options) for q, k in zip(query, key, strict=True)]
    )
    plan = log_transport_plan(query, key, **options).exp()
    torch.testing.assert_close(plan, expected, rtol=1e-9, atol=1e-15)
    weights = log_transport_importance(query, key, **options, mean_weight=0.5).exp()
    by_hand = plan * 0.5 * (shape[1] - 1) + 1e-8
    torch.testing.assert_close(weights, by_hand, rtol=1e-10, atol=0)


def test_a_hand_case():
    """Query 1 finds both its negatives similar, queries 2 and 3 find key 1 unlike them.

    Without the diagonal the kernel is [[., a, a], [b, ., 1], [b, 1, .]]. The factor a of a row is
    taken up by u and b of a column by v: every query pushes all its negatives alike.
    """
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    key = torch.tensor([[[0.0, -1.0], [1.0, 0.0], [1.0, 0.0]]])
    plan = log_transport_plan(query, key, epsilon=0.5, rounds=80).exp()[0]
    expected = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(plan, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 1.0])
def test_products_and_logarithms_give_the_same_factors(epsilon):
    exponent = (rows(2, 40, 8, seed=1) @ rows(2, 40, 8, seed=2).mT) / epsilon
    exponent = exponent - exponent.amax(dim=-1, keepdim=True)
    for product, logarithm in zip(
        _by_products(exponent.float(), 50), _by_logarithms(exponent, 50), strict=True
    ):
        torch.testing.assert_close(product.double(), logarithm, rtol=0, atol=2e-5)


@pytest.mark.parametrize("cost", ["hard", "easy"])
def test_sums(cost):
    """Columns always sum to one, rows when the plan has converged; so do the weights on average."""
    query, key = rows(2, 32, 16, seed=1), rows(2, 32, 16, seed=2)
    plan = log_transport_plan(query, key, cost=cost, epsilon=1.0).exp()
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(2, 32).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(plan.sum(dim=2), torch.ones(2, 32).double(), rtol=0, atol=1e-9)
    early = log_transport_plan(query, key, cost=cost, epsilon=0.02, rounds=1).exp()
    torch.testing.assert_close(early.sum(dim=1), torch.ones(2, 32).double(), rtol=0, atol=1e-12)
    assert (early.sum(dim=2) - 1).abs().max() > 0.1
    weights = log_transport_importance(query, key, cost=cost, epsilon=0.1, mean_weight=1.5).exp()
    negatives = weights.sum(dim=2) - weights.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(negatives / 31, torch.full((2, 32), 1.5).double(), rtol=1e-3, atol=0)


def test_hard_stresses_what_is_similar_and_easy_what_is_not():
    query, key = rows(1, 24, 4, seed=1), rows(1, 24, 4, seed=2)
    similarity = (query @ key.mT)[0]
    others = ~torch.eye(24, dtype=torch.bool)
    for cost, sign in (("hard", 1), ("easy", -1)):
        weights = log_transport_importance(query, key, cost=cost, epsilon=0.5)[0]
        pair = torch.stack([similarity[others], weights[others]])
        assert sign * torch.corrcoef(pair)[0, 1] > 0.5


@settings(deadline=None, max_examples=20)
@given(places=st.integers(2, 9), seed=st.integers(0, 999), epsilon=st.sampled_from([0.02, 0.3]))
def test_permuting_patches_and_images_permutes_the_weights(places, seed, epsilon):
    query, key = rows(3, places, 4, seed=seed), rows(3, places, 4, seed=seed + 1)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randperm(3, generator=generator)
    order = torch.randperm(places, generator=generator)
    weights = log_transport_importance(query, key, epsilon=epsilon)
    mixed = log_transport_importance(
        query[images][:, order], key[images][:, order], epsilon=epsilon
    )
    expected = weights[images][:, order][:, :, order]
    torch.testing.assert_close(mixed, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("epsilon", [0.02, 0.5])
def test_the_released_gradient_is_that_of_the_plan(epsilon):
    query, key = rows(2, 4, 3, seed=1).requires_grad_(), rows(2, 4, 3, seed=2).requires_grad_()

    def weights(q):
        return log_transport_importance(q, key, epsilon=epsilon, rounds=5, released_gradient=True)

    assert torch.autograd.gradcheck(weights, (query,))
    weights(query).sum().backward()
    assert key.grad is None
    assert not log_transport_importance(query, key, epsilon=epsilon).requires_grad


@pytest.mark.parametrize("cost", ["hard", "easy"])
@pytest.mark.parametrize("epsilon", [1e-3, 5e-3, 0.01])
def test_tiny_epsilons_stay_finite_in_float32(epsilon, cost):
    query, key = rows(2, 12, 6, seed=1), rows(2, 12, 6, seed=2)
    weights = log_transport_importance(query.float(), key.float(), cost=cost, epsilon=epsilon)
    assert weights.isfinite().all()
    plan = log_transport_plan(query, key, cost=cost, epsilon=epsilon).exp()
    torch.testing.assert_close(weights.exp().double(), 11 * plan + 1e-8, rtol=0, atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_rows_are_weighed_in_float32(dtype):
    query, key = rows(2, 9, 16, seed=1, dtype=dtype), rows(2, 9, 16, seed=2, dtype=dtype)
    expected = log_transport_importance(query.float(), key.float(), epsilon=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = log_transport_importance(query, key, epsilon=0.1)
    assert actual.dtype is torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_without_force_only_the_floor_is_left():
    weights = log_transport_importance(rows(1, 4, 3), rows(1, 4, 3, seed=1), mean_weight=0.0)
    torch.testing.assert_close(weights, torch.full((1, 4, 4), math.log(1e-8)).double())


def test_wording_of_errors():
    query, key = rows(2, 3, 4, seed=1), rows(2, 3, 4, seed=2)
    with pytest.raises(ShapeError, match=r"got \(2, 3, 4\) and \(2, 2, 4\)"):
        log_transport_plan(query, key[:, :2])
    with pytest.raises(ShapeError, match=r"at least 2 patches per group; got \(2, 1, 4\). Draw"):
        log_transport_importance(query[:, :1], key[:, :1])
    with pytest.raises(ConfigError, match=r"Unknown `cost` `hart`\. Did you mean `hard`"):
        log_transport_plan(query, key, cost="hart")
    with pytest.raises(ConfigError, match="`epsilon` must be positive; got 0"):
        log_transport_plan(query, key, epsilon=0)
    with pytest.raises(ConfigError, match="`rounds` must be at least 1; got 0"):
        log_transport_plan(query, key, rounds=0)
    with pytest.raises(ConfigError, match="`mean_weight` must not be negative; got -1"):
        log_transport_importance(query, key, mean_weight=-1)


def test_released_settings_are_the_defaults():
    query, key = rows(2, 5, 4, seed=1), rows(2, 5, 4, seed=2)
    released = {"cost": "hard", "epsilon": 1.0, "rounds": 50}
    expected = log_transport_plan(query, key, **released)
    assert torch.equal(log_transport_plan(query, key), expected)
    weights = log_transport_importance(query, key)
    assert torch.equal(weights, log_transport_importance(query, key, mean_weight=1.0, **released))
    torch.testing.assert_close(weights.exp(), 4 * expected.exp() + 1e-8)
    more = log_transport_importance(query, key, num_negatives=255)
    torch.testing.assert_close(more.exp(), 255 * expected.exp() + 1e-8)
