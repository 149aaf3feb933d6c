"""The discriminator's loss with and without the two means of keeping it steady."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import ConfigError
from patchkin.losses import fake_loss, generator_loss, real_loss
from patchkin.losses.augmentation import augmented
from patchkin.methods.cut import CutConfig
from patchkin.networks import PatchGAN, PatchGANConfig, discriminator, judge_together
from patchkin.networks.munit import MultiScaleConfig, MultiScaleDiscriminator
from patchkin.networks.patchgan import PixelDiscriminator
from patchkin.randomness import SeededDraws
from patchkin.terms.adversary import (
    adversarial_terms,
    check_adversary,
    discriminator_terms,
    patch_r1,
    scale_adversarial_terms,
    scale_discriminator_terms,
)
from support import FixedDraws

ALL = ("color", "translation", "cutout")
KINDS = {
    "blurred": PatchGANConfig(ndf=2),
    "strided": PatchGANConfig(ndf=2, antialias=False),
    "no norm": PatchGANConfig(ndf=2, antialias=False, norm="none"),
    "batch norm": PatchGANConfig(ndf=2, norm="batch"),
    "pixel": PatchGANConfig(ndf=2, kind="pixel"),
}


def judge(kind):
    torch.manual_seed(1)
    return discriminator(KINDS[kind]).double()


def pair(num_images, *, size=(26, 30)):
    torch.manual_seed(2)
    return torch.rand(2, num_images, 3, *size, dtype=torch.float64) * 2 - 1


def plain(network, x_BCHW):
    """The layers one after another, each with torch's own operations."""
    for layer in network.net if isinstance(network, PixelDiscriminator) else network.model:
        if type(layer).__name__ == "InstanceNorm2d":
            mean = x_BCHW.mean(dim=(2, 3), keepdim=True)
            variance = (x_BCHW - mean).square().mean(dim=(2, 3), keepdim=True)
            x_BCHW = (x_BCHW - mean) / (variance + 1e-5).sqrt()
        elif type(layer).__name__ == "BlurDownsample":
            padded = nnf.pad(x_BCHW, [1, 1, 1, 1], mode="reflect")
            x_BCHW = nnf.conv2d(padded, layer.filt, stride=2, groups=layer.channels)
        else:
            x_BCHW = layer(x_BCHW)
    return x_BCHW


def test_without_either_it_is_the_published_loss_and_nothing_is_drawn():
    network, (fake, real) = judge("blurred"), pair(2)
    terms = discriminator_terms(network, fake, real, mode="lsgan", draws=FixedDraws())
    fake_logits, real_logits = judge_together(network, fake, real)
    assert list(terms) == ["fake", "real"]
    assert torch.equal(terms["fake"], 0.5 * fake_loss("lsgan", fake_logits))
    assert torch.equal(terms["real"], 0.5 * real_loss("lsgan", real_logits))


@pytest.mark.parametrize("mode", ["lsgan", "hinge"])
def test_weights_and_names_of_the_terms_and_judging_apart(mode):
    network, (fake, real) = judge("blurred"), pair(2)
    terms = discriminator_terms(
        network, fake, real, mode=mode, weight=0.25, suffix="_B", together=False
    )
    expected = {
        "fake_B": 0.25 * fake_loss(mode, network(fake)),
        "real_B": 0.25 * real_loss(mode, network(real)),
    }
    assert all(torch.equal(terms[name], value) for name, value in expected.items())
    (adversarial,) = adversarial_terms(network, fake, mode=mode, weight=3.0, suffix="_B").items()
    assert adversarial[0] == "adversarial_B"
    assert torch.equal(adversarial[1], 3.0 * generator_loss(mode, network(fake)))


