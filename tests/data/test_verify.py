from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patchkin.data.config import DataConfig
from patchkin.data.loading import open_training_data
from patchkin.data.verify import Broken, verify_images, without_broken
from patchkin.errors import DataError


def _break(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:60])
    return path


def test_broken_files_are_found_in_order_with_their_reasons(tmp_path, make_images):
    paths = make_images(tmp_path, 6)
    _break(paths[4])
    paths[1].write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    broken = verify_images([*paths, tmp_path / "text.png"], threads=3)
    assert [entry.path.name for entry in broken] == ["001.png", "004.png", "text.png"]
    assert "the file is empty" in broken[0].reason
    assert all("\n" not in entry.reason for entry in broken)


def test_files_of_another_kind_count_as_broken(tmp_path, make_images):
    np.save(tmp_path / "five.npy", np.zeros((4, 4, 5), np.uint8))
    np.save(tmp_path / "float.npy", np.full((4, 4), 7.0))
    paths = [tmp_path / "five.npy", tmp_path / "float.npy"]
    assert [e.path for e in verify_images(paths, channels=3)] == paths
    assert [e.path for e in verify_images(paths, channels=3, value_range=(0, 10))] == paths[:1]


@pytest.mark.parametrize(
    ("number", "bad", "accepted"), [(100, 1, True), (99, 1, False), (300, 4, False)]
)
def test_one_percent_is_the_limit(number, bad, accepted):
    paths = [Path(f"{index}.png") for index in range(number)]
    broken = [Broken(path, f"`{path}`: cannot be decoded: cut.") for path in paths[:bad]]
    if accepted:
        assert without_broken(paths, broken) == tuple(paths[bad:])
        return
    with pytest.raises(DataError) as caught:
        without_broken(paths, broken)
    message = str(caught.value)
    assert message.startswith(
        f"{bad} of {number} images cannot be used, more than 1%: `0.png`: cannot"
    )
    assert ("`3.png`" in message, "; ..." in message) == (False, bad > 3)
    assert "\n" not in message


def test_training_leaves_broken_files_out_and_reports_them(tmp_path, make_images):
    a, b = make_images(tmp_path / "trainA", 120), make_images(tmp_path / "trainB", 100)
    _break(a[7])
    config = DataConfig(root=str(tmp_path), size=16)
    opened = open_training_data(config, seed=0)
    assert [entry.path for entry in opened.broken] == [a[7]]
    assert opened.dataset.train_a == opened.domains.train_a == (*a[:7], *a[8:])
    assert opened.dataset.train_b == tuple(b)

    _break(a[8])
    with pytest.raises(DataError, match="2 of 120 images cannot be used"):
        open_training_data(config, seed=0)
    resumed = open_training_data(config, seed=0, known_broken=opened.broken)
    assert resumed.dataset.train_a == opened.dataset.train_a, "a resumed run keeps its order"


def test_a_larger_share_may_be_left_out():
    paths = [Path(f"{index}.png") for index in range(60)]
    broken = [Broken(paths[0], "`0.png`: cut"), Broken(paths[7], "`7.png`: cut")]
    with pytest.raises(DataError, match=r"more than 1%: .*with --max-broken 0\.04\.$"):
        without_broken(paths, broken)
    assert without_broken(paths, broken, 0.04) == tuple(
        p for p in paths if p not in (paths[0], paths[7])
    )
