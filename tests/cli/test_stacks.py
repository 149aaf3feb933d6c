"""`patchkin translate` of stacks: page by page, whole or not at all, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from patchkin.images import read_image
from patchkin.images.pages import each_page
from patchkin.translation.translator import Translator


def _stack(path, pages, *, broken=None):
    """Grey pages of 16 bits, one of which may lack its pixels."""
    array = np.random.default_rng(0).integers(0, 65536, (pages, 24, 20), dtype=np.uint16)
    tifffile.imwrite(path, array, photometric="minisblack", compression="zlib", metadata=None)
    if broken is not None:
        with tifffile.TiffFile(path) as file:
            offset = file.pages[broken].dataoffsets[0]
        content = bytearray(path.read_bytes())
        content[offset : offset + 40] = bytes(40)
        path.write_bytes(content)
    return array


def test_the_pages_of_a_stack_are_those_translated_one_by_one(command, finished_run, tmp_path):
    array = _stack(tmp_path / "a.tif", 7)
    out = tmp_path / "out"
    code, _, err = command("translate", finished_run, tmp_path / "a.tif", "-o", out)
    assert code == 0, err
    translator = Translator.load(finished_run, device="cpu")
    pages = each_page([out / "a.tif"])
    assert len(pages) == 7
    for page, grey in zip(pages, array, strict=True):
        expected = translator(grey)
        assert np.array_equal(read_image(page).pixels, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("broken", [0, 3, 6])
def test_a_stack_with_one_broken_page_leaves_what_was_there(
    command, finished_run, tmp_path, broken
):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    _stack(inputs / "a.tif", 7)
    command("translate", finished_run, inputs, "-o", out)
    before = (out / "a.tif").read_bytes()
    _stack(inputs / "a.tif", 7, broken=broken)
    _stack(inputs / "b.tif", 3)
    code, text, err = command("translate", finished_run, inputs, "-o", out, "--json")
    result = json.loads(text)
    assert code == 2
    assert [Path(path).name for path in result["failed"]] == ["a.tif"]
    assert f"a_p{broken:03d}.tif" in err
    assert (out / "a.tif").read_bytes() == before
    assert len(each_page([out / "b.tif"])) == 3
    assert not list(out.glob(".patchkin-*.part"))


def test_what_a_killed_process_left_of_a_stack_is_removed(command, finished_run, tmp_path):
    _stack(tmp_path / "a.tif", 3)
    out = tmp_path / "out"
    out.mkdir()
    ended = subprocess.run([sys.executable, "-c", LEFT, out], check=True, capture_output=True)
    assert ended.stdout
    assert len(list(out.iterdir())) == 1
    assert command("translate", finished_run, tmp_path / "a.tif", "-o", out)[0] == 0
    assert not list(out.glob("*.part"))


LEFT = """
import sys
from pathlib import Path
from patchkin.storage.atomic import _temporary_name
print(Path(sys.argv[1], _temporary_name()).write_bytes(b"half"))
"""


def test_a_stack_that_its_format_cannot_hold_is_told_and_the_next_is_written(
    command, finished_run, tmp_path
):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    _stack(inputs / "a.tif", 3)
    Image.new("L", (20, 24)).save(inputs / "b.tif")
    code, text, err = command(
        "translate", finished_run, inputs, "-o", out, "--format", "png", "--json"
    )
    assert code == 2
    assert "`.png` cannot hold these 3 pages; use --format tif, or --pages first" in err
    assert [Path(path).name for path in json.loads(text)["written"]] == ["b.png"]


CHILD = """
import torch
from patchkin.devices import peak_memory_bytes
import json, sys
from pathlib import Path
import numpy as np
from patchkin.translation.files import Job, translate_files

class Colours:
    channels, value_ranges = (1, 3), (None, None)

    def arrays(self, x_BCHW, styles_BS=None):
        return np.concatenate([x_BCHW, -x_BCHW, x_BCHW], axis=1)

outcome = translate_files(Colours(), [Job(Path(sys.argv[1]), Path(sys.argv[2]))])
peak = peak_memory_bytes(torch.device("cpu"))
print(json.dumps({"failed": [why for _, why in outcome.failed], "peak": peak}))
"""


def _large(path, pages):
    """Of 256 x 256, 16 bits in TIFF."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    if path.suffix == ".tif":
        with tifffile.TiffWriter(path) as file:
            for page in range(pages):
                file.write(np.roll(noise, page, 1).astype(np.uint16) << 8, contiguous=False)
        return
    smooth = np.asarray(Image.fromarray(noise[:32, :32]).resize((256, 256)))
    frames = [Image.fromarray(np.roll(smooth, 8 * page, 1)) for page in range(pages)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, loop=0)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="reads the peak of a child's memory")
@pytest.mark.parametrize("suffix", [".tif", ".webp"])
def test_a_long_stack_needs_no_more_memory_than_a_short_one(tmp_path, suffix):
    """A page in colour has 0.2 MB in 8 bits, twice that in 16: 200 more would be 40 and 80 MB."""
    peaks = []
    for pages in (20, 220):  # more than are on their way at once
        source, target = tmp_path / f"{pages}{suffix}", tmp_path / "out" / f"{pages}{suffix}"
        _large(source, pages)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, source, target],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["failed"] == []
        assert len(each_page([target])) == pages
        peaks.append(told["peak"])
    few, many = peaks
    assert many - few < 2e7, peaks
