"""What is said of a data set is said once, and which set is taken."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from patchkin.data.check import check_data
from patchkin.data.config import DataConfig
from patchkin.data.layouts import TOY, find_domains
from patchkin.data.toy import write_toy


def test_a_warning_of_several_folders_is_one(tmp_path):
    for index, folder in enumerate(("trainA", "trainB", "testA")):
        (tmp_path / folder).mkdir()
        for number in range(2):
            array = np.full((16, 20), 1000 + 1000 * index + number, np.uint16)
            tifffile.imwrite(tmp_path / folder / f"{number}.tif", array)
    warnings = check_data(tmp_path).warnings
    assert sum("side of 16 pixels" in line for line in warnings) == 1
    assert "trainA and trainB have 2 images; unpaired" in " ".join(warnings)
    assert "trainA, trainB and testA have images with a side of 16 pixels" in " ".join(warnings)
    deep = [line for line in warnings if "--data.value-range" in line]
    assert deep == [
        f"{names} 16-bit files whose values end at {high}, as of {bits} bits: read as 16 bits they "
        f"are nearly black. Give --data.value-range 0 {2**bits - 1}."
        for names, high, bits in (
            ("trainA has", 1001, 10),
            ("trainB has", 2001, 11),
            ("testA has", 3001, 12),
        )
    ]
    Image.fromarray(np.full((16, 20), 4000, np.uint16)).save(tmp_path / "trainA" / "9.png")
    Image.fromarray(np.full((16, 20), 4000, np.uint16)).save(tmp_path / "trainB" / "9.png")
    (deep,) = [line for line in check_data(tmp_path).warnings if "--data.value-range" in line]
    assert deep.startswith("trainA, trainB and testA have 16-bit files whose values end at 4000")


@pytest.mark.parametrize("named", [TOY, f"./{TOY}"])
def test_a_folder_called_toy_is_told_from_the_set(tmp_path, monkeypatch, caplog, named):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("patchkin.data.toy.write_toy", lambda root, size: _few(root))
    monkeypatch.chdir(tmp_path)
    _few(tmp_path / TOY)
    find_domains(DataConfig(root=named))
    domains = find_domains(DataConfig(root=named))
    inside = (tmp_path / TOY) in [path.parent.parent for path in map(_full, domains.train_a)]
    assert inside == (named != TOY)
    said = "`toy` is the built-in toy set; the folder of that name here is `--data ./toy`."
    assert [record.getMessage() for record in caplog.records] == ([said] if named == TOY else [])


def _full(path):
    return path.resolve()


def _few(root):
    write_toy(root, size=64, train=2, test=1)
