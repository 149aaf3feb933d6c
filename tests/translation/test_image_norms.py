"""Parts of an image with the norms of the whole."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import pytest
import torch

from exported_models import FAMILIES
from patchkin.errors import ConfigError
from patchkin.methods.cut import Cut, CutConfig
from patchkin.networks import ResNetConfig
from patchkin.networks.whole_image import Moments, given_moments, normalizing_by
from patchkin.translation.image_norms import in_step
from patchkin.translation.memory import TooLargeError
from patchkin.translation.probing import needs_of
from patchkin.translation.tiles import TiledTranslator, Tiles
from patchkin.translation.translator import Translator


def translator_of(**sizes):
    torch.manual_seed(0)
    method = Cut(CutConfig(generator=ResNetConfig(ngf=2, **sizes))).double()
    return Translator(method, device="cpu", owned=True)


@lru_cache
def halo_of(**sizes):
    """Found out once for the same network."""
    return needs_of(translator_of(**sizes)).halo


def noise(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape)


def tiled(translator, tiles, halo, **options):
    together = partial(in_step, **options)
    return TiledTranslator(translator, tiles, grid=4, halo=halo, together=together)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("height", "width"), [(151, 106), (90, 165)])
def test_parts_give_the_whole(antialias, height, width):
    sizes = {"blocks": 1, "antialias_down": antialias, "antialias_up": antialias}
    translator, halo = translator_of(**sizes), halo_of(**sizes)
    tiles = Tiles(side=128, overlap=64)
    assert 2 * halo <= tiles.overlap
    x_BCHW = noise(2, 3, height, width)
    whole_BCHW = translator.arrays(x_BCHW)
    for room in (2**30, 0):  # waiting parts in memory, and in files
        got_BCHW = tiled(translator, tiles, halo, room=room).arrays(x_BCHW)
        np.testing.assert_allclose(got_BCHW, whole_BCHW, atol=1e-12)
    apart_BCHW = TiledTranslator(translator, tiles, grid=4, halo=halo).arrays(x_BCHW)
    assert np.abs(apart_BCHW - whole_BCHW).max() > 1e-3


def test_an_overlap_that_is_too_small_is_wrong_at_the_seams_alone():
    translator, halo = translator_of(blocks=1), halo_of(blocks=1)
    tiles = Tiles(side=100, overlap=8)
    x_BCHW = noise(1, 3, 100, 190)
    wrong_W = (
        np.abs(tiled(translator, tiles, halo).arrays(x_BCHW) - translator.arrays(x_BCHW))
    ).max(axis=(0, 1, 2))
    (first, second) = tiles.spans(190, grid=4)
    seams = slice(second.start, first.stop)
    assert wrong_W[seams].max() > 1e-5
    assert wrong_W[: seams.start - halo].max() < wrong_W[seams].max() / 2


def test_the_statistics_are_those_of_all_pixels_each_counted_once():
    """By hand: a network that takes the mean of its norm off, and halves; parts overlap."""

    class Halved:
        channels, value_ranges = (1, 1), (None, None)

        def arrays(self, x_BCHW, styles_BS=None):
            x = torch.from_numpy(x_BCHW)[..., ::2, ::2] + 0
            mean_C = given_moments(x).mean_C
            seen.append(given_moments(x + mean_C))
            y_BCHW = (x - mean_C).repeat_interleave(2, -1).repeat_interleave(2, -2)
            return y_BCHW[..., : x_BCHW.shape[-2], : x_BCHW.shape[-1]].numpy()

    seen = []
    x_BCHW = noise(1, 1, 50, 39)
    half = x_BCHW[..., ::2, ::2]
    translator = TiledTranslator(Halved(), Tiles(side=24, overlap=6), grid=2, together=in_step)
    got_BCHW = translator.arrays(x_BCHW)
    np.testing.assert_allclose(got_BCHW[..., ::2, ::2], half - half.mean(), atol=1e-12)
    assert len(seen) > 3
    for moments in seen:
        assert moments.pixels == half.size
        np.testing.assert_allclose(moments.variance_C.item(), half.var(), rtol=1e-12)
        np.testing.assert_allclose(moments.mean_C.item(), 2 * half.mean(), atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_parts_is_the_whole(family):
    torch.manual_seed(0)
    method = FAMILIES[family]().double()
    if not any(getattr(layer, "whole_image", False) for layer in method.modules()):
        return
    translator = Translator(method, device="cpu", owned=True)
    if family == "starganv2":  # sees too far for a small test: the norms alone
        x_BCHW, calls = noise(1, translator.channels[0], 30, 127), []

        def own(x_BCHW):
            calls.append(x_BCHW.shape)
            return Moments.of(x_BCHW)

        with normalizing_by(own):
            got_BCHW = translator.arrays(x_BCHW)
        assert len(calls) > 5
    else:
        grid, halo = method.multiple_of, needs_of(translator, sides=(128, 512)).halo
        x_BCHW = noise(1, translator.channels[0], 30, 4 * halo + 27)
        tiles = Tiles(side=max(16, 4 * halo), overlap=2 * halo)
        parts = TiledTranslator(translator, tiles, grid=grid, halo=halo, together=in_step)
        got_BCHW = parts.arrays(x_BCHW)
    np.testing.assert_allclose(got_BCHW, translator.arrays(x_BCHW), atol=1e-9)


def test_what_fails_in_a_part_ends_all():
    class Fails:
        channels, value_ranges = (3, 3), (None, None)

        def arrays(self, x_BCHW, styles_BS=None):
            given_moments(torch.from_numpy(x_BCHW) + 0)
            if x_BCHW[0, 0, 0, 0] == 1:
                raise ValueError("wrong")
            given_moments(torch.from_numpy(x_BCHW) + 0)
            return x_BCHW

    x_BCHW = np.zeros((1, 3, 32, 70))
    x_BCHW[..., Tiles(side=16, overlap=0).spans(70)[2].start] = 1
    translator = TiledTranslator(Fails(), Tiles(side=16, overlap=0), together=in_step)
    with pytest.raises(ValueError, match="wrong"):
        translator.arrays(x_BCHW)


def test_maps_that_do_not_divide_and_methods_that_keep_maps_are_told():
    class Odd:
        channels, value_ranges = (3, 3), (None, None)

        def arrays(self, x_BCHW, styles_BS=None):
            given_moments(torch.from_numpy(x_BCHW)[..., 1:] + 0)

    class Keeps:
        channels, value_ranges = (3, 3), (None, None)
        kept = None

        def arrays(self, x_BCHW, styles_BS=None):
            if self.kept is None:
                self.kept = torch.ones(3, 1, 1) + 1
            y_BCHW = torch.from_numpy(x_BCHW) * self.kept
            given_moments(y_BCHW)
            return y_BCHW.numpy()

    x_BCHW = noise(1, 3, 32, 40)
    tiles, without_room = Tiles(side=16, overlap=4), partial(in_step, room=0)
    with pytest.raises(ConfigError, match="do not divide as its images do"):
        TiledTranslator(Odd(), tiles, together=in_step).arrays(x_BCHW)
    with pytest.raises(ConfigError, match="keeps maps of one image for the next"):
        TiledTranslator(Keeps(), tiles, together=without_room).arrays(x_BCHW)
    got_BCHW = TiledTranslator(Keeps(), tiles, together=in_step).arrays(x_BCHW)
    np.testing.assert_allclose(got_BCHW, 2 * x_BCHW, atol=1e-12)


def test_no_room_for_temporary_files_is_told(monkeypatch):
    def full(self, out):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("patchkin.translation.live_maps._Stored.write", full)
    translator = tiled(translator_of(blocks=1), Tiles(side=64, overlap=8), 0, room=0)
    with pytest.raises(TooLargeError, match=r"No space left on device.*TMPDIR.*--tile-norm tile"):
        translator.arrays(noise(1, 3, 70, 64))


def test_halo_is_how_far_a_pixel_counts():
    """Against changed pixels, norms aside."""
    translator = translator_of(blocks=2)

    def unit(x_BCHW):
        ones_C = torch.ones(x_BCHW.shape[1], dtype=x_BCHW.dtype)
        return Moments(torch.zeros_like(ones_C), ones_C, 1)

    reach, x_BCHW = 0, torch.from_numpy(noise(1, 3, 160, 160))
    with normalizing_by(unit):
        y_BCHW = translator(x_BCHW)
        for place in range(80, 84):
            changed_BCHW = x_BCHW.clone()
            changed_BCHW[..., place, place] += 1
            rows = (translator(changed_BCHW) != y_BCHW).any(1).any(2)[0].nonzero().flatten()
            reach = max(reach, place - int(rows[0]), int(rows[-1]) - place)
    assert reach <= needs_of(translator).halo < reach + 2 * 4  # by the grid
