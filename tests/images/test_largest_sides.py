"""Formats that are too small for an image: told before its pixels are computed, in one line."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from patchkin.cli import main
from patchkin.errors import ConfigError
from patchkin.images import read_image, write_pillow, write_values
from patchkin.images.container import Container
from patchkin.images.picture import Encoding
from patchkin.images.saving import Page, write_pages
from patchkin.images.write import save_pillow

LARGEST = {".jpg": 65_500, ".webp": 16_383, ".gif": 65_535, ".avif": 32_768}


@pytest.mark.parametrize("suffix", LARGEST)
def test_the_largest_side_is_written_and_read_and_one_more_is_refused(tmp_path, suffix):
    """Of what Pillow itself can read back; without it WebP, GIF and AVIF raised errors of their
    encoders, and an AVIF of 32,769 pixels was written that nothing could open."""
    largest = LARGEST[suffix]
    levels_CHW = np.full((3, 1, largest + 1), 200, np.uint8)
    path = tmp_path / f"wide{suffix}"
    write_pages(path, [Page(levels_CHW[:, :, 1:])], Container())
    with Image.open(path) as image:
        read = np.array(image.convert("RGB"), dtype=int)
    assert read.shape == (1, largest, 3)
    assert np.abs(read - 200).max() <= 2
    before = path.read_bytes()
    for write in (
        lambda: write_pages(path, [Page(levels_CHW)], Container()),
        lambda: write_values(path, levels_CHW / np.float32(255), Encoding(8, 3)),
        lambda: write_pillow(path, Image.fromarray(levels_CHW.transpose(1, 2, 0))),
    ):
        with pytest.raises(ConfigError, match=rf"{largest + 1} x 1 pixels.* at most {largest} a"):
            write()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_an_encoder_cannot_do_is_one_line(tmp_path):
    """x265 refuses a strip of 16 pixels, though it takes 64 of the same height."""
    path = tmp_path / "strip.heic"
    with pytest.raises(ConfigError, match=r"cannot be written as HEIF \(.*\); use --format png"):
        write_pages(path, [Page(np.zeros((3, 8000, 16), np.uint8))], Container())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("no")])
def test_trouble_of_a_disk_is_not_taken_for_that_of_an_encoder(tmp_path, error):
    def save(file, **_):
        raise error

    with pytest.raises(ConfigError, match=r"written as PNG \(no\)"):
        save_pillow(SimpleNamespace(save=save), tmp_path / "a", format="PNG")
    error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left") as raised:
        save_pillow(SimpleNamespace(save=save), tmp_path / "a", format="PNG")
    assert raised.value is error


def test_the_others_of_a_folder_are_translated(tmp_path, capsys):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name, height in (("a", 16_384), ("b", 24)):
        Image.fromarray(np.zeros((height, 16, 3), np.uint8)).save(images / f"{name}.png")
    command = ["translate", "horse2zebra", str(images), "-o", str(out), "--format", "webp"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"`{out / 'a.webp'}` would have 16 x 16384 pixels, and WEBP holds at most 16383" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in out.glob("*.webp")) == ["b.webp"]
    assert read_image(out / "b.webp", 3).encoding == Encoding(8, 3)
