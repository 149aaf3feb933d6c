import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from patchkin.errors import DataError, ShapeError
from patchkin.metrics import Moments, frechet_distance, moments


def features(count, width, *, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + shift


def by_square_root(a, b):
    """The textbook formula: scipy's matrix square root of the product of covariances."""
    a, b = a.numpy(), b.numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root).real)


def by_eigenvalues(a, b):
    """tr (S_a S_b)^(1/2) from the symmetric product S_a^(1/2) S_b S_a^(1/2)."""
    cov_a, cov_b = torch.cov(a.mT), torch.cov(b.mT)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    overlap = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    shift = a.mean(dim=0) - b.mean(dim=0)
    return (shift @ shift + cov_a.trace() + cov_b.trace() - 2 * overlap).item()


@pytest.mark.parametrize(
    ("num_a", "num_b", "width"), [(40, 60, 6), (7, 7, 6), (200, 9, 4), (6, 50, 6), (30, 30, 1)]
)
def test_matches_the_matrix_square_root(num_a, num_b, width):
    a, b = features(num_a, width), features(num_b, width, seed=1, shift=0.5)
    if width == 1:
        expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    else:
        expected = by_square_root(a, b)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("num_a", "num_b"), [(5, 8), (2, 2), (5, 100), (100, 5), (20, 21)])
def test_few_images_against_the_full_form(num_a, num_b):
    a, b = features(num_a, 20), features(num_b, 20, seed=1, shift=1.0)
    assert frechet_distance(a, b) == pytest.approx(by_eigenvalues(a, b), rel=1e-6)


def test_moments_give_what_features_give():
    a, b = features(30, 5), features(9, 5, seed=1)
    full = frechet_distance(moments(a), moments(b))
    assert full == pytest.approx(frechet_distance(a, b), rel=1e-10)
    assert frechet_distance(moments(a), b) == pytest.approx(full, rel=1e-10)
    torch.testing.assert_close(moments(a).covariance_DD, torch.cov(a.mT))


@pytest.mark.parametrize(("count", "width"), [(50, 8), (5, 64)])
def test_equal_sets_are_at_zero(count, width):
    a = features(count, width)
    scale = a.square().sum().item()
    assert 0 <= frechet_distance(a, a.clone()) < 1e-12 * scale


def test_shifted_mean_gives_the_squared_shift():
    a, shift = features(12, 3), torch.tensor([1.0, -2.0, 2.0])
    assert frechet_distance(a, a + shift) == pytest.approx(9)


def test_diagonal_covariances():
    deviation_a, deviation_b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.5, 4.0])
    a, b = (Moments(torch.zeros(3), d.square().diag()) for d in (deviation_a, deviation_b))
    expected = (deviation_a - deviation_b).square().sum().item()
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_far_from_the_origin_nothing_is_lost():
    a, b = features(50, 4), features(50, 4, seed=1)
    near, far = frechet_distance(a, b), frechet_distance(a + 1e5, b + 1e5)
    assert far == pytest.approx(near, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 8), st.integers(0, 1000))
def test_order_exchange_and_sign(num_a, num_b, width, seed):
    a, b = features(num_a, width, seed=seed), features(num_b, width, seed=seed + 1)
    distance = frechet_distance(a, b)
    assert distance >= 0
    shuffled = a[torch.randperm(num_a)]
    assert frechet_distance(b, shuffled) == pytest.approx(distance, rel=1e-8, abs=1e-8)


class Pooled(nn.Module):
    num_features = 48

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1) / 50


@pytest.mark.parametrize(("num_real", "num_outputs"), [(80, 70), (12, 20)])
def test_agrees_with_torchmetrics_and_torch_fidelity(num_real, num_outputs):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import FrechetInceptionDistance

    real = torch.randint(0, 256, (num_real, 3, 16, 20), dtype=torch.uint8)
    outputs = torch.randint(0, 200, (num_outputs, 3, 16, 20), dtype=torch.uint8)
    metric = FrechetInceptionDistance(feature=Pooled())
    metric.set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(outputs, real=False)
    a, b = Pooled()(real), Pooled()(outputs)
    distance = frechet_distance(a, b)
    assert distance == pytest.approx(metric.compute().item(), rel=1e-4)
    moments_a, moments_b = (fid_features_to_statistics(x.double()) for x in (a, b))
    expected = fid_statistics_to_metric(moments_a, moments_b, verbose=False)
    assert distance == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)


def test_errors_say_what_is_wrong():
    a = features(4, 3)
    with pytest.raises(DataError, match=r"needs at least 2 images; got 1\.$"):
        frechet_distance(a, a[:1])
    with pytest.raises(ShapeError, match=r"have 3 and 2 features per image"):
        frechet_distance(a, a[:, :2])
    with pytest.raises(ShapeError, match=r"must be \[N, D\]; got \(4,\)"):
        frechet_distance(a[:, 0], a)
    broken = a.clone()
    broken[2, 1] = float("nan")
    with pytest.raises(DataError, match=r"1 of 4 feature vectors hold NaN .* \(first: number 2\)"):
        frechet_distance(a, broken)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 6), st.integers(0, 9))
def test_any_count_matches_the_full_form_or_is_refused(num_a, num_b, width, seed):
    """Fewer images than features, as many, and more."""
    a, b = features(num_a, width, seed=seed), features(num_b, width, seed=seed + 100, shift=0.5)
    if min(num_a, num_b) < 2:
        with pytest.raises(DataError):
            frechet_distance(a, b)
        return
    expected = (
        (a.mean(0) - b.mean(0)).square().sum().item()
        + a.var(0).item()
        + b.var(0).item()
        - 2 * (a.var(0) * b.var(0)).sqrt().item()
        if width == 1
        else by_eigenvalues(a, b)
    )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5, abs=1e-6)
