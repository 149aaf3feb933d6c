"""What is particular to PatchGCL: whose features, the weights of levels, and its settings."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from patchkin.errors import ConfigError
from patchkin.losses.patch_graph import two_way_contrast
from patchkin.method import Progress
from patchkin.methods.patchgcl import PatchGcl, PatchGclConfig
from patchkin.networks import InitConfig, PatchGANConfig, ResNetConfig, draw_places
from patchkin.randomness import SeededDraws
from patchkin.training import Updater
from support import cpu_fabric, random_batch

SMALL = PatchGclConfig(
    generator=ResNetConfig(ngf=4, blocks=5),
    discriminator=PatchGANConfig(ndf=4),
    initialization=InitConfig(gain=1.0),
    features="random",
    feature_width=2,
    node_width=8,
    num_patches=12,
    threshold=0.6,
    poolings=2,
    pooling_weights=(0.5, 0.25),
)


def stepped(method, batch):
    update = Updater(method, cpu_fabric())
    update.begin_step(1.0)
    progress = Progress.of_step(0, total_steps=1, draws=SeededDraws(3, 0))
    method.train_step(batch, update, progress)
    return {name: float(value) for name, value in update.terms.items()}


@pytest.mark.parametrize("features", ["random", "encoder"])
def test_terms_are_the_weighted_contrasts_of_both_pairs(features):
    torch.manual_seed(0)
    config = replace(SMALL, features=features, taps=(8, 12, 14))
    method = PatchGcl(config)
    before, batch = copy.deepcopy(method), random_batch(size=(32, 40))
    terms = stepped(method, batch)
    draws = SeededDraws(3, 0)
    for name, images in (("graph", batch.a_BCHW), ("identity_graph", batch.b_BCHW)):
        with torch.no_grad():
            sources, targets = (before._features(x) for x in (images, before.G(images)))
            levels = before.F(sources, targets, draw_places(sources, 12, draws))
        expected = 0.0
        for first, second, third in levels:
            parts = [
                float(two_way_contrast(x.source_BKC, x.target_BKC, temperature=0.07).mean())
                for x in (first, second, third)
            ]
            expected += (parts[0] + 0.5 * parts[1] + 0.25 * parts[2]) / 3
        expected = 0.1 / 2 * expected / len(levels)
        assert terms[f"G+F.{name}"] == pytest.approx(expected, rel=1e-4)
    assert 0 < terms["edges"] <= 1


def test_without_identity_the_first_pair_counts_whole():
    torch.manual_seed(0)
    both = PatchGcl(SMALL)
    alone = PatchGcl(replace(SMALL, identity=False))
    alone.load_state_dict(both.state_dict())
    batch = random_batch()
    terms, halved = stepped(alone, batch), stepped(both, batch)
    assert "G+F.identity_graph" not in terms
    assert terms["G+F.graph"] == pytest.approx(2 * halved["G+F.graph"], rel=1e-5)


def test_weights_of_vgg_come_from_a_file_and_stay_as_they_are(tmp_path):
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)]
    weights = {
        f"features.{index}.{name}": tensor.detach()
        for index, layer in zip((0, 2), convolutions, strict=True)
        for name, tensor in layer.named_parameters()
    }
    torch.save(weights, tmp_path / "vgg16.pth")
    config = replace(
        SMALL,
        features="vgg16",
        feature_width=64,
        layers=(0, 1),
        vgg_weights=str(tmp_path / "vgg16.pth"),
    )
    method, batch = PatchGcl(config), random_batch()
    method.prepare([batch], SeededDraws(0, -1))
    stepped(method, batch)
    assert not any("vgg" in name for name in method.state_dict())
    mean, deviation = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x_BCHW = ((batch.a_BCHW + 1) / 2 - mean) / deviation
    with torch.no_grad():
        for layer, found in zip(convolutions, method.vgg(batch.a_BCHW), strict=True):
            x_BCHW = layer(x_BCHW).relu()
            torch.testing.assert_close(found, x_BCHW, rtol=1e-4, atol=1e-5)


def test_without_weights_it_says_what_to_do():
    method = PatchGcl(replace(SMALL, features="vgg16", feature_width=64))
    with pytest.raises(ConfigError, match="VGG16's weights are needed: download https://"):
        method.prepare([], SeededDraws(0, -1))


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("random", [(4, 0, 24, (8, 10)), (7, 0, 60, (4, 5)), (9, 0, 92, (4, 5))]),
        ("encoder", [(0, 3, 1, (38, 46)), (8, 0, 15, (16, 20)), (12, 0, 35, (8, 10))]),
    ],
)
def test_maps_for_inspection(features, expected):
    method = PatchGcl(replace(SMALL, features=features, taps=(0, 8, 12))).eval()
    maps = method.patch_maps(random_batch(size=(32, 40)).a_BCHW)
    shown = [(m.tap, m.origin, m.field_pixels, tuple(m.feature_BCHW.shape[2:])) for m in maps]
    assert shown == expected
    rows = maps[1].embed(maps[1].feature_BCHW.permute(0, 2, 3, 1))
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(rows.shape[:-1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1.0}, r"`threshold` must be below 1; got 1\.0"),
        ({"poolings": 3}, r"`pooling_weights` must have an entry for each of 3 poolings; got 2"),
        ({"poolings": -1}, "`poolings` must be at least 0; got -1"),
        ({"hops": 0}, "`hops` must be at least 1; got 0"),
        ({"down_scale": 0}, "`down_scale` must be at least 1; got 0"),
        ({"num_patches": 0}, "`num_patches` must be at least 1; got 0"),
        ({"temperature": 0.0}, r"`temperature` must be positive; got 0\.0"),
        ({"features": "encoder", "taps": ()}, "`taps` must name at least one module"),
        (
            {
                "generator": ResNetConfig(ngf=4, blocks=5, in_channels=4, out_channels=4),
                "discriminator": PatchGANConfig(ndf=4, in_channels=4),
            },
            "VGG16 sees grey or colour images: `in_channels` must be 1 or 3; got 4",
        ),
    ],
)
def test_wording_of_errors(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes)


def test_any_number_of_channels_on_the_own_encoder():
    config = replace(
        SMALL,
        generator=ResNetConfig(ngf=4, blocks=5, in_channels=4, out_channels=4),
        discriminator=PatchGANConfig(ndf=4, in_channels=4),
        features="encoder",
        taps=(8, 13),
    )
    terms = stepped(PatchGcl(config), random_batch(channels=(4, 4)))
    assert terms["G+F.graph"] > 0
