"""Every kind of network: recognised by names and shapes, and every tensor accounted for."""

from __future__ import annotations

import itertools

import pytest
import torch

from patchkin.errors import CheckpointError
from patchkin.networks import (
    PatchGAN,
    PatchGANConfig,
    PixelDiscriminator,
    ProjectionHead,
    ResNetConfig,
    ResNetGenerator,
    SimilarityHead,
    StyleGan2Discriminator,
    StyleGan2DiscriminatorConfig,
    StyleGan2Generator,
    StyleGan2GeneratorConfig,
    UNet,
    UNetConfig,
)
from patchkin.networks.munit import (
    MultiScaleConfig,
    MultiScaleDiscriminator,
    MunitGenerator,
    MunitGeneratorConfig,
)
from patchkin.networks.negative_generator import NegativeGenerator
from patchkin.networks.separable import SeparableGenerator
from patchkin.networks.vgg import FeatureSelector
from patchkin.upstream import read_network, recognize, released_weights
from patchkin.upstream.kinds import take
from upstream.conftest import filled

RESNETS = [
    ResNetConfig(ngf=2, blocks=blocks, norm=norm, antialias_down=down, antialias_up=up,
                 dropout=dropout, in_channels=channels, out_channels=5 - channels)
    for (down, up), norm, dropout, (blocks, channels) in itertools.product(
        itertools.product((True, False), repeat=2),
        ("instance", "batch", "none"),
        (True, False),
        ((1, 1), (4, 2), (9, 3)),
    )
]  # fmt: skip
PATCHGANS = [
    PatchGANConfig(ndf=2, layers=layers, norm=norm, antialias=antialias, in_channels=channels)
    for layers, norm, antialias, channels in itertools.product(
        (1, 3, 5), ("instance", "batch", "none"), (True, False), (1, 6)
    )
]
UNETS = [
    UNetConfig(ngf=2, levels=levels, norm=norm, in_channels=1, out_channels=4)
    for levels, norm in itertools.product((2, 3, 5, 8), ("instance", "batch", "none"))
]
STYLED = [
    StyleGan2GeneratorConfig(ngf=ngf, blocks=blocks, num_downsampling=halvings, noise=blocks != 2)
    for ngf, blocks, halvings in itertools.product((1, 3, 10), (2, 4, 6), (0, 1, 2))
]
JUDGING = [
    StyleGan2DiscriminatorConfig(ndf=ndf, working_size=size, in_channels=1)
    for ndf, size in ((1, 16), (2, 64), (3, 32), (3, 512), (5, 128))
]
NETWORKS = [
    PixelDiscriminator(PatchGANConfig(kind="pixel", ndf=3, in_channels=2, antialias=False)),
    PixelDiscriminator(PatchGANConfig(kind="pixel", ndf=3, norm="batch", antialias=False)),
    ProjectionHead([3, 8, 16], width=5),
    NegativeGenerator(3, width=4, noise_width=7),
    SimilarityHead(4),
    FeatureSelector([8, 160]),
    SeparableGenerator((1, 2, 3, 4, 5, 6, 7, 8), 4, 2),
    MunitGenerator(2, MunitGeneratorConfig(width=2, halvings=1, blocks=3, mlp_width=5)),
    MunitGenerator(3, MunitGeneratorConfig(width=3, halvings=3, blocks=1, style_width=4)),
    MultiScaleDiscriminator(3, MultiScaleConfig(width=2, layers=3, scales=2)),
]


def check_round_trip(network, path):
    """The file gives the network with the same numbers."""
    again = read_network(path)
    assert type(again) is type(network)
    ours, theirs = network.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    return again


@pytest.mark.parametrize("config", RESNETS, ids=str)
def test_resnet_options(config):
    network = ResNetGenerator(config)
    weights = released_weights(network)
    for without_filters in (False, True):
        if without_filters:
            weights = {name: t for name, t in weights.items() if not name.endswith("filt")}
        taken = take(recognize(weights), weights)
        assert taken.config == config
        assert taken.tensors.keys() == network.state_dict().keys()


@pytest.mark.parametrize("config", PATCHGANS, ids=str)
def test_patchgan_options(config):
    weights = released_weights(PatchGAN(config))
    assert take(recognize(weights), weights).config == config


@pytest.mark.parametrize("config", UNETS, ids=str)
def test_unet_options(config):
    weights = released_weights(UNet(config))
    assert take(recognize(weights), weights).config == config


@pytest.mark.parametrize("config", STYLED, ids=str)
def test_stylegan2_generator_options(config):
    weights = released_weights(StyleGan2Generator(config))
    assert take(recognize(weights), weights).config == config


@pytest.mark.parametrize("config", JUDGING, ids=str)
def test_stylegan2_discriminator_options(config):
    weights = released_weights(StyleGan2Discriminator(config))
    assert take(recognize(weights), weights).config == config


