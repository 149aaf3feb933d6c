"""The content term against the losses that it is made of, map by map."""

import pytest
import torch

from patchkin.errors import ConfigError
from patchkin.losses.spatial_correlation import (
    self_similarity,
    structure_contrast,
    structure_distance,
)
from patchkin.networks import SharedPlaces
from patchkin.randomness import SeededDraws
from patchkin.terms.structure import StructureConfig, StructureContent

SETTINGS = {"features": "random", "feature_width": 2, "num_patches": 9, "window": 3}


def content_and_images(**settings):
    torch.manual_seed(0)
    content = StructureContent(StructureConfig(**{**SETTINGS, **settings})).double()
    images = [torch.rand(2, 3, 32, 40, dtype=torch.float64) * 2 - 1 for _ in range(3)]
    return content, images


def similarities(content, images):
    """Of the maps of each layer, all at the same places."""
    draws, config = SeededDraws(0, 0), content.config
    maps = [content.vgg(image) for image in images]
    if config.learned:
        maps = [content.selector(layers) for layers in maps]
    for layer in zip(*maps, strict=True):
        places = None
        if config.num_patches:
            places = draws.places(layer[0].shape[2] * layer[0].shape[3], config.num_patches)
        yield [
            self_similarity(one, places, window=config.window, unit=config.unit_features)
            for one in layer
        ]


def places_of(content):
    return SharedPlaces(SeededDraws(0, 0), content.config.num_patches)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"comparison": "l1"}, {"unit_features": True}, {"num_patches": 0}]
)
def test_the_distance_is_the_mean_over_layers(learned, settings):
    content, (x, output, _) = content_and_images(learned=learned, **settings)
    output.requires_grad_()
    actual = content.distance(content.vgg(x), content.vgg(output), places_of(content))
    config = content.config
    expected = torch.stack([
        structure_distance(*pair, comparison=config.comparison, unit=config.unit_features)
        for pair in similarities(content, [x, output])
    ]).mean()  # fmt: skip
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(loss, output)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_the_contrast_is_the_mean_over_layers_and_teaches_the_selector():
    content, images = content_and_images(learned=True)
    actual = content.contrast(*(content.vgg(image) for image in images), places_of(content))
    expected = torch.stack([
        structure_contrast(*maps, temperature=content.config.temperature)
        for maps in similarities(content, images)
    ]).mean()  # fmt: skip
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
    with pytest.raises(ConfigError, match="`num_patches` must not be negative; got -1"):
        StructureConfig(num_patches=-1)
