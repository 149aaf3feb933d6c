import itertools

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from patchkin.errors import ConfigError
from patchkin.networks import (
    BlurDownsample,
    PatchGAN,
    PatchGANConfig,
    PixelDiscriminator,
    ResNetConfig,
    check_channels,
    discriminator,
    judge_together,
)


def indices(network, kind):
    return [i for i, layer in enumerate(network.model) if isinstance(layer, kind)]


@pytest.mark.parametrize(
    ("layers", "antialias", "convolutions", "blurs"),
    [
        (3, True, [0, 3, 7, 11, 14], [2, 6, 10]),
        (4, True, [0, 3, 7, 11, 15, 18], [2, 6, 10, 14]),
        (3, False, [0, 2, 5, 8, 11], []),
        (1, True, [0, 3, 6], [2]),
    ],
)
def test_layers_have_the_released_indices(layers, antialias, convolutions, blurs):
    network = PatchGAN(PatchGANConfig(ndf=2, layers=layers, antialias=antialias))
    assert indices(network, nn.Conv2d) == convolutions
    assert indices(network, BlurDownsample) == blurs


@pytest.mark.parametrize("antialias", [True, False])
def test_published_parameter_counts(antialias):
    basic = PatchGAN(PatchGANConfig(antialias=antialias))
    assert sum(weight.numel() for weight in basic.parameters()) == 2_764_737
    pixel = PixelDiscriminator(PatchGANConfig(kind="pixel"))
    assert sum(weight.numel() for weight in pixel.parameters()) == 8_705


def test_widths_double_up_to_eight_times():
    network = PatchGAN(PatchGANConfig(ndf=2, layers=5))
    widths = [layer.out_channels for layer in network.model if isinstance(layer, nn.Conv2d)]
    assert widths == [2, 4, 8, 16, 16, 16, 1]


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_only_first_and_last_have_a_bias_without_instance_norm(norm):
    network = PatchGAN(PatchGANConfig(ndf=2, norm=norm))
    biased = [
        i
        for i, layer in enumerate(network.model)
        if isinstance(layer, nn.Conv2d) and layer.bias is not None
    ]
    assert biased == [0, 14]
    pixel = PixelDiscriminator(PatchGANConfig(ndf=2, norm=norm))
    assert [pixel.net[i].bias is not None for i in (0, 2, 5)] == [True, False, False]


@pytest.mark.parametrize(("size", "logits"), [(256, 30), (128, 14), (64, 6), (32, 2)])
@pytest.mark.parametrize("antialias", [True, False])
def test_published_numbers_of_patches(size, logits, antialias):
    network = PatchGAN(PatchGANConfig(ndf=1, antialias=antialias))
    with torch.no_grad():
        assert network(torch.randn(1, 3, size, 32)).shape == (1, 1, logits, 2)


def naive_patchgan(network, x_BCHW):
    """The strided network from its weights, with explicit norms."""
    weights = [layer for layer in network.model if isinstance(layer, nn.Conv2d)]
    for i, layer in enumerate(weights):
        stride = 2 if i < len(weights) - 2 else 1
        x_BCHW = nnf.conv2d(x_BCHW, layer.weight, layer.bias, stride=stride, padding=1)
        if 0 < i < len(weights) - 1:
            variance, mean = torch.var_mean(x_BCHW, dim=(2, 3), keepdim=True, correction=0)
            x_BCHW = (x_BCHW - mean) / (variance + 1e-5).sqrt()
        if i < len(weights) - 1:
            x_BCHW = torch.where(x_BCHW > 0, x_BCHW, 0.2 * x_BCHW)
    return x_BCHW


@pytest.mark.parametrize(("batch", "size"), [(1, (24, 35)), (3, (32, 27))])
def test_value_and_gradient_match_the_definition(batch, size):
    network = PatchGAN(PatchGANConfig(ndf=2, antialias=False)).double()
    x_BCHW = torch.randn(batch, 3, *size, dtype=torch.float64, requires_grad=True)
    actual, expected = network(x_BCHW), naive_patchgan(network, x_BCHW)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    inputs = [x_BCHW, *network.parameters()]
    actual = torch.autograd.grad(actual.pow(2).mean(), inputs)
    expected = torch.autograd.grad(expected.pow(2).mean(), inputs)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("layers", "antialias", "norm"),
    list(itertools.product([1, 2, 3], [True, False], ["instance", "batch", "none"])),
)
def test_min_size_is_the_smallest_that_works(layers, antialias, norm):
    network = PatchGAN(PatchGANConfig(ndf=1, layers=layers, antialias=antialias, norm=norm))
    least = network.min_size
    assert network(torch.randn(2, 3, least, least)).shape == (2, 1, 1, 1)
    with pytest.raises((RuntimeError, ValueError)):
        network(torch.randn(2, 3, least - 1, 64))


@pytest.mark.parametrize(("norm", "least"), [("instance", 2), ("batch", 1), ("none", 1)])
def test_min_size_of_the_pixel_form(norm, least):
    network = PixelDiscriminator(PatchGANConfig(ndf=2, kind="pixel", norm=norm))
    assert network.min_size == least
    assert network(torch.randn(2, 3, least, least)).shape == (2, 1, least, least)
    if least > 1:
        with pytest.raises(ValueError, match="more than 1 spatial"):
            network(torch.randn(2, 3, 1, 1))


def test_the_kind_chooses_the_class():
    assert type(discriminator()) is PatchGAN
    assert type(discriminator(PatchGANConfig(kind="pixel"))) is PixelDiscriminator


def test_a_batch_has_the_mean_gradient_of_its_images():
    network = PatchGAN(PatchGANConfig(ndf=2)).double()
    x_BCHW = torch.randn(4, 3, 32, 28, dtype=torch.float64)

    def gradients(x):
        return torch.autograd.grad(network(x).pow(2).mean(), list(network.parameters()))

    together, apart = gradients(x_BCHW), [gradients(x_BCHW[i : i + 1]) for i in range(4)]
    for whole, *parts in zip(together, *apart, strict=True):
        torch.testing.assert_close(whole, sum(parts) / 4, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("sizes", [((24, 28), (24, 28)), ((24, 28), (32, 24))])
def test_judging_together_equals_judging_apart(norm, sizes):
    network = PatchGAN(PatchGANConfig(ndf=2, norm=norm)).double()
    fake = torch.randn(2, 3, *sizes[0], dtype=torch.float64)
    real = torch.randn(3, 3, *sizes[1], dtype=torch.float64)
    expected = network(fake), network(real)
    for actual, reference in zip(judge_together(network, fake, real), expected, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-10, atol=1e-12)


def test_channels_must_fit():
    check_channels(ResNetConfig(), PatchGANConfig())
    check_channels(ResNetConfig(in_channels=1), PatchGANConfig())
    grey = ResNetConfig(in_channels=4, out_channels=1)
    check_channels(grey, PatchGANConfig(in_channels=1))
    with pytest.raises(ConfigError, match="must be the generator's `out_channels`; got 3 and 1"):
        check_channels(ResNetConfig(out_channels=1), PatchGANConfig())
    with pytest.raises(ConfigError, match=r"must be equal or one of them 1; got 4 and 3"):
        check_channels(ResNetConfig(in_channels=4), PatchGANConfig())


@pytest.mark.parametrize("name", ["in_channels", "ndf", "layers"])
def test_counts_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"`{name}` must be at least 1; got 0"):
        PatchGANConfig(**{name: 0})