def test_another_working_size_of_the_same_network(save):
    network = filled(StyleGan2Generator(StyleGan2GeneratorConfig(ngf=4, working_size=128)))
    again = check_round_trip(network, save(network))
    x_BCHW = torch.rand(2, 3, 10, 12)
    assert again(x_BCHW).equal(network(x_BCHW))
    assert (again.config.ngf, again.config.working_size) == (2, 64)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_other_networks(network, save):
    check_round_trip(filled(network), save(network, "weights.pth"))


def test_generators_translate_alike(save):
    x_BCHW = torch.rand(2, 3, 36, 20) * 2 - 1
    for index, config in enumerate(
        (
            ResNetConfig(ngf=4, blocks=2),
            ResNetConfig(ngf=4, blocks=2, antialias_up=False, dropout=True, norm="batch"),
            ResNetConfig(ngf=4, blocks=2, antialias_down=False, norm="none"),
        )
    ):
        network = filled(ResNetGenerator(config))
        path = save(network, f"{index}_net_G.pth")
        assert check_round_trip(network, path)(x_BCHW).equal(network(x_BCHW))


def test_safetensors_and_several_types(save, tmp_path):
    from safetensors.torch import save_file

    network = filled(ProjectionHead([3, 8], width=4))
    weights = released_weights(network)
    save_file(weights, tmp_path / "net_F.safetensors")
    check_round_trip(network, tmp_path / "net_F.safetensors")

    halved = {name: tensor.half() for name, tensor in weights.items()}
    again = read_network(save(halved, "half_net_F.pth"))
    assert all(p.dtype is torch.float32 for p in again.parameters())
    assert again.mlps[1][0].weight.equal(halved["mlp_1.0.weight"].float())


@pytest.fixture
def resnet_weights():
    return released_weights(filled(ResNetGenerator(ResNetConfig(ngf=2, blocks=2))))


def taken(weights):
    return take(recognize(weights), weights)


def refusal(weights, role=None):
    with pytest.raises(CheckpointError) as error:
        take(recognize(weights, role), weights)
    return str(error.value)


def test_filters_are_accounted_for(resnet_weights):
    filters = {"model.7.filt", "model.11.filt", "model.14.filt", "model.18.filt"}
    assert taken(resnet_weights).dropped.keys() == filters
    assert taken(resnet_weights).filled == {}
    del resnet_weights["model.11.filt"]
    assert taken(resnet_weights).dropped.keys() == filters - {"model.11.filt"}
    assert taken(resnet_weights).filled.keys() == {"model.11.filt"}


def test_another_filter_is_refused(resnet_weights):
    resnet_weights["model.7.filt"] = torch.full((4, 1, 3, 3), 1 / 9)
    assert "the fixed filter `model.7.filt` is another one" in refusal(resnet_weights)
    resnet_weights["model.7.filt"] = torch.full((4, 1, 5, 5), 1 / 25)
    assert "model.7.filt (4, 1, 5, 5) for (4, 1, 3, 3)" in refusal(resnet_weights)


def test_statistics_of_old_instance_norms_are_dropped(resnet_weights):
    x_BCHW = torch.rand(1, 3, 16, 16)
    expected = taken(resnet_weights).module()(x_BCHW)
    for name in ("model.2", "model.12.conv_block.2", "model.20"):
        resnet_weights[f"{name}.running_mean"] = torch.randn(8)
        resnet_weights[f"{name}.running_var"] = torch.rand(8)
        resnet_weights[f"{name}.num_batches_tracked"] = torch.tensor(3)
    result = taken(resnet_weights)
    statistics = [name for name, why in result.dropped.items() if "instance norm" in why]
    assert len(statistics) == 9
    assert result.module()(x_BCHW).equal(expected)


def test_statistics_elsewhere_are_refused(resnet_weights):
    resnet_weights["model.3.running_mean"] = torch.randn(8)  # a ReLU
    assert "1 unexpected (model.3.running_mean)" in refusal(resnet_weights)


def test_statistics_of_a_batch_norm_are_kept():
    network = filled(PatchGAN(PatchGANConfig(ndf=2, norm="batch")))
    weights = released_weights(network)
    for name in list(weights):
        if name.endswith("num_batches_tracked"):
            del weights[name]  # as PyTorch before 0.4.1
    result = taken(weights)
    assert len(result.filled) == 3
    x_BCHW = torch.rand(2, 3, 32, 32)
    assert result.module()(x_BCHW).equal(network(x_BCHW))
    del weights["model.4.running_var"]
    assert "1 missing (model.4.running_var)" in refusal(weights)


def test_affine_instance_norm_is_refused(resnet_weights):
    resnet_weights["model.2.weight"] = torch.ones(2)
    resnet_weights["model.2.bias"] = torch.zeros(2)
    assert "instance norms with learned scales (`model.2.weight`), as DistanceGAN" in refusal(
        resnet_weights
    )


