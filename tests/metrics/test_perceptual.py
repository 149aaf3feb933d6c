import sys

import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import CheckpointError, ConfigError, DataError, DownloadError, ShapeError
from patchkin.metrics import PerceptualDistance

BACKBONES = {
    "alex": "alexnet_features_torchvision.pth",
    "squeeze": "squeezenet1_1_torchvision_fp16classifier.pth",
}
ODD_SIZES = [(64, 64), (47, 70), (33, 32)]


def read(path):
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.double() for name, tensor in tensors.items()}


def plain_maps(net, x, w):
    """The compared maps, from the weights alone."""

    def conv(x, name, **where):
        return nnf.relu(nnf.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **where))

    if net == "alex":
        relu1 = conv(x, "features.0", stride=4, padding=2)
        relu2 = conv(nnf.max_pool2d(relu1, 3, 2), "features.3", padding=2)
        relu3 = conv(nnf.max_pool2d(relu2, 3, 2), "features.6", padding=1)
        relu4 = conv(relu3, "features.8", padding=1)
        return [relu1, relu2, relu3, relu4, conv(relu4, "features.10", padding=1)]

    def fire(x, index):
        name = f"features.{index}"
        small = conv(x, f"{name}.squeeze")
        wide = conv(small, f"{name}.expand3x3", padding=1)
        return torch.cat([conv(small, f"{name}.expand1x1"), wide], dim=1)

    def pooled(x):
        return nnf.max_pool2d(x, 3, 2, ceil_mode=True)

    maps = [conv(x, "features.0", stride=2)]
    maps.append(fire(fire(pooled(maps[0]), 3), 4))
    maps.append(fire(fire(pooled(maps[1]), 6), 7))
    maps.append(fire(pooled(maps[2]), 9))
    for index in (10, 11, 12):
        maps.append(fire(maps[-1], index))
    return maps


