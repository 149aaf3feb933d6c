from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchkin.config import to_plain
from patchkin.data.check import Spread, check_data
from patchkin.errors import DataError

_REPOSITORY = Path(__file__).resolve().parents[2]
_DATA = Path(os.environ.get("PATCHKIN_DATA") or _REPOSITORY.parent / "shared" / "data")


def _folder(report, name):
    return next(folder for folder in report.folders if folder.folder == name)


def test_report_on_a_small_set(unpaired, make_images):
    make_images(unpaired / "trainA", 5, size=(40, 20))
    Image.new("L", (30, 30), 9).save(unpaired / "trainB" / "grey.png")
    Image.new("RGB", (30, 30), (9, 9, 10)).save(unpaired / "trainB" / "looks_grey.png")
    np.save(unpaired / "trainB" / "deep.npy", np.zeros((50, 60, 3), np.uint16))
    shutil.copy(unpaired / "trainA" / "001.png", unpaired / "testA" / "again.png")
    make_images(unpaired / "testA_true", 3)

    report = check_data(unpaired)
    assert report.ok
    assert report.layout == "UnpairedFolders"
    assert [folder.folder for folder in report.folders] == ["trainA", "trainB", "testA", "testB"]
    train_b = _folder(report, "trainB")
    assert _folder(report, "trainA").width == Spread(40, 40, 40)
    assert train_b.num_images == 6
    assert train_b.width == Spread(24, 24, 60)
    assert train_b.height == Spread(16, 16, 50)
    assert (train_b.channels, train_b.bits) == ({1: 1, 3: 5}, {8: 5, 16: 1})
    assert train_b.grey_in_colour == 4, "looks_grey and the three ramps"
    assert report.duplicates == [["testA/again.png", "trainA/001.png"]]
    text = " ".join(report.warnings)
    for part in (
        "trainA has 5 images; unpaired methods",
        "have images with a side of 16 pixels",
        "trainB mixes 4 grey images",
        "trainB mixes files with different channels: 1 (1 files), 3 (5 files)",
        "trainB mixes files with different bits per channel",
        "1 files are in a training and in a held-out folder",
    ):
        assert part in text


def test_report_becomes_json(unpaired):
    plain = json.loads(json.dumps(to_plain(check_data(unpaired))))
    assert plain["folders"][0]["width"] == {"min": 24, "median": 24, "max": 24}


def test_too_many_broken_files_are_an_error_with_reasons(unpaired):
    (unpaired / "trainA" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    report = check_data(unpaired)
    assert not report.ok
    assert report.errors == [
        "1 of 6 images in trainA cannot be used, more than 1%. Repair or remove them, or leave out "
        "more with --max-broken 0.17, here and in training."
    ]
    assert check_data(unpaired, max_broken=0.17).ok
    (broken,) = _folder(report, "trainA").broken
    assert broken.file == "trainA/cut.jpg"
    assert "cannot be decoded" in broken.reason


def test_folders_without_images_are_an_error(unpaired):
    shutil.rmtree(unpaired / "trainB")
    (unpaired / "trainB").mkdir()
    (unpaired / "trainB" / "readme.txt").write_text("nothing here")
    with pytest.raises(DataError, match="trainB` holds no image"):
        check_data(unpaired)


def test_other_files_and_other_spellings_are_seen_as_by_training(unpaired):
    (unpaired / "train").mkdir()
    (unpaired / "trainA").rename(unpaired / "train" / "A")
    (unpaired / "train" / "A" / "scan.PDF").write_bytes(b"")
    thumbnails = unpaired / "train" / "A" / "@eaDir"
    shutil.copytree(unpaired / "testA", thumbnails)
    (unpaired / "train" / "A" / "more").symlink_to(unpaired / "testA", target_is_directory=True)
    report = check_data(unpaired)
    train_a = _folder(report, "train/A")
    assert (train_a.num_images, train_a.ignored) == (7, {".pdf": 1})
    assert train_a.note == "7 images of 8 files; ignored: 1 .pdf (export its pages)"


def test_domains_and_pairs_are_reported_too(tmp_path, make_images):
    make_images(tmp_path / "d" / "train" / "cat", 3)
    make_images(tmp_path / "d" / "train" / "dog", 2)
    make_images(tmp_path / "p" / "train", 4)
    domains, pairs = check_data(tmp_path / "d"), check_data(tmp_path / "p")
    assert [(f.folder, f.num_images) for f in domains.folders] == [
        ("train/cat", 3),
        ("train/dog", 2),
    ]
    assert [(f.folder, f.num_images) for f in pairs.folders] == [("train", 4)]
    assert any("no held-out images" in warning for warning in pairs.warnings)


@pytest.mark.skipif(
    not (_DATA / "horse2zebra").is_dir(), reason=f"no horse2zebra in {_DATA}; set PATCHKIN_DATA"
)
def test_horse2zebra():
    report = check_data(_DATA / "horse2zebra")
    numbers = {folder.folder: folder.num_images for folder in report.folders}
    assert numbers == {"trainA": 1067, "trainB": 1334, "testA": 120, "testB": 140}
    assert report.ok
    assert not any(folder.broken for folder in report.folders)
    assert all(folder.width == Spread(256, 256, 256) for folder in report.folders)
    # Seven of its JPEG files are stored as grey; more are colour files of a grey picture, and a
    # lossy copy keeps no difference between the two.
    assert _folder(report, "trainB").grey_in_colour >= 7