def test_zero_padding_is_refused(resnet_weights):
    shifted = {"model.0.weight": torch.zeros(8, 3, 7, 7), "model.3.weight": torch.zeros(2, 2, 3, 3)}
    assert "DistanceGAN's generator, which patchkin does not import" in refusal(shifted)
    for name in list(resnet_weights):
        moved = name.replace("conv_block.1", "conv_block.0").replace("conv_block.5", "conv_block.3")
        resnet_weights[moved] = resnet_weights.pop(name)
    assert "padded with zeros" in refusal(resnet_weights)


def test_a_missing_tensor(resnet_weights):
    del resnet_weights["model.13.conv_block.5.bias"], resnet_weights["model.23.weight"]
    message = refusal(resnet_weights)
    assert message.startswith("looks like a ResNet generator but does not fit one: tensors ")


def test_missing_unexpected_and_misshapen(resnet_weights):
    del resnet_weights["model.4.bias"], resnet_weights["model.8.bias"]
    for index in range(5):
        resnet_weights[f"model.{index}.extra"] = torch.zeros(1)
    resnet_weights["model.15.weight"] = torch.zeros(4, 8, 3, 4)
    assert refusal(resnet_weights) == (
        "looks like a ResNet generator but does not fit one: tensors "
        "2 missing (model.4.bias, model.8.bias), "
        "5 unexpected (model.0.extra, model.1.extra, model.2.extra, ...), "
        "1 of another shape (model.15.weight (4, 8, 3, 4) for (4, 8, 3, 3))."
    )


def test_integers_are_no_weights(resnet_weights):
    resnet_weights["model.4.bias"] = torch.zeros(4, dtype=torch.int64)
    assert "model.4.bias as torch.int64" in refusal(resnet_weights)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.1.weight", (2, 3, 7), "holds no network that patchkin knows"),
        ("model.19.weight", (2,), "1 of another shape (model.19.weight (2,) for (2, 4, 3, 3))"),
        ("model.23.weight", (3, 2), "has `model.23.weight` of shape (3, 2); expected are 4 dim"),
        ("model.1.weight", (0, 3, 7, 7), "`ngf` must be at least 1; got 0"),
    ],
)
def test_odd_shapes(resnet_weights, name, shape, expected):
    resnet_weights[name] = torch.zeros(shape)
    assert expected in refusal(resnet_weights)


def test_other_numbers_of_halvings_are_refused(resnet_weights):
    deeper = {
        name.replace("model.12", "model.15").replace("model.13", "model.16"): tensor
        for name, tensor in resnet_weights.items()
    }
    assert "has residual blocks from `model.15` on" in refusal(deeper)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.0.weight", (8, 3, 7, 7), "a network padded with zeros"),
        ("model.0.weight", (8, 3, 5, 5), "no network that patchkin knows: 1 tensors, the first"),
        ("head_0.conv_0.weight", (8, 3, 3, 3), "GauGAN's generator, which patchkin does not"),
        ("features.0.weight", (8, 3, 3, 3), "a classifier"),
        ("weight", (8, 8, 1, 1), "one layer alone, such as an adaptor"),
    ],
)
def test_strangers_by_their_names(name, shape, expected):
    assert f"holds {expected}" in refusal({name: torch.zeros(shape)})


def test_names_decide_between_heads_and_negatives():
    uniform = released_weights(ProjectionHead([320, 320], width=256))
    assert recognize(uniform).title == "generator of negatives"
    assert recognize(uniform, "F").title == "projection head"
    tapped = released_weights(ProjectionHead([3, 320], width=256))
    assert recognize(tapped).title == "projection head"
    assert "is called N but holds a projection head" in refusal(tapped, "N")


def test_a_name_that_contradicts_the_content(resnet_weights):
    assert refusal(resnet_weights, "D_A") == (
        "is called D_A but holds a ResNet generator; if the name is wrong, give the file as G=FILE."
    )


def test_summary_heads_of_the_first_weeks():
    network = filled(SimilarityHead(4))
    weights = {
        name.replace("model.4", "linear.0").replace("model.6", "linear.2"): tensor
        for name, tensor in released_weights(network).items()
    }
    result = taken(weights).module()
    x_BTKC = torch.rand(2, 4, 8, 8)
    assert result(x_BTKC).equal(network(x_BTKC))


def test_dummies_of_munit_are_dropped():
    network = filled(MunitGenerator(3, MunitGeneratorConfig(width=2, blocks=1, mlp_width=4)))
    weights = released_weights(network)
    weights["dec.model.0.model.0.model.1.norm.running_mean"] = torch.zeros(8)
    weights["enc_content.model.0.norm.running_var"] = torch.ones(2)
    assert taken(weights).dropped == {
        "dec.model.0.model.0.model.1.norm.running_mean": "running statistics of AdaIN, "
        "which has none",
        "enc_content.model.0.norm.running_var": "running statistics of an instance norm, "
        "which uses the image's",
    }
    weights["dec.model.2.norm.running_mean"] = torch.zeros(4)
    assert "1 unexpected (dec.model.2.norm.running_mean)" in refusal(weights)


def test_no_way_back_for_other_networks():
    with pytest.raises(CheckpointError, match="No upstream project has a network like Linear"):
        released_weights(torch.nn.Linear(2, 2))
