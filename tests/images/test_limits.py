"""Files that promise more than there is: one line each, before anything is allocated."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from bombs import BOMBS, png_bomb
from patchkin.errors import ConfigError, DataError
from patchkin.images import read_image
from patchkin.images.limits import VARIABLE, allow_pixels, max_pixels


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_one_line_before_anything_is_allocated(tmp_path, name):
    content = BOMBS[name]()
    (tmp_path / name).write_bytes(content)
    importlib.import_module("patchkin.images.tiff")  # no part of the file's memory
    importlib.import_module("imagecodecs")
    importlib.import_module("tifffile")
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21 + 4 * len(content)
    message = str(caught.value)
    assert message.startswith(f"`{tmp_path / name}`: cannot be decoded: ")
    assert "\n" not in message
    if name != "bomb.npy":
        assert "--max-pixels" in message


def test_a_16_bit_png_unpacks_no_more_than_its_pixels(tmp_path):
    (tmp_path / "a.png").write_bytes(png_bomb(side=100, bits=16))
    tracemalloc.start()
    picture = read_image(tmp_path / "a.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert picture.size == (100, 100)
    assert peak < 10 * 2**20


def test_the_limit_is_pillows_and_can_be_raised(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert max_pixels() == 100
    Image.fromarray(np.zeros((11, 10), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((11, 10), np.uint16)).save(tmp_path / "b.png")
    Image.fromarray(np.zeros((11, 10), np.uint8)).save(tmp_path / "c.tif")
    np.save(tmp_path / "d.npy", np.zeros((11, 10), np.uint8))
    names = ("a.png", "b.png", "c.tif", "d.npy")
    for name in names:
        with pytest.raises(DataError, match=r"110.*--max-pixels"):
            read_image(tmp_path / name)
    allow_pixels(110)
    for name in names:
        assert read_image(tmp_path / name).size == (10, 11)
    with pytest.raises(ConfigError, match="must be at least 1"):
        allow_pixels(0)


def test_processes_that_are_started_have_the_limit_too(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    allow_pixels(220)
    code = "from patchkin.images.limits import max_pixels; print(max_pixels())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "220\n"


def test_memory_that_is_not_there_is_a_line(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def full(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(DataError, match="it needs more memory than there is"):
        read_image(tmp_path / "a.png")


def test_heic_without_its_library_names_the_extra(tmp_path, monkeypatch):
    from patchkin.images import heic

    (tmp_path / "a.heic").write_bytes(bytes([0, 0, 0, 24]) + b"ftypheic" + bytes(100))
    heic.register_heif.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r"run `pip install patchkin\[heic\]`"):
        read_image(tmp_path / "a.heic")


def test_heic_is_read(tmp_path):
    import pillow_heif

    colours = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (1, 64, 3))
    pillow_heif.from_pillow(Image.fromarray(colours)).save(tmp_path / "a.heic", quality=95)
    read = np.asarray(read_image(tmp_path / "a.heic").pixels).astype(int)
    assert np.abs(read - colours).max() < 8
