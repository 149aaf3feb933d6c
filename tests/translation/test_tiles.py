"""Images in parts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from patchkin.errors import ConfigError
from patchkin.translation.tiles import TiledTranslator, Tiles


class Local:
    """Adds what is three pixels to the left and five above, so that a part needs its neighbours."""

    channels, value_ranges, tiling = (3, 3), (None, None), "supported"
    largest = 0

    def arrays(self, x_BCHW, styles_BS=None):
        self.largest = max(self.largest, *x_BCHW.shape[-2:])
        padded = np.pad(x_BCHW, ((0, 0), (0, 0), (5, 0), (3, 0)), mode="edge")
        return x_BCHW + padded[..., : x_BCHW.shape[-2], : x_BCHW.shape[-1]]


@pytest.mark.parametrize("sizes", [(70, 41), (33, 100), (32, 33), (200, 16), (9, 5)])
@pytest.mark.parametrize("tiles", [Tiles(side=32, overlap=12), Tiles(side=16, overlap=0)])
def test_weights_add_up_to_one_and_parts_are_no_larger(sizes, tiles):
    total = np.zeros(sizes)
    for rows, columns, weight_HW in tiles.over(*sizes):
        assert weight_HW.shape == total[rows, columns].shape
        assert max(weight_HW.shape) <= tiles.side
        total[rows, columns] += weight_HW
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for length in sizes:
        spans = tiles.spans(length)
        assert spans[0].start == 0
        assert spans[-1].stop == length
        for before, after in pairwise(spans):
            assert before.stop - after.start >= tiles.overlap


def test_parts_that_do_not_depend_on_the_rest_give_the_whole():
    x_BCHW = np.random.default_rng(0).random((2, 3, 75, 58), dtype=np.float32)

    class Same(Local):
        def arrays(self, x_BCHW, styles_BS=None):
            return super().arrays(x_BCHW) * 0 + 2 * x_BCHW

    same = Same()
    y_BCHW = TiledTranslator(same, Tiles(side=32, overlap=8)).arrays(x_BCHW)
    np.testing.assert_allclose(y_BCHW, 2 * x_BCHW, atol=1e-6)
    assert same.largest == 32


def test_parts_of_an_image_are_no_copies_of_it():
    """Those that wait for each other's norms would hold them all."""
    x_BCHW = np.zeros((1, 2, 30, 40), np.float32)
    shared = []

    class Watches:
        channels, value_ranges = (2, 2), (None, None)

        def arrays(self, part_BCHW, styles_BS=None):
            shared.append(np.shares_memory(part_BCHW, x_BCHW))
            return part_BCHW

    TiledTranslator(Watches(), Tiles(side=16, overlap=4)).arrays(x_BCHW)
    assert shared == [True] * 9


def test_seams_fade():
    """A part is wrong near its upper and left border, and there it counts least."""
    x_BCHW = np.random.default_rng(0).random((1, 3, 120, 90), dtype=np.float32)
    whole = Local().arrays(x_BCHW)
    apart = [
        np.abs(TiledTranslator(Local(), Tiles(side=40, overlap=overlap)).arrays(x_BCHW) - whole)
        for overlap in (0, 10, 20)
    ]
    assert apart[0].max() > apart[1].max() > apart[2].max() > 0
    inside = np.ones(120, bool)
    for span in Tiles(side=40, overlap=20).spans(120)[1:]:
        inside[span.start : span.start + 5] = False
    columns = np.ones(90, bool)
    for span in Tiles(side=40, overlap=20).spans(90)[1:]:
        columns[span.start : span.start + 3] = False
    assert apart[2][..., inside, :][..., columns].max() < 1e-6


def test_sides_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="must be at least 16 pixels; got 8"):
        Tiles(side=8)
    with pytest.raises(ConfigError, match="from 0 to half of --tile, 16; got 17"):
        Tiles(side=32, overlap=17)
