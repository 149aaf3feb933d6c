"""Halves of pairs as two unpaired domains."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cli.conftest import command, toy_root
from patchkin.data.config import DataConfig
from patchkin.data.layouts import find_domains
from patchkin.images import read_image
from patchkin.images.png16 import save_16bit_png

__all__ = ["command", "toy_root"]


@pytest.fixture
def pairs(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "pairs"
    arrays = {
        "train/a.png": rng.integers(0, 256, (6, 8, 3), dtype=np.uint8),
        "train/b.tiff": rng.integers(0, 256, (6, 9, 3), dtype=np.uint8),  # of odd width
        "train/grey.png": rng.integers(0, 256, (4, 10), dtype=np.uint8),
        "val/a.png": rng.integers(0, 65536, (6, 8, 3), dtype=np.uint16),
        "test/five.npy": rng.normal(size=(6, 8, 5)).astype(np.float32),
    }
    for name, array in arrays.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".npy"):
            np.save(root / name, array)
        elif array.dtype == np.uint16:
            save_16bit_png(root / name, array)
        else:
            Image.fromarray(array).save(root / name)
    return root, arrays


def _array(path):
    pixels = read_image(path).pixels
    return np.asarray(pixels) if isinstance(pixels, Image.Image) else pixels.transpose(1, 2, 0)


def test_halves_are_written_to_the_bit(command, pairs, tmp_path):
    root, arrays = pairs
    code, out, err = command("data", "split", root, "-o", tmp_path / "set")
    assert (code, out) == (0, "")
    counted = "train 3, val 1, test 1 of each domain"
    assert err.strip() == f"wrote {tmp_path / 'set'}: {counted}"
    written = {p.relative_to(tmp_path / "set").as_posix() for p in (tmp_path / "set").rglob("*.*")}
    assert written == {
        *(f"train{side}/{name}.png" for side in "AB" for name in ("a", "b", "grey")),
        *("valA/a.png", "valB/a.png", "testA/five.npy", "testB/five.npy"),
    }
    for name, array in arrays.items():
        split, rest = name.split("/", 1)
        file = rest if rest.endswith(".npy") else f"{rest.rsplit('.', 1)[0]}.png"
        half = array.shape[1] // 2
        for side, expected in (("A", array[:, :half]), ("B", array[:, -half:])):
            found = _array(tmp_path / "set" / f"{split}{side}" / file)
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, expected)
    domains = find_domains(DataConfig(root=str(tmp_path / "set"), direction="BtoA"))
    assert [len(files) for files in (domains.train_a, domains.val_b, domains.test_a)] == [3, 1, 1]
    assert domains.train_a[0].parent.name == "trainB"


def test_what_cannot_be_split_leaves_nothing(command, pairs, toy_root, tmp_path):
    root, _ = pairs
    for source, words in (
        (toy_root, "holds no pairs: files in train/ that show A (left half) and B (right half)"),
        (tmp_path / "nowhere", "nowhere"),
    ):
        code, _, err = command("data", "split", source, "-o", tmp_path / "set")
        assert code == 2
        assert words in err
        assert len(err.splitlines()) == 1
    (root / "train" / "a.jpg").write_bytes((root / "train" / "a.png").read_bytes())
    code, _, err = command("data", "split", root, "-o", tmp_path / "set")
    assert code == 2
    assert "would both become `a`; rename one of them." in err
    (root / "train" / "a.jpg").unlink()
    (root / "test" / "broken.png").write_bytes(b"no image")
    code, _, err = command("data", "split", root, "-o", tmp_path / "set")
    assert code == 2
    assert "broken.png" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "set").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    code, _, err = command("data", "split", root, "-o", tmp_path / "full")
    assert code == 2
    assert "is not empty; choose another folder." in err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_methods_without_pairs_say_how_to_split(command, pairs, tmp_path):
    root, _ = pairs
    code, _, err = command("train", "cut", "--data", root, "--run-dir", tmp_path / "r")
    assert code == 2
    assert "`patchkin data split PAIRS -o FOLDER` makes these of pairs." in err
