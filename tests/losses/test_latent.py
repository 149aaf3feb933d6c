import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from patchkin.errors import ConfigError, ShapeError
from patchkin.losses import fake_loss, generator_loss, real_loss
from patchkin.losses.latent import (
    code_distance,
    mean_square,
    mode_seeking,
    normal_divergence,
    over_scales,
    undecided_loss,
)


def double(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("shape", [(1, 3), (2, 4, 3, 5)])
def test_distance_and_square_match_loops(shape):
    one, other = double(*shape), double(*shape)
    pairs = list(zip(one.flatten().tolist(), other.flatten().tolist(), strict=True))
    assert code_distance(one, other).item() == pytest.approx(
        sum(abs(a - b) for a, b in pairs) / len(pairs), rel=1e-12
    )
    assert mean_square(one).item() == pytest.approx(
        sum(a * a for a, _ in pairs) / len(pairs), rel=1e-12
    )
    gradients = torch.autograd.grad(code_distance(one, other), (one, other))
    sign = (one - other).sign().detach() / one.numel()
    torch.testing.assert_close(gradients, (sign, -sign))  # the target has a gradient too


@pytest.mark.parametrize("shape", [(1, 8), (3, 2)])
def test_divergence_is_that_of_torch_summed_over_numbers_and_meant_over_images(shape):
    mean, log_variance = double(*shape), double(*shape)
    found = Normal(mean, (0.5 * log_variance).exp())
    expected = kl_divergence(found, Normal(0.0, 1.0)).sum(dim=1).mean()
    actual = normal_divergence(mean, log_variance)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, (mean, log_variance)),
        torch.autograd.grad(expected, (mean, log_variance)),
    )


def test_undecided_is_cross_entropy_against_one_half():
    logits = double(2, 1, 3)
    p = logits.sigmoid()
    expected = -(0.5 * p.log() + 0.5 * (1 - p).log()).mean()
    torch.testing.assert_close(undecided_loss(logits), expected)
    torch.testing.assert_close(
        torch.autograd.grad(undecided_loss(logits), logits),
        (((p - 0.5) / logits.numel()).detach(),),
    )
    extreme = torch.tensor([1e4, -1e4], requires_grad=True)
    undecided_loss(extreme).backward()
    assert torch.isfinite(extreme.grad).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_mode_seeking_matches_loops(batch):
    images = [double(batch, 2, 3, 4) for _ in range(2)]
    styles = [double(batch, 5) for _ in range(2)]
    expected = 0.0
    for i in range(batch):
        apart = (images[0][i] - images[1][i]).abs().mean()
        expected = expected + 1 / (apart / (styles[0][i] - styles[1][i]).abs().mean() + 1e-5)
    actual = mode_seeking(*images, *styles)
    torch.testing.assert_close(actual, expected / batch)
    torch.testing.assert_close(
        torch.autograd.grad(actual, images), torch.autograd.grad(expected / batch, images)
    )


def test_mode_seeking_of_equal_images_is_large_and_finite():
    image = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = mode_seeking(image, torch.zeros(1, 3, 4, 4), torch.zeros(1, 8), torch.ones(1, 8))
    loss.backward()
    assert loss.item() == pytest.approx(1e5, rel=1e-4)
    assert torch.isfinite(image.grad).all()


def test_scales_are_summed_and_logits_of_a_scale_are_meant():
    logits = [double(2, 1, 4, 4), double(2, 1, 2, 3)]
    for mode in ("lsgan", "vanilla"):
        for loss in (real_loss, fake_loss, generator_loss):
            expected = loss(mode, logits[0]) + loss(mode, logits[1])
            torch.testing.assert_close(over_scales(loss, mode, logits), expected)
    one = over_scales(real_loss, "lsgan", [torch.zeros(5), torch.zeros(2), torch.zeros(1)])
    assert one.item() == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_codes_are_compared_in_float32(dtype):
    one, other = torch.randn(2, 3).to(dtype), torch.randn(2, 3).to(dtype)
    pictures = torch.randn(2, 1, 2, 2).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [
            code_distance(one, other),
            mean_square(one),
            normal_divergence(one, other),
            undecided_loss(one),
            mode_seeking(pictures, -pictures, one, other),
        ]
    assert {loss.dtype for loss in losses} == {torch.float32}
    torch.testing.assert_close(losses[2], normal_divergence(one.float(), other.float()))
    assert math.isfinite(losses[4].item())


def test_wording_of_errors():
    with pytest.raises(ShapeError, match=r"`code` and `target` .* got \(2, 3\) and \(3, 2\)"):
        code_distance(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(ShapeError, match="`one_style_BS` and `other_style_BS`"):
        mode_seeking(*[torch.zeros(1, 3, 2, 2)] * 2, torch.zeros(1, 8), torch.zeros(1, 4))
    with pytest.raises(ConfigError, match="at least one scale; got none"):
        over_scales(real_loss, "lsgan", [])
    with pytest.raises(ConfigError, match="Unknown adversarial mode `lsgam`"):
        over_scales(real_loss, "lsgam", [torch.zeros(1)])
    with pytest.raises(
        ShapeError, match=r"`mean_BS` and `log_variance_BS` .* got \(1, 3\) and \(2, 3\)"
    ):
        normal_divergence(torch.zeros(1, 3), torch.zeros(2, 3))
