import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from patchkin.errors import ConfigError, DataError, ShapeError
from patchkin.metrics import kernel_distance, kernel_distance_subsets


def by_loops(a, b):
    def k(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    def within(rows):
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return sum(k(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    across = sum(k(x, y) for x in a for y in b) / (len(a) * len(b))
    return within(a) + within(b) - 2 * across


@pytest.mark.parametrize(("num_a", "num_b", "width"), [(5, 7, 3), (2, 2, 1), (9, 4, 6)])
@pytest.mark.parametrize("block_rows", [2, 2048])
def test_matches_loops(num_a, num_b, width, block_rows, monkeypatch):
    monkeypatch.setattr("patchkin.metrics.kernel._BLOCK_ROWS", block_rows)
    a, b = torch.randn(num_a, width).double(), torch.randn(num_b, width).double() + 0.5
    assert kernel_distance(a, b) == pytest.approx(by_loops(a, b), rel=1e-10)
    assert kernel_distance(b, a.flip(0)) == pytest.approx(kernel_distance(a, b), rel=1e-10)


def test_unbiased_around_zero_for_one_distribution():
    values = [kernel_distance(torch.randn(20, 4), torch.randn(20, 4)) for _ in range(200)]
    mean = torch.tensor(values)
    assert abs(mean.mean()) < 3 * mean.std() / len(values) ** 0.5
    assert mean.min() < 0 < mean.max()


class Pooled(nn.Module):
    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.double(), 2).flatten(1) / 100


@pytest.mark.parametrize(("subsets", "subset_size"), [(1, 30), (7, 10)])
def test_the_subsets_of_torchmetrics(subsets, subset_size):
    from torchmetrics.image.kid import KernelInceptionDistance

    real = torch.randint(0, 256, (30, 3, 8, 6), dtype=torch.uint8)
    outputs = torch.randint(0, 200, (40, 3, 8, 6), dtype=torch.uint8)
    with pytest.warns(UserWarning, match="will save all extracted features"):
        metric = KernelInceptionDistance(Pooled(), subsets=subsets, subset_size=subset_size)
    metric.update(real, real=True)
    metric.update(outputs, real=False)
    torch.manual_seed(11)
    mean, deviation = metric.compute()
    found = kernel_distance_subsets(
        Pooled()(real), Pooled()(outputs), subsets=subsets, subset_size=subset_size, seed=11
    )
    assert found.mean == pytest.approx(mean.item(), rel=1e-9)
    assert found.deviation == pytest.approx(deviation.item(), rel=1e-6, abs=1e-12)


def test_torch_fidelity_agrees_on_all_images():
    from torch_fidelity.metric_kid import mmd2

    a, b = torch.randn(12, 5).double(), torch.randn(12, 5).double() + 1
    kernels = [((x @ y.mT / 5 + 1) ** 3).numpy() for x, y in ((a, a), (a, b), (b, b))]
    assert kernel_distance(a, b) == pytest.approx(mmd2(*kernels), rel=1e-10)


def test_leaves_the_global_generator_alone():
    a, b = torch.randn(4, 2), torch.randn(4, 2)
    before = torch.get_rng_state()
    kernel_distance_subsets(a, b, subsets=2, subset_size=2)
    assert torch.equal(before, torch.get_rng_state())


def test_errors_say_what_is_wrong():
    a, b = torch.randn(3, 2), torch.randn(5, 2)
    with pytest.raises(DataError, match=r"A kernel distance needs at least 2 images; got 1"):
        kernel_distance(a[:1], b)
    with pytest.raises(ShapeError, match=r"got \(3, 2\) and \(5, 1\)"):
        kernel_distance(a, b[:, :1])
    with pytest.raises(ConfigError, match=r"the smaller number of images, 3; got 10 and 4"):
        kernel_distance_subsets(a, b, subsets=10, subset_size=4)
    with pytest.raises(DataError, match="hold NaN or infinity"):
        kernel_distance(a, b / 0)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 6), st.integers(0, 9))
def test_any_count_matches_loops_or_is_refused(num_a, num_b, width, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, width, generator=generator).double() for n in (num_a, num_b))
    if min(num_a, num_b) < 2:
        with pytest.raises(DataError, match=f"at least 2.*{min(num_a, num_b)}|needs"):
            kernel_distance(a, b)
        return
    assert kernel_distance(a, b) == pytest.approx(by_loops(a, b), rel=1e-8, abs=1e-10)
