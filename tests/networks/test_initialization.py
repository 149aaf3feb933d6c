import math

import pytest
import torch
from torch import nn

from patchkin.errors import ConfigError
from patchkin.networks import (
    InitConfig,
    PatchGAN,
    PatchGANConfig,
    ProjectionHead,
    ResNetConfig,
    ResNetGenerator,
    initialize,
)


def layers():
    return {
        "convolution": (nn.Conv2d(40, 60, 5), 40 * 25, 60 * 25),
        "transposed": (nn.ConvTranspose2d(40, 60, 5), 60 * 25, 40 * 25),
        "linear": (nn.Linear(300, 200), 300, 200),
    }


@pytest.mark.parametrize("name", list(layers()))
@pytest.mark.parametrize("kind", ["xavier", "normal", "kaiming"])
def test_weights_have_the_stated_deviation_and_biases_are_zero(name, kind):
    layer, fan_in, fan_out = layers()[name]
    initialize(layer, InitConfig(kind=kind, gain=0.3), torch.Generator().manual_seed(1))
    expected = {
        "xavier": 0.3 * math.sqrt(2 / (fan_in + fan_out)),
        "normal": 0.3,
        "kaiming": math.sqrt(2 / fan_in),
    }[kind]
    weight = layer.weight.detach()
    assert weight.std().item() == pytest.approx(expected, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=0.02 * expected)
    assert weight.abs().max().item() > 3.5 * expected  # normal, not uniform
    assert not layer.bias.any()


def test_orthogonal_weights_are_orthogonal():
    layer = nn.Conv2d(4, 6, 3)
    initialize(layer, InitConfig(kind="orthogonal", gain=0.5))
    rows = layer.weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.mT, 0.25 * torch.eye(6))


def test_batch_norm_scales_vary_around_one():
    norm = nn.BatchNorm2d(5000)
    initialize(norm, InitConfig(gain=0.02))
    assert norm.weight.mean().item() == pytest.approx(1, abs=1e-3)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not norm.bias.any()


def test_every_convolution_and_linear_layer_of_the_networks_is_drawn():
    for network in (
        ResNetGenerator(ResNetConfig(ngf=4, blocks=1, antialias_up=False)),
        PatchGAN(PatchGANConfig(ndf=4)),
        ProjectionHead([3, 8], width=16),
    ):
        filters = {name: buffer.clone() for name, buffer in network.named_buffers()}
        initialize(network, InitConfig(gain=1e-6))
        assert all(weight.abs().max() < 1e-5 for weight in network.parameters())
        assert all(torch.equal(filters[name], buffer) for name, buffer in network.named_buffers())


def test_a_generator_repeats_the_draws_and_leaves_the_global_one_alone():
    first, second = ProjectionHead([3]), ProjectionHead([3])
    state = torch.get_rng_state()
    initialize(first, InitConfig(), torch.Generator().manual_seed(7))
    initialize(second, InitConfig(), torch.Generator().manual_seed(7))
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_defaults_are_those_of_cut():
    assert InitConfig() == InitConfig(kind="xavier", gain=0.02)
    with pytest.raises(ConfigError, match="`gain` must be positive; got 0"):
        InitConfig(gain=0.0)
