import math
from typing import get_args

import pytest
import torch

from patchkin.errors import ConfigError
from patchkin.losses import AdversarialMode, fake_loss, generator_loss, r1_penalty, real_loss
from patchkin.losses.adversarial import mixed_images, slope_penalty

MODES = get_args(AdversarialMode)


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


REAL = {
    "lsgan": lambda x: (x - 1) ** 2,
    "vanilla": lambda x: -log_sigmoid(x),
    "nonsaturating": lambda x: -log_sigmoid(x),
    "hinge": lambda x: max(0.0, 1 - x),
    "hinge-clipped": lambda x: max(0.0, 1 - x),
    "wgan": lambda x: -x,
}
FAKE = {
    "lsgan": lambda x: x**2,
    "vanilla": lambda x: -log_sigmoid(-x),
    "nonsaturating": lambda x: -log_sigmoid(-x),
    "hinge": lambda x: max(0.0, 1 + x),
    "hinge-clipped": lambda x: max(0.0, 1 + x),
    "wgan": lambda x: x,
}
GENERATOR = REAL | {"hinge": lambda x: -x}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(4, 1), (3, 1, 5, 6), (1,)])
@pytest.mark.parametrize(
    ("loss", "formulas"), [(real_loss, REAL), (fake_loss, FAKE), (generator_loss, GENERATOR)]
)
def test_value_and_gradient_match_the_formula_entry_by_entry(mode, shape, loss, formulas):
    logits = (2 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    entries = logits.detach().flatten().tolist()
    formula, step = formulas[mode], 1e-6
    actual = loss(mode, logits)
    actual.backward()
    assert actual.item() == pytest.approx(sum(map(formula, entries)) / len(entries), rel=1e-12)
    slopes = [(formula(x + step) - formula(x - step)) / (2 * step) / len(entries) for x in entries]
    torch.testing.assert_close(
        logits.grad.flatten(), torch.tensor(slopes, dtype=torch.float64), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", [real_loss, fake_loss, generator_loss])
def test_a_batch_is_the_mean_of_its_images(mode, loss):
    logits = torch.randn(4, 1, 3, 5, dtype=torch.float64, requires_grad=True)
    apart = torch.stack([loss(mode, image[None]) for image in logits]).mean()
    (expected,) = torch.autograd.grad(apart, logits)
    together = loss(mode, logits)
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(together, logits)[0], expected, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("loss", [real_loss, fake_loss, generator_loss])
@pytest.mark.parametrize("mode", MODES)
def test_16_bit_logits_are_judged_in_float32(mode, loss):
    logits = torch.randn(2, 1, 9, 9, dtype=torch.bfloat16) * 300
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = loss(mode, logits)
    torch.testing.assert_close(actual, loss(mode, logits.float()), rtol=0, atol=0)
    assert actual.dtype is torch.float32


@pytest.mark.parametrize("loss", [real_loss, fake_loss, generator_loss])
def test_an_unknown_mode_is_answered_with_the_nearest(loss):
    with pytest.raises(ConfigError, match=r"mode `hinge-cliped`.*hinge-clipped"):
        loss("hinge-cliped", torch.zeros(1))


def test_r1_and_its_gradient_match_finite_differences_image_by_image():
    """On a small network with a kink-free nonlinearity, two logits per image."""
    weight = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    real = torch.randn(3, 1, 2, 3, dtype=torch.float64)

    def judge(images):
        return torch.tanh(images.flatten(1) @ weight.T) ** 2

    def slope_by_differences():
        step, total = 1e-5, 0.0
        for image in real:
            for place in range(image.numel()):
                shift = torch.zeros(image.numel(), dtype=torch.float64)
                shift[place] = step
                shifted = [image + sign * shift.view_as(image) for sign in (1, -1)]
                up, down = (float(judge(x[None]).detach().sum()) for x in shifted)
                total += ((up - down) / (2 * step)) ** 2
        return total / len(real) / 2

    wanted = real.clone().requires_grad_()
    penalty = r1_penalty(judge(wanted), wanted)
    penalty.backward()
    assert penalty.item() == pytest.approx(slope_by_differences(), rel=1e-7)
    analytic = weight.grad.clone()
    for index in ((0, 0), (1, 4)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[index] += sign * 1e-5
            values.append(slope_by_differences())
            with torch.no_grad():
                weight[index] -= sign * 1e-5
        numeric = (values[0] - values[1]) / 2e-5
        assert float(analytic[index]) == pytest.approx(numeric, rel=1e-4)


def test_the_penalty_of_the_slope_is_that_of_a_known_function():
    """logits_p = w_p x^2 / 2 have the slope x sum_p w_p."""
    weights = torch.tensor([0.5, 1.25], dtype=torch.float64, requires_grad=True)
    real, fake = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64)
    share = torch.rand(3, 1, 1, 1, dtype=torch.float64)
    mixed = mixed_images(real, fake, share)
    expected_images = [s * r + (1 - s) * f for s, r, f in zip(share, real, fake, strict=True)]
    torch.testing.assert_close(mixed.detach(), torch.stack(expected_images))
    logits = (mixed.square().sum(dim=(1, 2, 3)) / 2)[:, None] * weights
    penalty = slope_penalty(logits, mixed)
    (gradient,) = torch.autograd.grad(penalty, weights)
    lengths, total = mixed.detach().flatten(1).norm(dim=1), 1.75
    assert penalty.item() == pytest.approx(float(((total * lengths - 1) ** 2).mean()), rel=1e-12)
    slope = float((2 * (total * lengths - 1) * lengths).mean())
    assert gradient.tolist() == pytest.approx([slope, slope], rel=1e-12)


def test_a_discriminator_without_slope_has_a_gradient_without_nan():
    mixed = torch.zeros(1, 1, 2, 2, requires_grad=True)
    weight = torch.zeros(4, requires_grad=True)
    penalty = slope_penalty((mixed.flatten(1) * weight).sum(dim=1), mixed)
    penalty.backward()
    assert penalty.item() == pytest.approx(1)
    assert torch.equal(weight.grad, torch.zeros(4))
