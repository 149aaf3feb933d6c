import pytest
import torch
from torch import nn

from patchkin.networks import InstanceNorm2d, norm_layer, normalization, uses_bias


def explicit(x_BCHW):
    mean = x_BCHW.mean(dim=(2, 3), keepdim=True)
    variance = (x_BCHW - mean).square().mean(dim=(2, 3), keepdim=True)
    return (x_BCHW - mean) / (variance + 1e-5).sqrt()


def gradient(norm, x_BCHW, head):
    x_BCHW = x_BCHW.clone().requires_grad_()
    head(norm(x_BCHW)).backward()
    return x_BCHW.grad


def channels_last_head(shape):
    """Feeds a gradient with channels-last strides straight to the norm."""
    weight = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    return lambda y_BCHW: (y_BCHW * weight).sum()


def sampling_head(shape):
    """Samples patches by permute, flatten and index, as the released head does."""
    places = torch.randperm(shape[2] * shape[3])[:5]
    weight = torch.randn(shape[0], 5, shape[1], dtype=torch.float64)
    return lambda y: (y.permute(0, 2, 3, 1).flatten(1, 2)[:, places] * weight).sum()


SHAPES = [(1, 4, 5, 7), (1, 1, 3, 2), (1, 3, 1, 5), (2, 4, 5, 7), (3, 6, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("head", [channels_last_head, sampling_head])
def test_value_and_gradient_match_the_explicit_formula(shape, head):
    x_BCHW = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(InstanceNorm2d()(x_BCHW), explicit(x_BCHW), rtol=1e-12, atol=1e-12)
    head = head(shape)
    expected = gradient(explicit, x_BCHW, head)
    actual = gradient(InstanceNorm2d(), x_BCHW, head)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", [channels_last_head, sampling_head])
def test_the_gradient_is_wrong_without_the_guard(head, monkeypatch):
    shape = (1, 8, 6, 6)
    x_BCHW, head = torch.randn(shape, dtype=torch.float64), head(shape)
    expected = gradient(explicit, x_BCHW, head)
    guarded = gradient(InstanceNorm2d(), x_BCHW, head)
    assert (guarded - expected).norm() / expected.norm() < 1e-10
    monkeypatch.setattr(normalization, "contiguous_gradient", lambda y: y)
    unguarded = gradient(InstanceNorm2d(), x_BCHW, head)
    error = (unguarded - expected).norm() / expected.norm()
    if error < 1e-10:
        pytest.skip(f"torch {torch.__version__} no longer has the fault; the guard can go")
    assert error > 0.1


@pytest.mark.parametrize("batch", [1, 2])
def test_first_and_second_derivatives_match_finite_differences(batch):
    x_BCHW = torch.randn(batch, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(InstanceNorm2d(), (x_BCHW,))
    assert torch.autograd.gradgradcheck(InstanceNorm2d(), (x_BCHW,))


def test_channels_last_images_give_the_same_result():
    x_BCHW = torch.randn(1, 4, 5, 3, dtype=torch.float64)
    head = channels_last_head(x_BCHW.shape)
    expected = gradient(explicit, x_BCHW, head)
    strided = x_BCHW.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        gradient(InstanceNorm2d(), strided, head), expected, rtol=1e-10, atol=1e-12
    )


def test_nothing_is_added_where_no_gradient_is_recorded(monkeypatch):
    def refuse(y):
        raise AssertionError("guarded without need")

    monkeypatch.setattr(normalization, "contiguous_gradient", refuse)
    x_BCHW = torch.randn(1, 2, 3, 3)
    InstanceNorm2d()(x_BCHW)
    with torch.no_grad():
        InstanceNorm2d()(x_BCHW.requires_grad_())


def test_gradients_per_sample_under_functional_transforms():
    x_BCHW = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    per_sample = torch.func.vmap(torch.func.grad(lambda x: InstanceNorm2d()(x[None]).pow(3).sum()))
    expected = gradient(explicit, x_BCHW, lambda y: y.pow(3).sum())
    torch.testing.assert_close(per_sample(x_BCHW), expected, rtol=1e-9, atol=1e-10)


def test_kinds():
    assert isinstance(norm_layer("instance", 4), InstanceNorm2d)
    batch = norm_layer("batch", 4)
    assert isinstance(batch, nn.BatchNorm2d)
    assert batch.affine
    assert (batch.num_features, batch.eps, batch.momentum) == (4, 1e-5, 0.1)
    assert isinstance(norm_layer("none", 4), nn.Identity)
    assert [uses_bias(kind) for kind in ("instance", "batch", "none")] == [True, False, False]
    assert not list(norm_layer("instance", 4).parameters())
    assert not list(norm_layer("instance", 4).buffers())
