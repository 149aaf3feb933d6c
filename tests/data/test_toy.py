from __future__ import annotations

import errno
import hashlib

import numpy as np
import pytest
from PIL import Image

from patchkin.cli import main
from patchkin.data.config import DataConfig
from patchkin.data.layouts import find_domains
from patchkin.data.toy import Scene, cached_toy, mask_file, truth_file, write_toy
from patchkin.errors import ConfigError, StorageError
from storage.faults import Faults


def _hashes(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(
            np.asarray(Image.open(path)).tobytes()
        ).hexdigest()
        for path in sorted(root.rglob("*.png"))
    }


@pytest.fixture(scope="module")
def scenes():
    return [Scene(64, seed) for seed in range(40)]


def test_same_seed_same_pixels_whatever_the_number_of_images(tmp_path):
    write_toy(tmp_path / "few", train=2, test=1)
    write_toy(tmp_path / "many", train=3, test=2)
    few, many = _hashes(tmp_path / "few"), _hashes(tmp_path / "many")
    assert few.items() <= many.items()
    assert len(set(many.values())) == len(many)
    write_toy(tmp_path / "other", train=2, test=1, seed=1)
    assert not set(few.values()) & set(_hashes(tmp_path / "other").values())


def test_folders_and_their_companions(tmp_path):
    write_toy(tmp_path, train=2, test=3, val=1)
    counts = {folder.name: len(list(folder.iterdir())) for folder in tmp_path.iterdir()}
    assert counts == {
        **{"trainA": 2, "trainB": 2, "valA": 1, "valB": 1, "testA": 3, "testB": 3},
        **{"valA_masks": 1, "valA_true": 1, "testA_masks": 3, "testA_true": 3},
    }
    domains = find_domains(DataConfig(root=str(tmp_path)))
    assert [len(files) for files in (domains.train_a, domains.val_a, domains.test_b)] == [2, 1, 3]
    for path in (*domains.val_a, *domains.test_a):
        shown, true, mask = (
            np.asarray(Image.open(p)) for p in (path, truth_file(path), mask_file(path))
        )
        assert set(np.unique(mask)) == {0, 255}
        assert np.array_equal(shown[mask == 0], true[mask == 0]), (
            "the truth differs only in the coat"
        )
        assert np.abs(shown[mask > 0].astype(int) - true[mask > 0]).mean() > 20


def test_animals_fill_a_good_part(scenes):
    shares = [np.asarray(scene.mask()).mean() / 255 for scene in scenes]
    assert min(shares) > 0.2
    assert max(shares) < 0.4


def test_stripes_can_be_seen_and_are_not_a_change_of_brightness(scenes):
    plain, striped, contrast = [], [], []
    for scene in scenes:
        inside = np.asarray(scene.mask()) > 0
        light = [
            np.asarray(image.convert("L"))[inside] for image in (scene.plain(), scene.striped())
        ]
        plain.append(light[0].mean())
        striped.append(light[1].mean())
        contrast.append((light[0].std(), light[1].std()))
    assert all(theirs > 1.3 * ours for ours, theirs in contrast)
    assert min(theirs for _, theirs in contrast) > 35
    assert min(plain) < min(striped)
    assert max(plain) > np.mean(striped)
    assert abs(np.mean(plain) - np.mean(striped)) < 0.5 * np.std(plain)


def test_there_is_no_pixel_noise(scenes):
    """Outside the animal most neighbours are almost equal: a render, not a photo."""
    for scene in scenes[:10]:
        sky = np.asarray(scene.plain().convert("L")).astype(int)[:12]
        assert np.median(np.abs(np.diff(sky, axis=1))) <= 1


def test_both_facings_occur(scenes):
    sides = [np.asarray(scene.mask())[:20].sum(0) @ np.linspace(-1, 1, 64) for scene in scenes]
    assert 8 < sum(side > 0 for side in sides) < 32


@pytest.mark.parametrize("size", [64, 100, 256])
def test_sizes(size):
    assert Scene(size, 0).striped().size == (size, size)


def test_size_out_of_range():
    with pytest.raises(ConfigError, match="64 to 256 pixels; got 32"):
        Scene(32, 0)


def test_unwritable_cache_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="Set PATCHKIN_CACHE to another folder"):
        cached_toy()


def test_a_failed_rendering_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(root, **_):
        (root / "trainA").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("patchkin.data.toy.write_toy", fail)
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        cached_toy()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_there", [False, True])
def test_half_a_set_is_not_in_the_way_of_the_next_try(tmp_path, capsys, is_there):
    root = tmp_path / "set"
    if is_there:
        root.mkdir()
    command = ["data", "toy", str(root), "--train", "2", "--test", "1"]
    with Faults(tmp_path, number=20, error=errno.ENOSPC):
        assert main(command) == 2
    assert str(root) in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == ([root] if is_there else [])
    assert main(command) == 0
    assert len(list(root.glob("trainA/*.png"))) == 2