def test_losses_of_several_scales_add_up():
    torch.manual_seed(3)
    network = MultiScaleDiscriminator(3, MultiScaleConfig(width=2, layers=2, scales=2)).double()
    fake, real = pair(2)
    terms = scale_discriminator_terms(network, fake, real, mode="lsgan", weight=2.0, suffix="_A")
    terms |= scale_adversarial_terms(network, fake, mode="lsgan", weight=5.0, suffix="_A")
    assert len(network(fake)) == 2
    expected = {
        "fake_A": 2 * sum(logits.square().mean() for logits in network(fake)),
        "real_A": 2 * sum((logits - 1).square().mean() for logits in network(real)),
        "adversarial_A": 5 * sum((logits - 1).square().mean() for logits in network(fake)),
    }
    torch.testing.assert_close(terms, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_r1_and_its_gradient_match_layers_without_shortcuts(kind, num_images, layout):
    """The networks' own backward passes (norm and ReLU in one, blur without maps) go twice."""
    network, (fake, real) = judge(kind).to(memory_format=layout), pair(num_images)
    fake, real = (x_BCHW.contiguous(memory_format=layout) for x_BCHW in (fake, real))
    weights = list(network.parameters())
    terms = discriminator_terms(
        network, fake, real, mode="hinge", draws=FixedDraws(), r1_weight=0.7
    )
    assert list(terms) == ["fake", "real", "r1"]
    slow = real.contiguous().requires_grad_()
    logits = plain(network, slow)
    penalties = []
    for b in range(num_images):
        (slope,) = torch.autograd.grad(logits[b].sum(), slow, create_graph=True)
        if kind != "batch norm":  # whose images move each other
            penalties.append(0.5 * slope[b].square().sum() / logits[b].numel())
    if kind == "batch norm":
        (slope,) = torch.autograd.grad(logits.sum(), slow, create_graph=True)
        penalties = [0.5 * slope[b].square().sum() / logits[b].numel() for b in range(num_images)]
    expected = 0.7 * sum(penalties) / num_images
    torch.testing.assert_close(terms["r1"], expected, rtol=1e-9, atol=1e-14)
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    for actual, wanted in zip(
        torch.autograd.grad(terms["r1"], weights, **options),
        torch.autograd.grad(expected, weights, **options),
        strict=True,
    ):
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(actual, wanted, rtol=1e-8, atol=1e-11 * scale)


@pytest.mark.parametrize("kind", ["blurred", "strided"])
def test_the_gradient_of_r1_matches_finite_differences(kind):
    network, (_, real) = judge(kind), pair(2)

    def penalty():
        slope_at = real.clone().requires_grad_()
        return patch_r1(network(slope_at), slope_at)

    weight = network.model[2 if kind == "strided" else 3].weight
    (analytic,) = torch.autograd.grad(penalty(), weight)
    for index in ((0, 0, 1, 2), (3, 1, 0, 3)):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[index] += step
            values.append(penalty().item())
            with torch.no_grad():
                weight[index] -= step
        numeric = (values[0] - values[1]) / 2e-6
        assert float(analytic[index]) == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("size", [(1, 3), (2, 6), (4, 12)])
def test_a_weight_of_r1_means_the_same_for_any_size(size):
    real = torch.randn(2, 1, *size, dtype=torch.float64, requires_grad=True)
    slopes = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    assert patch_r1(slopes * real, real).item() == pytest.approx((1 + 9) / 2 / 2, rel=1e-12)


def test_real_and_fake_are_changed_by_draws_of_their_own():
    network, (fake, real) = judge("blurred"), pair(2)
    terms = discriminator_terms(
        network, fake, real, mode="lsgan", draws=SeededDraws(0, 0), augmentation=ALL
    )
    draws = SeededDraws(0, 0)
    seen_fake, seen_real = augmented(fake, ALL, draws), augmented(real, ALL, draws)
    expected = {
        "fake": 0.5 * fake_loss("lsgan", network(seen_fake)),
        "real": 0.5 * real_loss("lsgan", network(seen_real)),
    }
    torch.testing.assert_close(terms, expected, rtol=1e-10, atol=1e-12)
    assert not torch.equal(augmented(real, ALL, SeededDraws(0, 0)), seen_real)


def test_r1_goes_through_the_augmentation():
    """A pixel that the cut hides has no slope."""
    centre = torch.tensor([[0.5, 0.5]])
    network, (fake, real) = judge("pixel"), pair(1, size=(4, 4))
    terms = discriminator_terms(
        network, fake, real, mode="lsgan", augmentation=["cutout"], r1_weight=1.0,
        draws=FixedDraws(uniforms=[centre, centre]),
    )  # fmt: skip
    shown = real.clone()
    shown[:, :, 1:3, 1:3] = 0
    shown.requires_grad_()
    (slope,) = torch.autograd.grad(plain(network, shown).sum(), shown)
    slope[:, :, 1:3, 1:3] = 0
    assert terms["r1"].item() == pytest.approx(slope.square().sum().item() / 2 / 16, rel=1e-9)


def test_the_penalty_is_computed_in_32_bits_under_autocast():
    network, (fake, real) = judge("blurred").float(), pair(1).float()
    options = {"mode": "lsgan", "draws": FixedDraws(), "r1_weight": 1.0}
    exact = discriminator_terms(network, fake, real, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = discriminator_terms(network, fake, real, **options)
    assert torch.equal(rounded["r1"], exact["r1"])
    assert torch.equal(rounded["real"], exact["real"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r1_weight": -0.1}, r"`r1_weight` must not be negative; got -0\.1\."),
        (
            {"augmentation": ("translate",)},
            r"augmentation `translate`\. Did you mean `translation`",
        ),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    defaults = {"augmentation": (), "r1_weight": 0.0}
    with pytest.raises(ConfigError, match=message):
        check_adversary(**(defaults | settings))
    with pytest.raises(ConfigError, match=message):
        CutConfig(**settings)


def test_defaults_are_off():
    assert (CutConfig().augmentation, CutConfig().r1_weight) == ((), 0.0)
    assert isinstance(discriminator(CutConfig().discriminator), PatchGAN)
