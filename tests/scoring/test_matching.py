"""Images belong together by their paths below their folders."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from patchkin.data.config import DataConfig
from patchkin.errors import DataError
from patchkin.scoring.evaluate import EvaluationConfig, evaluate
from patchkin.scoring.matching import Names, files_by_name
from patchkin.scoring.reading import load_mask

LEVELS = {"cats/0.png": 20, "dogs/0.png": 200}
"""Two images of one stem."""


def write(folder, levels, size=16):
    for name, level in levels.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (level,) * 3).save(path)


@pytest.fixture
def root(tmp_path):
    for split in ("trainA", "trainB", "testA", "testB"):
        write(tmp_path / "set" / split, LEVELS)
    return tmp_path / "set"


def scored(folder, root, **settings):
    return evaluate(folder, DataConfig(root=str(root)), EvaluationConfig(protocols=(), **settings))


def test_equal_stems_in_other_folders_are_other_images(root, tmp_path):
    """By stem, both would be compared with the last one: a change of 180, and 90 as a mean."""
    write(tmp_path / "out", {"cats/0.jpg": 20, "dogs/0.bmp": 200})
    result = scored(tmp_path / "out", root)
    assert result.scores["change"] == pytest.approx(0, abs=1)
    (least,), (best,) = (result.worst_and_best[kind] for kind in ("least_kept", "best_kept"))
    assert {least, best} == set(LEVELS)  # neither is both


def test_what_belongs_to_nothing_is_told(root, tmp_path):
    write(tmp_path / "out", {"cats/0.png": 30, "0.png": 90})
    result = scored(tmp_path / "out", root)
    assert result.scores["change"] == pytest.approx(10)
    without, missing = result.warnings
    assert "1 of 2 images" in without
    assert "`0.png`" in without
    assert "1 of 2 inputs have no translation" in missing
    assert "`dogs/0.png`" in missing


def test_translations_of_inputs_that_differ_in_the_suffix_are_found(tmp_path):
    names = Names(["a.jpg", "a.png", "sub/a.jpg"])
    found = [names.find(name) for name in ("a_jpg.png", "a_png.png", "sub/a.png", "a.bmp")]
    assert found == ["a.jpg", "a.png", "sub/a.jpg", None]
    write(tmp_path, {"a.png": 1, "a.jpg": 2})
    with pytest.raises(DataError, match=r"are both mask for `a\.bmp`"):
        files_by_name(tmp_path, ["a.bmp"], "mask")
    with pytest.raises(
        DataError, match=r"has no mask for `b.png`: files are matched by their path"
    ):
        files_by_name(tmp_path, ["b.png"], "mask")


def test_masks_are_found_by_path_too(root, tmp_path):
    write(tmp_path / "out", {"cats/0.png": 30, "dogs/0.png": 220})
    write(tmp_path / "masks", {"cats/0.gif": 255, "dogs/0.gif": 0})
    scores = scored(tmp_path / "out", root, masks=tmp_path / "masks").scores
    assert scores["change_inside"] == pytest.approx(10)
    assert scores["change_outside"] == pytest.approx(20)


def test_masks_are_not_interpolated(tmp_path):
    """Columns of 3 white and 1 black: an average over 4 is white everywhere."""
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, np.arange(16) % 4 != 2] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    mask_HW = load_mask(tmp_path / "mask.png", (2, 4))
    expected = np.asarray(Image.fromarray(pixels).resize((4, 2), Image.Resampling.NEAREST)) > 127
    assert mask_HW.numpy().tolist() == expected.tolist()
    assert not mask_HW.all()
