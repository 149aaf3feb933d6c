"""Statistics of norms over a clip, against batch norm over its frames; and the flicker."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from exported_models import FAMILIES, resnet_method
from patchkin.errors import ConfigError
from patchkin.networks import InstanceNorm2d
from patchkin.translation.clip_norms import ClipTranslator, sample_places
from patchkin.translation.flicker import Flicker, WatchedTranslator
from patchkin.translation.translator import Translator


def frames(number: int, *, seed: int = 0) -> list[np.ndarray]:
    """Of different brightness, so that their statistics differ."""
    random = np.random.default_rng(seed)
    base_CHW = random.uniform(-1, 1, (3, 20, 24))
    lights = np.linspace(-0.5, 0.5, number)
    return [np.float32(np.clip(0.5 * base_CHW + light, -1, 1)) for light in lights]


class _BatchNorm(torch.nn.Module):
    """Over all pixels of the batch, as its training does."""

    def forward(self, x_BCHW):
        return nnf.batch_norm(x_BCHW, None, None, training=True, eps=1e-5)


def with_batch_norm(method):
    for parent in list(method.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, InstanceNorm2d):
                setattr(parent, name, _BatchNorm())
    return method


def method():
    torch.manual_seed(1)
    made = resnet_method(ngf=4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def test_it_is_batch_norm_over_the_sample():
    sample_BCHW = np.stack(frames(4))
    translator = Translator(method(), device="cpu")
    fixed = ClipTranslator(translator, sample_BCHW)
    expected = with_batch_norm(method()).eval().translate(torch.from_numpy(sample_BCHW))
    together = fixed.arrays(sample_BCHW)
    np.testing.assert_allclose(together, expected.detach().numpy(), atol=1e-4)
    apart = np.concatenate([fixed.arrays(x_CHW[None]) for x_CHW in sample_BCHW])
    np.testing.assert_allclose(apart, together, atol=1e-5)
    assert np.abs(translator.arrays(sample_BCHW) - together).mean() > 0.05


def test_a_sample_of_one_frame_changes_nothing_in_it():
    one_BCHW = np.stack(frames(1))
    translator = Translator(method(), device="cpu")
    fixed = ClipTranslator(translator, one_BCHW)
    np.testing.assert_allclose(fixed.arrays(one_BCHW), translator.arrays(one_BCHW), atol=1e-5)
    assert ClipTranslator(translator, one_BCHW).digest == fixed.digest
    assert ClipTranslator(translator, np.stack(frames(2))).digest != fixed.digest


@pytest.mark.parametrize("family", ["munit", "drit", "starganv2"])
def test_other_families(family):
    torch.manual_seed(0)
    translator = Translator(FAMILIES[family](), device="cpu")
    one, other = np.random.default_rng(0).uniform(-1, 1, (2, 1, 3, 32, 32)).astype(np.float32)
    fixed = ClipTranslator(translator, one)
    np.testing.assert_allclose(fixed.arrays(one), translator.arrays(one), atol=1e-4)
    assert np.abs(fixed.arrays(other) - translator.arrays(other)).max() > 1e-4


def test_a_model_without_such_norms_is_refused():
    translator = Translator(resnet_method(norm="none"), device="cpu")
    with pytest.raises(ConfigError, match="has no norm that takes statistics over an image"):
        ClipTranslator(translator, np.stack(frames(2)))


def test_it_flickers_less():
    """A bright thing moves at the left of a wide scene; most of it is out of its reach."""
    translator = Translator(method(), device="cpu")
    scene_CHW = np.random.default_rng(0).uniform(-1, 1, (3, 24, 200)).astype(np.float32)
    clip = []
    for number in range(5):
        clip.append(scene_CHW.copy())
        clip[-1][:, 4:20, : 4 * number + 4] = 1.0
    scores = []
    for chosen in (translator, ClipTranslator(translator, np.stack(clip))):
        flicker = Flicker()
        watched = WatchedTranslator(chosen, flicker)
        assert watched.channels == (3, 3)
        for x_CHW in clip:
            watched.arrays(x_CHW[None])
        scores.append(flicker.score)
    assert scores[0].still_share == scores[1].still_share > 0.9
    assert scores[1].flicker < 0.5 * scores[0].flicker


def test_flicker_as_a_loop():
    random = np.random.default_rng(3)
    inputs = random.integers(0, 4, (4, 3, 5, 6))  # levels apart by 0 to 3
    outputs = random.uniform(-1.2, 1.2, (4, 2, 5, 6))
    flicker = Flicker()
    for x, y in zip(inputs, outputs, strict=True):
        flicker.add(x / 127.5 - 1, y)
    outputs = outputs.clip(-1, 1) * 127.5
    changes, still, pixels = [], 0, 0
    for t in range(1, 4):
        for h in range(5):
            for w in range(6):
                pixels += 1
                if all(abs(inputs[t, c, h, w] - inputs[t - 1, c, h, w]) <= 2 for c in range(3)):
                    still += 1
                    changes += [
                        abs(outputs[t, c, h, w] - outputs[t - 1, c, h, w]) for c in range(2)
                    ]
    assert flicker.score.flicker == pytest.approx(np.mean(changes), abs=1e-4)
    assert flicker.score.still_share == pytest.approx(still / pixels, abs=1e-4)
    assert 0 < still < pixels


def test_flicker_of_nothing():
    flicker = Flicker()
    flicker.add(np.zeros((3, 4, 4)), np.zeros((3, 4, 4)))
    assert str(flicker.score) == "no flicker: no pixel of the input stands still"
    flicker.add(np.ones((3, 5, 4)), np.ones((3, 5, 4)))  # of another size: another clip
    assert flicker.score.flicker is None
    flicker.add(np.zeros((3, 5, 4)), np.zeros((3, 5, 4)))
    assert flicker.score == (None, 0.0)


def test_the_sample_is_spread_over_the_clip():
    assert sample_places(8, 8) == list(range(8))
    assert sample_places(800, 8) == [50, 150, 250, 350, 450, 550, 650, 750]
    assert len(set(sample_places(9, 8))) == 8
