import hashlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from patchkin.errors import CheckpointError, ConfigError, DataError, DownloadError, ShapeError
from patchkin.metrics import (
    InceptionExtractor,
    SqueezeNetExtractor,
    TorchvisionInceptionExtractor,
    make_extractor,
)
from patchkin.metrics.weights import INCEPTION_2015, PublishedWeights, fetch, read_weights


def levels(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.fixture(scope="module")
def fidelity(tmp_path_factory):
    """torch-fidelity's network with random weights, and a file of them."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).eval()
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return network, path


def test_inception_is_torch_fidelitys(fidelity):
    network, path = fidelity
    extractor = InceptionExtractor(path)
    images = levels(1, 3, 299, 299)  # a size that torch-fidelity does not resize
    found = extractor(images)
    torch.testing.assert_close(found.pooled_BD, network(images)[0], rtol=1e-5, atol=1e-7)
    assert found.pooled_BD.shape == (1, 2048)
    assert found.logits_BK is None
    assert extractor.name == "inception-v3-compat"
    assert extractor.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_input_range_of_pytorch_fid(fidelity):
    _, path = fidelity
    extractor = make_extractor("inception-v3-pytorch-fid", path)
    assert extractor.name == "inception-v3-pytorch-fid"
    images = levels(1, 3, 80, 91).float()
    in_tensorflow_range = (images / 255 * 2 - 1) * 128 + 128
    expected = InceptionExtractor(path)(in_tensorflow_range).pooled_BD
    torch.testing.assert_close(extractor(images).pooled_BD, expected, rtol=1e-4, atol=1e-6)


def test_a_file_of_weights_executes_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    path = tmp_path / "weights.pth"
    for content in (pickle.dumps(Trap()), b"", b"no weights", b"\x80\x04"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot be read as weights") as caught:
            InceptionExtractor(path)
        assert "\n" not in str(caught.value)
    torch.save({"weight": Trap()}, path)
    with pytest.raises(CheckpointError, match=r"holds more than tensors \(`io.open`\)"):
        InceptionExtractor(path)
    assert not (tmp_path / "trapped").exists()
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match=r"holds more than named tensors"):
        InceptionExtractor(path)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"does not fit the Inception network of FID: Miss"):
        InceptionExtractor(path)
    with pytest.raises(CheckpointError, match=r"`.*nothing\.pth` do not exist"):
        InceptionExtractor(tmp_path / "nothing.pth")


def test_missing_torch_fidelity_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
    monkeypatch.setitem(
        __import__("sys").modules, "torch_fidelity.feature_extractor_inceptionv3", None
    )
    with pytest.raises(ConfigError, match=r"needs torch-fidelity: pip install torch-fid"):
        InceptionExtractor()


def test_offline_is_one_line(monkeypatch):
    def refused(*arguments, **options):
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refused)
    with pytest.raises(DownloadError, match=r"^Cannot download `weights-inception-2015") as caught:
        InceptionExtractor()
    assert str(caught.value).endswith("or give a copy with --extractor-weights FILE.")
    assert "\n" not in str(caught.value)


def test_the_address_is_torch_fidelitys():
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert INCEPTION_2015.urls[0] == URL_INCEPTION_V3
    assert INCEPTION_2015.sha256.startswith(URL_INCEPTION_V3[-12:-4])


def test_the_addresses_are_torchvisions():
    from torchvision.models import (
        AlexNet_Weights,
        Inception_V3_Weights,
        SqueezeNet1_1_Weights,
        VGG16_Weights,
    )

    from patchkin.metrics.weights import ALEXNET, INCEPTION_TORCHVISION, SQUEEZENET, VGG16

    for own, theirs in (
        (ALEXNET, AlexNet_Weights),
        (INCEPTION_TORCHVISION, Inception_V3_Weights),
        (SQUEEZENET, SqueezeNet1_1_Weights),
        (VGG16, VGG16_Weights),
    ):
        assert own.urls == (theirs.IMAGENET1K_V1.url,)
        assert own.file_name.endswith(f"-{own.sha256}.pth")


@pytest.mark.parametrize("digits", [8, 64])
def test_a_downloaded_file_is_checked(tmp_path, digits):
    source = tmp_path / "some.pth"
    source.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()[:digits]
    published = PublishedWeights(urls=(source.as_uri(),), sha256=right)
    assert fetch(published, option="--some").read_bytes() == b"weights"
    assert fetch(published, option="--some").read_bytes() == b"weights"  # now from the cache
    other = tmp_path / "other.pth"
    other.write_bytes(b"something else")
    wrong = PublishedWeights(urls=(other.as_uri(),), sha256=right)
    for _ in range(2):  # a wrong file does not stay
        with pytest.raises(DownloadError, match=r"has sha256 [0-9a-f]{64}, expected") as caught:
            fetch(wrong, option="--extractor-weights")
        assert "--extractor-weights FILE" in str(caught.value)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(2)
    network = squeezenet1_1(weights=None).eval()
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    save_file({name: x.contiguous() for name, x in network.state_dict().items()}, path)
    return network, path


@pytest.mark.parametrize("size", [(64, 64), (33, 71), (32, 32)])
def test_squeezenet(squeezenet, size):
    network, path = squeezenet
    images = levels(3, 3, *size)
    extractor = SqueezeNetExtractor(path)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    array_BHWC = (images.permute(0, 2, 3, 1).numpy() / 255 - mean) / deviation
    x = torch.from_numpy(array_BHWC).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        map_BChw, logits_BK = network.features(x), network(x)
    found = extractor(images)
    torch.testing.assert_close(found.pooled_BD, map_BChw.mean(dim=(2, 3)), rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(found.logits_BK, logits_BK, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(extractor.feature_map(images), map_BChw, rtol=1e-3, atol=2e-5)
    assert not found.pooled_BD.requires_grad


def test_torchvision_inception(tmp_path):
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, init_weights=False).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    path = tmp_path / "inception.pth"
    torch.save(network.state_dict(), path)
    images = levels(2, 3, 80, 75)
    found = TorchvisionInceptionExtractor(path)(images)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = network((images / 255 - mean) / deviation)
    torch.testing.assert_close(found.logits_BK, expected, rtol=1e-4, atol=1e-5)
    assert found.pooled_BD.shape == (2, 2048)


def test_errors_say_what_is_wrong(squeezenet):
    extractor = SqueezeNetExtractor(squeezenet[1])
    with pytest.raises(ShapeError, match=r"takes images \[B, 3, H, W\]; got \(2, 1, 40, 40\)"):
        extractor(levels(2, 1, 40, 40))
    with pytest.raises(ShapeError, match=r"at least 32 pixels; got 31 x 40"):
        extractor(levels(2, 3, 40, 31))
    with pytest.raises(DataError, match=r"1 of 2 images hold NaN or infinity"):
        extractor(torch.stack([torch.zeros(3, 40, 40), torch.full((3, 40, 40), float("nan"))]))
    with pytest.raises(ConfigError, match=r"Did you mean `torchvision-squeezenet1_1`\?"):
        make_extractor("torchvision-squeezenet")


def test_halves_are_read_as_they_are(tmp_path):
    torch.save({"a": torch.ones(2, dtype=torch.float16)}, tmp_path / "half.pth")
    tensors, digest = read_weights(tmp_path / "half.pth")
    assert tensors["a"].dtype is torch.float16
    assert digest == hashlib.sha256((tmp_path / "half.pth").read_bytes()).hexdigest()
