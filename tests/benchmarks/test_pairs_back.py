"""`benchmarks/horse2zebra/pairs_back.py`: where stripes are, what they become, what counts."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.test_studies import BENCHMARKS, loaded

BROWN, GREEN, BLACK = (0.6, 0.4, 0.2), (0.3, 0.5, 0.2), (0.1, 0.1, 0.1)


@pytest.fixture
def back(monkeypatch):
    return loaded(monkeypatch, BENCHMARKS / "horse2zebra", "pairs_back")


def flat(colour, height=96, width=128):
    return np.broadcast_to(np.array(colour), (height, width, 3)).copy()


def rippled(image_HWC, columns, period=8.0):
    """Vertical stripes over some columns."""
    wave_W = 0.3 * np.sin(2 * np.pi * np.arange(image_HWC.shape[1]) / period)
    found = image_HWC.copy()
    found[:, columns] += wave_W[columns, None]
    return found.clip(0, 1)


def whole(back, **changes):
    """Nothing at random: drawn stripes, nothing enlarged."""
    settings = {"steepness": 2.0, "contrast": 0.4, "tint": (1.0, 1.0, 1.0), "enlarged": 1.0}
    return back.Drawn(**settings | {"fur": None, "magnified": 1.0, "mirrored": False} | changes)


def halves(both):
    """With stripes, and without."""
    pixels = np.asarray(both) / 255
    return pixels[:, 256:], pixels[:, :256]


def test_stripes_are_found_where_they_are_and_on_no_grass(back):
    horse = flat(BROWN)
    horse[:48] = GREEN
    mask = back.striped(rippled(horse, slice(0, 64)), horse)
    assert mask[60:, 8:48].min() > 0.99
    assert mask[:40].max() == 0  # grass
    assert mask[:, 100:].max() == 0  # left as it was
    assert back.striped(horse + 0.2, horse).max() == 0  # lighter, but not striped


def test_stripes_that_are_drawn_run_as_they_did_and_are_grey_and_steep(back):
    zebra = rippled(flat(BROWN), slice(None))
    stripes = back.crisp(zebra, whole(back))
    assert np.ptp(stripes, axis=2).max() == 0
    inner = (slice(20, 76), slice(20, 108))
    assert np.corrcoef(stripes[inner][..., 0].ravel(), zebra[inner][..., 0].ravel())[0, 1] > 0.95
    steep, mild = (
        np.abs(np.diff(back.crisp(zebra, whole(back, steepness=k))[inner][..., 0])).max()
        for k in (3.0, 0.8)
    )
    assert steep > 1.5 * mild


def test_fur_is_the_part_that_is_striped_and_grey(back):
    zebra = rippled(flat((0.5, 0.5, 0.5), 200, 240), slice(100, 240), period=12.0)
    zebra[:60] = GREEN
    found = back.fur(zebra)
    assert found.shape == (112, 112, 3)
    assert found.std() > 0.15
    assert np.ptp(found, axis=2).max() < 1e-12
    assert back.fur(flat(BROWN, 200, 240)) is None
    assert (
        back.fur(rippled(flat((0.5,) * 3, 60, 240), slice(None))) is None
    )  # smaller than any part


def test_a_pair_has_the_horse_itself_and_stripes_on_nothing_else(back):
    horse = flat(BROWN, 256, 256)
    made, kept = halves(back.pair(rippled(horse, slice(0, 128)), horse, whole(back), []))
    assert np.abs(kept - horse).max() < 0.5 / 255 + 1e-9
    assert np.abs(made[:, 180:] - horse[:, 180:]).max() < 0.5 / 255 + 1e-9
    assert np.ptp(made[40:200, 20:100], axis=2).max() < 1.5 / 255  # grey
    assert made[40:200, 20:100].std() > 0.2


def test_a_pair_with_fur_shows_the_fur_and_enlarged_shows_a_part(back):
    horse = flat(BROWN, 256, 256)
    zebra = rippled(horse, slice(0, 128))
    fur = np.random.default_rng(0).random((128, 128, 3))
    made, _ = halves(back.pair(zebra, horse, whole(back, fur=0), [fur]))
    rows, columns = np.nonzero(back.striped(zebra, horse) > 0.5)
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    tile = Image.fromarray(np.rint(fur * 255).astype(np.uint8))
    tile = np.asarray(tile.resize((side, side), Image.Resampling.BICUBIC)) / 255
    assert np.abs(made[30:100, 30:100] - tile[30:100, 30:100]).max() < 0.01
    large, brown = halves(back.pair(zebra, horse, whole(back, enlarged=2.0), []))
    _, at = back._box_around(back.striped(zebra, horse), 2.0)[:2]
    assert at in (63, 64)  # around the middle row
    assert np.abs(brown - flat(BROWN, 256, 256)).max() < 0.5 / 255 + 1e-9
    assert large[:, :180].std() > 0.2


def test_horses_that_are_not_brown_and_few_stripes_give_no_pair(back):
    black = flat(BLACK, 256, 256)
    assert back.pair(rippled(black + 0.3, slice(0, 128)), black + 0.3, whole(back), []) is None
    brown = flat(BROWN, 256, 256)
    assert back.pair(rippled(brown, slice(0, 4)), brown, whole(back), []) is None


def test_pairs_depend_on_the_seed_and_the_name_alone(back, tmp_path, monkeypatch, capsys):
    for folder, size in (("trainA", 256), ("trainB", 240)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            image = Image.fromarray((flat(BROWN, size, size) * 255).astype(np.uint8))
            image.save(tmp_path / folder / f"{name}.png")

    def translate(x_CHW):
        zebra = rippled(flat(BROWN, 256, 256), slice(0, 128))
        return torch.from_numpy(zebra).permute(2, 0, 1) * 2 - 1

    monkeypatch.setattr(back, "Translator", SimpleNamespace(load=lambda *a, **k: translate))

    def run(output, *more):
        arguments = [str(tmp_path), str(tmp_path / output), "--model", "m", "--model", "n", *more]
        monkeypatch.setattr(sys, "argv", ["pairs_back.py", *arguments])
        back.main()
        return {p.name: p.read_bytes() for p in sorted((tmp_path / output / "train").iterdir())}

    first = run("first")
    assert list(first) == ["a_0.png", "a_1.png", "b_0.png", "b_1.png"]
    assert "4 pairs of 2 horses with 0 furs" in capsys.readouterr().out
    assert len(set(first.values())) == 4
    (tmp_path / "trainA" / "a.png").unlink()
    assert run("second") == {name: data for name, data in first.items() if name[0] == "b"}
    assert run("third", "--seed", "1")["b_0.png"] != first["b_0.png"]
