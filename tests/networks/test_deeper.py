"""The deeper teachers and the discriminator of two teachers, layer by layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks import PatchGAN, PatchGANConfig, UNet, UNetConfig
from patchkin.networks.adaptors import NormedAdaptors
from patchkin.networks.deeper import DeeperGenerator, ExpansionBlock, deeper_unet
from patchkin.networks.separable import MAPPING_TAPS, SeparableGenerator
from patchkin.networks.shared_patchgan import SharedPatchGAN
from patchkin.networks.unet import UNET_TAP_WIDTHS


def norm(x_BCHW):
    mean = x_BCHW.mean(dim=(2, 3), keepdim=True)
    return (x_BCHW - mean) / ((x_BCHW - mean).square().mean(dim=(2, 3), keepdim=True) + 1e-5).sqrt()


def test_an_expansion_block_pads_before_its_first_convolution():
    """The border of what the 3 x 3 sees went through convolution, norm and ReLU, in its mirror."""
    block = ExpansionBlock(2).double()
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    w = dict(block.conv_block.named_parameters())
    y = nnf.conv2d(nnf.pad(x, (1, 1, 1, 1), mode="reflect"), w["1.weight"], w["1.bias"])
    assert y.shape == (2, 8, 7, 6)
    y = nnf.conv2d(norm(y).relu(), w["4.weight"], w["4.bias"])
    y = nnf.conv2d(norm(y).relu(), w["7.weight"], w["7.bias"])
    y = nnf.pad(norm(y).relu(), (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(block(x), x + norm(nnf.conv2d(y, w["12.weight"], w["12.bias"])))


@pytest.mark.parametrize("kind", ["instance", "batch", "none"])
def test_the_deeper_generator_keeps_sizes_and_names(kind):
    generator = DeeperGenerator(2, 1, 4, norm=kind)
    assert generator(torch.randn(2, 1, 20, 12)).shape == (2, 4, 20, 12)
    names = set(generator.state_dict())
    assert {"model.7.conv_block.4.weight", "model.8.weight", "model.44.bias"} <= names
    assert {"model.18.conv_block.1.conv.0.bias", "model.28.conv_block.6.conv.2.weight"} <= names
    assert ("model.1.bias" in names) == (kind != "batch")
    assert "model.18.conv_block.1.conv.1.weight" not in names, "released: no scale in between"
    with pytest.raises(ShapeError):
        generator(torch.zeros(1, 1, 4, 20))
    with pytest.raises(ConfigError, match="`ngf` must be at least 1"):
        DeeperGenerator(0)


def test_a_generator_with_batch_norm_has_it_outside_of_separable_convolutions():
    generator = SeparableGenerator((2,) * 8, norm="batch")
    names = set(generator.state_dict())
    assert {"model.2.running_mean", "model.10.conv_block.2.weight"} <= names
    assert "model.1.bias" not in names
    assert {"model.10.conv_block.1.conv.0.bias", "model.26.bias"} <= names
    assert not any(".conv.1." in name for name in names)


def test_taps_of_a_separable_generator_are_its_layers_outputs():
    generator = SeparableGenerator((1, 2, 2, 1, 2, 3, 2, 1))
    x_BCHW = torch.randn(2, 3, 12, 16)
    y_BCHW, maps = generator.forward_with_taps(x_BCHW)
    assert torch.equal(y_BCHW, generator(x_BCHW))
    for tap, map_BCHW in zip(MAPPING_TAPS, maps, strict=True):
        torch.testing.assert_close(map_BCHW, generator.model[: tap + 1](x_BCHW.clamp(-1, 1)))
    with pytest.raises(ConfigError, match="0 to 27; got 28"):
        generator.forward_with_taps(x_BCHW, (28,))


def test_taps_of_a_unet_have_the_published_widths():
    network = UNet(UNetConfig(ngf=3, levels=6, dropout=False))
    x_BCHW = torch.randn(2, 3, 64, 128)
    torch.manual_seed(0)
    y_BCHW, maps = network.forward_with_taps(x_BCHW)
    assert [tuple(m.shape) for m in maps] == [
        (2, 3 * width, 64 // part, 128 // part)
        for width, part in zip(UNET_TAP_WIDTHS, (4, 16, 16, 4), strict=True)
    ]
    assert not any(layer._forward_hooks for layer in network.modules())
    assert y_BCHW.shape == x_BCHW.shape
    assert min(float(m.detach().min()) for m in maps[2:]) >= 0, "behind a ReLU"
    with pytest.raises(ConfigError, match="from 6 `levels` on; got 3"):
        UNet(UNetConfig(levels=3)).forward_with_taps(x_BCHW)


def test_a_deeper_unet_has_two_blocks_behind_each_halving_and_doubling():
    plain, deeper = (
        make(UNetConfig(ngf=2, levels=4, dropout=False)) for make in (UNet, deeper_unet)
    )
    blocks = [name for name, layer in deeper.named_modules() if isinstance(layer, ExpansionBlock)]
    assert len(blocks) == 3 * 4
    assert "model.model.1" in blocks, "behind the outermost convolution"
    rest = {tuple(w.shape) for n, w in plain.state_dict().items()}
    assert rest <= {tuple(w.shape) for w in deeper.state_dict().values()}


@pytest.mark.parametrize("shared", range(6))
def test_branches_are_patchgans_that_share_their_outer_blocks(shared):
    config = PatchGANConfig(ndf=2, in_channels=4, antialias=False)
    network = SharedPatchGAN(config, shared)
    x_BCHW = torch.randn(2, 4, 48, 32)
    for branch in (0, 1):
        plain = PatchGAN(config)
        own = dict(network.state_dict())
        for place, index in enumerate((0, 2, 5, 8, 11)):
            entry = 1 if place < shared else branch
            for kind in ("weight", "bias"):
                name = f"block{place + 1}s.{entry}.block.0.{kind}"
                plain.model[index].get_parameter(kind).data.copy_(own[name])
        torch.testing.assert_close(network(x_BCHW, branch), plain(x_BCHW))
        for map_BCHW, expected in zip(
            network.rectified(x_BCHW, branch), plain.rectified(x_BCHW), strict=True
        ):
            torch.testing.assert_close(map_BCHW, expected)
        torch.testing.assert_close(plain.rectified(x_BCHW)[-1], plain.model[:11](x_BCHW))
    assert torch.equal(network(x_BCHW, 0), network(x_BCHW, 1)) == (shared == 5)


def test_a_shared_discriminator_of_other_sizes_is_refused():
    with pytest.raises(ConfigError, match="shares 0 to 5 blocks; got 6"):
        SharedPatchGAN(PatchGANConfig(antialias=False), 6)
    with pytest.raises(ConfigError, match="3 `layers` without `antialias`; got basic, 3, True"):
        SharedPatchGAN(PatchGANConfig(), 3)


def test_adaptors_normalise_the_batch_together():
    adaptors = NormedAdaptors((3, 2), (4, 4)).double().train()
    x = torch.randn(2, 3, 3, 5, dtype=torch.float64)
    y = torch.einsum("bchw,oc->bohw", x, adaptors.convs[0][0].weight[..., 0, 0])
    mean = y.mean(dim=(0, 2, 3), keepdim=True)
    deviation = ((y - mean).square().mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt()
    actual, _ = adaptors([x, x[:, :2]])
    torch.testing.assert_close(actual, ((y - mean) / deviation).relu())
