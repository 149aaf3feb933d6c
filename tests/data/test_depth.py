"""12-bit images in 16-bit files are noticed, by the check and before training."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from patchkin.data.check import check_data
from patchkin.data.config import DataConfig
from patchkin.data.loading import open_training_data
from patchkin.errors import ConfigError


def fill(folder, values, *, number=3, dtype=np.uint16):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        ramp = np.linspace(*values, 40 * 44).reshape(40, 44)
        Image.fromarray((ramp - index).clip(values[0]).astype(dtype)).save(folder / f"{index}.png")


@pytest.fixture
def twelve_bits(tmp_path):
    """A in 12 bits, B in all 16."""
    for split in ("train", "test"):
        fill(tmp_path / f"{split}A", (3, 4095))
        fill(tmp_path / f"{split}B", (3, 65535))
    return tmp_path


def test_the_check_shows_used_values_and_offers_the_range(twelve_bits):
    report = check_data(twelve_bits)
    values = {folder.folder: folder.values for folder in report.folders}
    assert values == {
        "trainA": (3.0, 4095.0), "trainB": (3.0, 65535.0),
        "testA": (3.0, 4095.0), "testB": (3.0, 65535.0),
    }  # fmt: skip
    deep = [line for line in report.warnings if "bits" in line]
    assert deep == [
        "trainA and testA have 16-bit files whose values end at 4095, as of 12 bits: read as 16 "
        "bits they are nearly black. Give --data.value-range 0 4095."
    ]


def test_8_bits_have_no_used_range(unpaired):
    report = check_data(unpaired)
    assert all(folder.values is None for folder in report.folders)


@pytest.mark.parametrize(
    ("ranges", "warned"),
    [
        ({}, ["trainA"]),
        ({"value_range_a": (0.0, 4095.0)}, []),
        ({"value_range_b": (0, 9)}, ["trainA"]),
    ],
)
def test_training_warns_of_a_domain_without_a_range(twelve_bits, ranges, warned, caplog):
    config = DataConfig(root=str(twelve_bits), size=32, workers=0, **ranges)
    with caplog.at_level(logging.WARNING):
        open_training_data(config, seed=0, channels=(1, 1))
    lines = [record.message for record in caplog.records if "nearly black" in record.message]
    assert [str(twelve_bits / name) in line for name, line in zip(warned, lines, strict=True)] == [
        True for _ in warned
    ]


def test_two_folders_anywhere_are_checked(tmp_path):
    fill(tmp_path / "mine" / "photos", (0, 200), dtype=np.uint8)
    fill(tmp_path / "test_paintings", (0, 200), dtype=np.uint8, number=4)
    source, target = tmp_path / "mine" / "photos", tmp_path / "test_paintings"
    report = check_data(source=source, target=target)
    assert report.ok
    assert report.layout == "TwoFolders"
    assert [(folder.folder, folder.num_images, folder.training) for folder in report.folders] == [
        (source.as_posix(), 3, True),
        (target.as_posix(), 4, True),
    ]
    with pytest.raises(ConfigError, match=r"--source and --target"):
        check_data(source=source)
