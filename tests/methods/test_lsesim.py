"""What the contract does not cover: VGG16's weights, the selector's images, and their colours."""

import pytest
import torch
from torchvision.models.vgg import cfgs, make_layers

from patchkin.config import to_plain
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError, ShapeError
from patchkin.method import Progress
from patchkin.methods.lsesim import LSeSim, LSeSimConfig
from patchkin.networks import ImagePoolConfig, PatchGANConfig, ResNetConfig
from patchkin.networks.recolouring import ColourChange
from patchkin.randomness import SeededDraws
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric, random_batch

SMALL = {
    "generator": ResNetConfig(ngf=2, blocks=1),
    "discriminator": PatchGANConfig(ndf=2),
    "pool": ImagePoolConfig(capacity=0),
}


def step(method, batch):
    update = Updater(method, cpu_fabric())
    update.begin_step(1.0)
    method.train_step(batch, update, Progress.of_step(0, total_steps=1))
    return update.terms


def test_a_model_translates_without_the_weights_that_training_needs():
    method = LSeSim(LSeSimConfig(**SMALL)).eval()
    assert method.translate(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    assert not any("vgg" in name for name in method.state_dict())
    with pytest.raises(ConfigError, match="VGG16's weights are needed: download https"):
        method.prepare([], SeededDraws(0, 0))


def test_a_step_on_weights_from_a_file(tmp_path):
    path = tmp_path / "vgg16.pth"
    torch.manual_seed(0)
    torch.save(make_layers(cfgs["D"]).state_dict(), path)
    config = LSeSimConfig(**SMALL, vgg_weights=str(path), layers=(1, 2), learned=True)
    assert to_plain(config)["vgg_weights"] == str(path)
    method = LSeSim(config)
    method.prepare([], SeededDraws(0, 0))
    terms = step(method, random_batch(1, size=(32, 28)))
    assert terms["G.structure"] > 0
    assert terms["S.contrast"] > 0


def test_the_selector_needs_images_of_one_size():
    method = LSeSim(LSeSimConfig(**SMALL, features="random", feature_width=2, learned=True))
    batch = UnpairedBatch(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 28))
    with pytest.raises(ShapeError, match=r"one size; got \(32, 32\) and \(32, 28\)\. .* crops"):
        step(method, batch)


def test_every_image_has_colours_of_its_own_within_bounds():
    x = (torch.rand(1, 3, 6, 5) * 2 - 1).repeat(3, 1, 1, 1)
    change = ColourChange.drawn(SeededDraws(0, 0), 3)
    y = change(x)
    assert y.min() >= -1
    assert y.max() <= 1
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (y[i] - y[j]).abs().mean() > 0.01
        assert change.shifts[i] != change.shifts[j]
    for image, of_one in enumerate(change.split(1)):
        assert torch.equal(of_one(x[:1])[0], y[image])
        alone = ColourChange.drawn(SeededDraws(0, 0, rank=image, world_size=3), 1)
        assert alone == of_one  # as one of three processes
    assert change.split(None) == [change]
    assert [len(part.shifts) for part in change.split(2)] == [2, 1]


def test_brightness_contrast_saturation_and_hue_have_the_released_ranges():
    """At both ends, on a colour that shows which change was made."""
    x = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1) * 2 - 1

    def changed(factors):
        draws = FixedDraws(places=[torch.arange(4)], uniforms=[torch.tensor([factors])])
        return (ColourChange.drawn(draws, 1)(x).flatten() + 1) / 2

    torch.testing.assert_close(changed([0.5, 0.5, 0.5, 0.5]), torch.tensor([0.2, 0.4, 0.6]))
    torch.testing.assert_close(changed([0.0, 0.5, 0.5, 0.5]), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(changed([1.0, 0.5, 0.5, 0.5]), torch.tensor([0.3, 0.6, 0.9]))
    grey = float(torch.tensor([0.2989, 0.587, 0.114]) @ torch.tensor([0.2, 0.4, 0.6]))
    halved = torch.tensor([0.2, 0.4, 0.6]) * 0.5 + grey * 0.5
    for change in (1, 2):  # contrast and saturation are the same for a single pixel
        factors = [0.5] * 4
        factors[change] = 0.0
        torch.testing.assert_close(changed(factors), halved, atol=1e-4, rtol=0)
    # A turn of 0.3 of the circle: from 210 degrees to 318, between magenta and red.
    torch.testing.assert_close(
        changed([0.5, 0.5, 0.5, 1.0]), torch.tensor([0.6, 0.2, 0.48]), atol=0.01, rtol=0
    )


def test_wording_of_errors():
    with pytest.raises(ConfigError, match=r"grey or colour images: `in_channels` .* got 4"):
        LSeSimConfig(generator=ResNetConfig(in_channels=4, out_channels=1))
    with pytest.raises(ConfigError, match="`window` must be at least 1; got 0"):
        LSeSimConfig(window=0)
    with pytest.raises(ConfigError, match="`temperature` must be positive; got 0"):
        LSeSimConfig(temperature=0)
    with pytest.raises(ConfigError, match="`num_patches` must not be negative; got -1"):
        LSeSimConfig(num_patches=-1)
