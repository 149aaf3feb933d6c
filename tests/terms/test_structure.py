"""The content term against the method that it comes from."""

import pytest
import torch

from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.methods.lsesim import LSeSim, LSeSimConfig
from patchkin.networks import ImagePoolConfig, PatchGANConfig, ResNetConfig, SharedPlaces
from patchkin.networks.recolouring import ColourChange
from patchkin.randomness import SeededDraws
from patchkin.terms.structure import StructureConfig, StructureContent

SETTINGS = {"features": "random", "feature_width": 2, "num_patches": 9, "window": 3}


def pair(*, learned):
    torch.manual_seed(0)
    method = LSeSim(
        LSeSimConfig(
            **SETTINGS,
            generator=ResNetConfig(ngf=2, blocks=1),
            discriminator=PatchGANConfig(ndf=2),
            pool=ImagePoolConfig(capacity=0),
            learned=learned,
        )
    ).double()
    content = StructureContent(StructureConfig(**SETTINGS, learned=learned)).double()
    if learned:
        content.selector.load_state_dict(method.F.state_dict())
    images = [torch.rand(2, 3, 32, 40, dtype=torch.float64) * 2 - 1 for _ in range(3)]
    return method, content, images


@pytest.mark.parametrize("learned", [True, False])
def test_the_distance_is_that_of_lsesim(learned):
    method, content, (x, output, _) = pair(learned=learned)
    places = SharedPlaces(SeededDraws(0, 0), SETTINGS["num_patches"])
    actual = content.distance(x, output.requires_grad_(), places)
    expected = method._structure(method.vgg(x), method.vgg(output), SeededDraws(0, 0))
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(loss, output)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_the_contrast_is_that_of_lsesim():
    method, content, (x, output, other) = pair(learned=True)
    draws = SeededDraws(0, 0)
    colours = [ColourChange.drawn(draws) for _ in range(2)]
    places = SharedPlaces(draws, SETTINGS["num_patches"])
    actual = content.contrast(x, output, other, places, colours)
    source, target = method.vgg(x), method.vgg(output)
    batch = UnpairedBatch(x, other)
    expected = method._selector_terms(batch, source, target, SeededDraws(0, 0))["contrast"]
    torch.testing.assert_close(actual, expected)
    actual.backward()
    assert content.selector.convs[0][0].weight.grad.abs().max() > 0


def test_only_the_selector_is_saved_and_learns():
    assert list(StructureContent(StructureConfig(**SETTINGS, learned=False)).parameters()) == []
    names = StructureContent(StructureConfig(**SETTINGS)).state_dict()
    assert names
    assert all(name.startswith("selector.") for name in names)


def test_wording_of_errors():
    with pytest.raises(ConfigError, match="`window` must be at least 1; got 0"):
        StructureConfig(window=0)
    with pytest.raises(ConfigError, match="`temperature` must be positive; got 0"):
        StructureConfig(temperature=0)