def plain_distance(net, a, b, backbone, heads):
    """Zhang et al. 2018, Eq. 1, in float64, one pair at a time."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]
    pairs = [plain_maps(net, (x[None].double() - shift) / scale, backbone) for x in (a, b)]
    total = 0.0
    for layer, (map_a, map_b) in enumerate(zip(*pairs, strict=True)):
        unit_a, unit_b = (
            x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-10) for x in (map_a, map_b)
        )
        head = heads[f"lin{layer}.model.1.weight"]
        total += nnf.conv2d((unit_a - unit_b).square(), head).mean().item()
    return total


@pytest.fixture(params=["alex", "squeeze"])
def net(request):
    return request.param


@pytest.fixture
def distance(net, weights_file):
    return PerceptualDistance(net, weights=weights_file(BACKBONES[net]))


@pytest.mark.parametrize("size", ODD_SIZES)
def test_matches_the_formula(net, distance, weights_file, size):
    backbone, heads = (
        read(weights_file(name)) for name in (BACKBONES[net], f"lpips_v0.1_{net}.pth")
    )
    a = torch.rand(2, 3, *size) * 2 - 1
    b = (a + 0.3 * torch.randn_like(a)).clamp(-1.2, 1.2)
    expected = [plain_distance(net, x, y, backbone, heads) for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(distance(a, b), torch.tensor(expected), rtol=0, atol=1e-5)


def test_agrees_with_torchmetrics(net, distance, weights_file):
    from torchmetrics.functional.image.lpips import _LPIPS

    other = _LPIPS(net=net, pnet_rand=True)
    backbone = torch.load(weights_file(BACKBONES[net]), map_location="cpu", weights_only=True)
    own = {name: name.split(".", 1 if net == "alex" else 2)[-1] for name in other.net.state_dict()}
    other.net.load_state_dict({name: backbone[f"features.{key}"] for name, key in own.items()})
    a, b = torch.rand(2, 3, 3, 50, 64) * 2 - 1
    torch.testing.assert_close(distance(a, b), other(a, b).flatten(), rtol=1e-4, atol=1e-6)


def test_given_heads_are_the_bundled_ones(net, distance, weights_file):
    heads = weights_file(f"lpips_v0.1_{net}.pth")
    given = PerceptualDistance(net, weights=weights_file(BACKBONES[net]), heads=heads)
    a, b = torch.rand(2, 1, 3, 40, 40)
    torch.testing.assert_close(given(a, b), distance(a, b), rtol=0, atol=0)


def test_a_squared_distance(distance):
    a, b = torch.rand(2, 2, 3, 40, 48)
    assert distance(a, a).tolist() == [0.0, 0.0]
    torch.testing.assert_close(distance(a, b), distance(b, a))
    torch.testing.assert_close(distance(a, b)[1:], distance(a[1:], b[1:]))


@pytest.fixture
def random_files(tmp_path):
    """A backbone and heads with random weights: what does not depend on their values."""
    from torchvision.models import squeezenet1_1

    channels = (64, 128, 256, 384, 384, 512, 512)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "backbone.pth")
    torch.save(heads, tmp_path / "heads.pth")
    return {"weights": tmp_path / "backbone.pth", "heads": tmp_path / "heads.pth"}


def test_errors_say_what_is_wrong(random_files, tmp_path):
    distance = PerceptualDistance("squeeze", **random_files)
    a = torch.rand(2, 3, 40, 40)
    with pytest.raises(ShapeError, match=r"LPIPS takes images \[B, 3, H, W\]; got \(2, 1, 40, 40"):
        distance.embed(a[:, :1])
    with pytest.raises(ShapeError, match=r"at least 32 pixels; got 40 x 31"):
        distance.embed(a[:, :, :31])
    with pytest.raises(ShapeError, match=r"must have the same shape"):
        distance(a, a[:1])
    with pytest.raises(DataError, match=r"1 of 2 images hold NaN .* \(first: number 1\)"):
        distance.embed(torch.stack([a[0], a[1] * float("nan")]))
    with pytest.raises(ConfigError, match=r"Unknown LPIPS network `alx`\. Did you mean `alex`"):
        PerceptualDistance("alx")
    with pytest.raises(CheckpointError, match=r"does not fit the features of torchvision's alex"):
        PerceptualDistance("alex", **random_files)
    with pytest.raises(CheckpointError, match=r"`lin0\.model\.1\.weight` is missing"):
        PerceptualDistance("squeeze", **random_files | {"heads": random_files["weights"]})
    heads = torch.load(random_files["heads"], weights_only=True)
    torch.save({name: -head for name, head in heads.items()}, tmp_path / "negative.pth")
    with pytest.raises(CheckpointError, match="holds negative weights"):
        PerceptualDistance("squeeze", **random_files | {"heads": tmp_path / "negative.pth"})


def test_the_hash_covers_both_files(random_files, tmp_path):
    first = PerceptualDistance("squeeze", **random_files)
    heads = torch.load(random_files["heads"], weights_only=True)
    torch.save({name: 2 * head for name, head in heads.items()}, tmp_path / "double.pth")
    second = PerceptualDistance("squeeze", **random_files | {"heads": tmp_path / "double.pth"})
    assert first.sha256 != second.sha256
    assert first.name == second.name == "lpips-v0.1-squeeze"


def test_missing_torchmetrics_is_one_line(random_files, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^LPIPS needs torchmetrics: pip install torchmetrics"):
        PerceptualDistance("squeeze", weights=random_files["weights"])


def test_torchmetrics_is_found_without_importing_it(random_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional", None)  # an import would fail
    PerceptualDistance("squeeze", weights=random_files["weights"])


def test_offline_is_one_line(monkeypatch):
    def refused(*arguments, **options):
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refused)
    with pytest.raises(
        DownloadError, match=r"(?s)^Cannot download `alexnet-owt-7be5be79\.pth`"
    ) as e:
        PerceptualDistance("alex")
    assert str(e.value).endswith("or give a copy with --lpips-weights FILE.")
    assert "--mirror" not in str(e.value)
    assert "\n" not in str(e.value)
