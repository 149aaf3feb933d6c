import copy
import pickle

import pytest
import torch
from torchvision.models.vgg import cfgs, make_layers

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks.vgg import FeatureSelector, VGGFeatures

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def reference():
    """The features of torchvision's VGG16, untrained, without its 124 million other weights."""
    torch.manual_seed(0)
    return make_layers(cfgs["D"])


@pytest.fixture(params=["features.", ""])
def file(request, reference, tmp_path):
    path = tmp_path / "vgg16.pth"
    torch.save({request.param + n: w for n, w in reference.state_dict().items()}, path)
    return path


def naive_features(reference, x, layers):
    x = ((x + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    maps = []
    for layer in reference[:-1]:  # the last pooling may leave nothing
        if len(maps) > max(layers):
            break
        x = layer(x)
        if isinstance(layer, torch.nn.ReLU):
            maps.append(x)
    return [maps[layer] for layer in layers]


@torch.no_grad()
def test_maps_are_those_of_torchvision(reference, file):
    layers = (4, 7, 9)
    network = VGGFeatures(layers, weights=str(file))
    x = torch.rand(2, 3, 17, 24) * 2 - 1
    for ours, theirs in zip(network(x), naive_features(reference, x, layers), strict=True):
        torch.testing.assert_close(ours, theirs.relu(), rtol=1e-4, atol=1e-5)
        assert ours.min() == 0
    assert network.channels == [256, 512, 512]


@torch.no_grad()
def test_every_layer_in_any_order(reference, tmp_path):
    path = tmp_path / "vgg16.pth"
    torch.save(reference.state_dict(), path)
    layers = (12, 0, 3, 8)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    network = VGGFeatures(layers, weights=str(path))
    for ours, theirs in zip(network(x), naive_features(reference, x, layers), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_nothing_learns_and_nothing_is_saved():
    network = VGGFeatures((0,), random=True, width=2)
    assert not list(network.parameters())
    assert not network.state_dict()
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    network(x)[0].sum().backward()
    assert x.grad.any()


def test_random_features_are_always_the_same():
    torch.manual_seed(1)
    first = VGGFeatures((4,), random=True, width=2)
    torch.manual_seed(2)
    second = copy.deepcopy(VGGFeatures((4,), random=True, width=2))
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(first(x)[0], second(x)[0])


def test_weights_follow_the_precision_of_the_network(file):
    network = VGGFeatures((0,), weights=str(file)).double()
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    assert network(x)[0].dtype is torch.float64


def test_grey_images_are_taken_for_colour():
    network = VGGFeatures((1,), random=True, width=2)
    grey = torch.randn(1, 1, 6, 5)
    assert torch.equal(network(grey)[0], network(grey.repeat(1, 3, 1, 1))[0])


def test_missing_and_wrong_files_are_told_in_one_line(tmp_path, reference):
    x = torch.zeros(1, 3, 8, 8)
    network = VGGFeatures((0,))
    with pytest.raises(ConfigError, match=r"download https://.*vgg16.* set `vgg_weights`"):
        network(x)
    with pytest.raises(ConfigError, match=r"there is no file .*none\.pth.* Download https://"):
        VGGFeatures((0,), weights=str(tmp_path / "none.pth"))(x)
    path = tmp_path / "file.pth"
    torch.save(reference.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"cannot be read as weights .* Download https://"):
        VGGFeatures((0,), weights=str(path))(x)
    path.write_bytes(pickle.dumps(Danger()))
    with pytest.raises(ConfigError, match=r"`vgg_weights`: .* Download https://"):
        VGGFeatures((0,), weights=str(path))(x)
    assert not Danger.happened
    torch.save({"features.0.weight": torch.zeros(2, 3, 3, 3)}, path)
    with pytest.raises(ConfigError, match=r"is not VGG16: .*\(64, 3, 3, 3\); got \(2, 3, 3, 3\)"):
        VGGFeatures((0,), weights=str(path))(x)
    torch.save({"classifier": 3}, path)
    with pytest.raises(ConfigError, match=r"`features\.0\.weight` must be .* got nothing"):
        VGGFeatures((0,), weights=str(path))(x)
    torch.save([1, 2], path)
    with pytest.raises(ConfigError, match=r"holds no weights by name, but a list"):
        VGGFeatures((0,), weights=str(path))(x)


class Danger:
    """A pickle that runs code when it is read."""

    happened: list = []

    def __reduce__(self):
        return (Danger.happened.append, (1,))


def test_wording_of_other_errors():
    with pytest.raises(ConfigError, match=r"0 to 12; got \[13\]"):
        VGGFeatures((13,))
    with pytest.raises(ConfigError, match=r"0 to 12; got \[\]"):
        VGGFeatures(())
    with pytest.raises(ConfigError, match=r"64 channels; got 8\. Only random"):
        VGGFeatures((0,), width=8)
    network = VGGFeatures((7,), random=True, width=2)
    assert network.min_size == 8
    with pytest.raises(ShapeError, match=r"at least 8 x 8 .* got 7 x 20"):
        network(torch.zeros(1, 3, 7, 20))
    with pytest.raises(ShapeError, match="2 channels cannot stand"):
        network(torch.zeros(1, 2, 8, 8))


def test_selector_value_keys_and_parameter_count():
    selector = FeatureSelector([8, 256])
    assert list(selector.state_dict())[:4] == [
        "convs.0.0.weight",
        "convs.0.0.bias",
        "convs.0.2.weight",
        "convs.0.2.bias",
    ]
    assert selector.convs[0][0].out_channels == 32
    assert selector.convs[1][2].out_channels == 64
    maps = [torch.randn(2, 8, 3, 5), torch.randn(2, 256, 1, 2)]
    for conv, feature, actual in zip(selector.convs, maps, selector(maps), strict=True):
        first, second = conv[0], conv[2]
        pixel = feature[1, :, 0, 1]
        hidden = (first.weight[:, :, 0, 0] @ pixel + first.bias).clamp_min(0)
        expected = second.weight[:, :, 0, 0] @ hidden + second.bias
        torch.testing.assert_close(actual[1, :, 0, 1], expected)
    assert sum(w.numel() for w in FeatureSelector([256, 512, 512]).parameters()) == 184_960
    with pytest.raises(ShapeError, match=r"made for 2 maps; got 1"):
        selector(maps[:1])
