import pytest
import torch
import torch.nn.functional as nnf
from torchvision.models import alexnet

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks import (
    PatchGANConfig,
    VisionAided,
    discriminator,
    initialize,
    judge_together,
)
from patchkin.networks.pretrained import AlexNetFeatures

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def reference():
    """Torchvision's AlexNet without its classifier, untrained."""
    torch.manual_seed(0)
    return alexnet(weights=None).features


@pytest.fixture(scope="module")
def file(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(
        {f"features.{name}": tensor for name, tensor in reference.state_dict().items()}, path
    )
    return path


def naive_features(reference, x, layers):
    x = ((x + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    maps = []
    for layer in reference:
        x = layer(x)
        if isinstance(layer, torch.nn.ReLU):
            maps.append(x.clone())
    return [maps[layer] for layer in layers]


def config_of(file=None, **settings):
    features = "random" if file is None else "alexnet"
    weights = None if file is None else str(file)
    return PatchGANConfig(ndf=2, features=features, alexnet_weights=weights, **settings)


@torch.no_grad()
@pytest.mark.parametrize("layers", [(2, 4), (4, 0, 1, 3)])
def test_maps_are_those_of_torchvision(reference, file, layers):
    network = AlexNetFeatures(layers, weights=str(file))
    x = torch.rand(2, 3, 71, 88) * 2 - 1
    for ours, theirs in zip(network(x), naive_features(reference, x, layers), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", range(5))
def test_the_smallest_side_is_that_of_torchvision(reference, layer):
    network = AlexNetFeatures((layer,), random=True, width=1)
    side = network.min_size
    assert network(torch.zeros(1, 3, side, side + 9))[0].numel()
    with pytest.raises(ShapeError, match=f"at least {side} x {side}"):
        network(torch.zeros(1, 3, side - 1, side + 9))
    rectifiers = [i for i, part in enumerate(reference) if isinstance(part, torch.nn.ReLU)]
    used = reference[: rectifiers[layer] + 1]
    assert used(torch.zeros(1, 3, side, side)).numel()
    with pytest.raises(RuntimeError, match=r"too small|greater than|Kernel size"):
        used(torch.zeros(1, 3, side - 1, side - 1))


def test_judgements_by_hand(reference, file):
    torch.manual_seed(0)
    network = VisionAided(config_of(file, patch_votes=2, antialias=False))
    initialize(network)
    x = (torch.rand(2, 3, 50, 64) * 2 - 1).requires_grad_()
    logits = network(x)
    patches = network.patches(x)
    expected = [patches, patches]
    large = nnf.interpolate(x, scale_factor=2, mode="bilinear")
    for head, feature in zip(network.heads, naive_features(reference, large, (2, 4)), strict=True):
        scaled = feature / (feature.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        first, _, second, _, third = head
        hidden = nnf.leaky_relu(nnf.conv2d(scaled, first.weight, first.bias), 0.2)
        hidden = nnf.leaky_relu(nnf.conv2d(hidden, second.weight, second.bias, padding=1), 0.2)
        said = nnf.conv2d(hidden, third.weight, third.bias)
        expected.append(nnf.interpolate(said, patches.shape[2:], mode="bilinear"))
    expected = torch.cat(expected, dim=1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-7)
    slopes = (
        torch.autograd.grad((y**2).sum(), x, retain_graph=True)[0] for y in (logits, expected)
    )
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-9)


def test_places_without_features_have_a_slope():
    """Behind a rectifier all channels of a place may be 0, where a root alone has no slope."""
    network = VisionAided(config_of())
    network.features.make_ready()
    last = max(network.features.layers)
    network.features.get_buffer(f"bias_{last}").fill_(-1e6)
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    (slope,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert x.grad.isfinite().all()


def test_heads_learn_and_features_do_not(file):
    network = VisionAided(config_of(file))
    network(torch.randn(1, 3, 64, 64)).sum().backward()
    names = {name.split(".")[0] for name, weight in network.named_parameters() if weight.grad.any()}
    assert names == {"patches", "heads"}
    assert {name.split(".")[0] for name in network.state_dict()} == {"patches", "heads"}


def test_a_batch_is_judged_as_its_images_are(file):
    network = VisionAided(config_of(file))
    initialize(network)
    a, b = torch.rand(2, 2, 3, 64, 52) * 2 - 1
    fake, real = judge_together(network, a, b)
    for together, alone in ((fake[1], network(a[1:])[0]), (real[0], network(b[:1])[0])):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "pixel"}, "judge patches, not pixels"),
        ({"in_channels": 6}, "`in_channels` 6"),
        ({"patch_votes": 0}, "`patch_votes` must be at least 1; got 0"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ConfigError, match=message):
        config_of(**settings)


def test_without_weights_it_says_where_they_are():
    network = discriminator(PatchGANConfig(ndf=2, features="alexnet"))
    with pytest.raises(ConfigError, match=r"AlexNet's weights .*alexnet-owt.* `alexnet_weights`"):
        network(torch.zeros(1, 3, 64, 64))
