import pytest
import torch
from torch import nn

from patchkin.errors import ConfigError
from patchkin.networks import (
    PatchGAN,
    PatchGANConfig,
    ResNetConfig,
    apply_together,
    check_pair,
    discriminator_pair,
    generator_pair,
)


def test_pairs_fit_together_when_channels_differ():
    config = ResNetConfig(ngf=2, blocks=1, in_channels=2, out_channels=5)
    G_AB, G_BA = generator_pair(config)
    D_B, D_A = discriminator_pair(PatchGANConfig(ndf=2, in_channels=5), config)
    a_BCHW, b_BCHW = torch.zeros(1, 2, 32, 32), torch.zeros(1, 5, 32, 32)
    assert D_B(G_AB(a_BCHW)).shape == D_A(G_BA(b_BCHW)).shape


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_together_equals_apart(norm):
    network = PatchGAN(PatchGANConfig(ndf=2, norm=norm)).double()
    parts = [torch.randn(n, 3, 32, 36, dtype=torch.float64) for n in (2, 1, 3)]
    expected = [network(part) for part in parts]
    for actual, e in zip(apply_together(network, *parts), expected, strict=True):
        torch.testing.assert_close(actual, e, rtol=1e-9, atol=1e-10)


def test_unequal_sizes_pass_one_by_one():
    outputs = apply_together(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2), torch.zeros(2, 1, 3, 2))
    assert [tuple(y.shape) for y in outputs] == [(1, 1, 2, 2), (2, 1, 3, 2)]


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="must be the generator's `out_channels`; got 3 and 1"):
        check_pair(ResNetConfig(out_channels=1), PatchGANConfig(), identity=False)
    with pytest.raises(ConfigError, match=r"equal or one of them 1; got 4 and 3. Set `identity"):
        check_pair(ResNetConfig(in_channels=4), PatchGANConfig(), identity=True)
    check_pair(ResNetConfig(in_channels=4), PatchGANConfig(), identity=False)
    check_pair(ResNetConfig(in_channels=1), PatchGANConfig(), identity=True)
