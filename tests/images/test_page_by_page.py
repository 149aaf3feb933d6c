"""Files of many pages are written as their pages come: few are in memory, all are in the file."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import tifffile
from PIL import Image

from patchkin.images import read_image
from patchkin.images.container import Container, container_of
from patchkin.images.gif import write_gif
from patchkin.images.pages import each_page
from patchkin.images.saving import Page, write_pages

NUMBER = 12
AXES = {"metadata": {"axes": "ZYX"}}
STACKS = {
    "plain": {"metadata": None},
    "shaped": {},
    "shaped-tiled": {"tile": (16, 16), "compression": "zlib"},
    "shaped-tiles-alone": {"tile": (16, 16)},
    "imagej": {"imagej": True, **AXES},
    "imagej-lzw": {"imagej": True, "compression": "lzw", **AXES},
    "ome": {"ome": True, "compression": "lzw", **AXES},
    "ome-tiled": {"ome": True, "tile": (16, 16), **AXES},
}


class Counting:
    """Pages made when they are asked for, and how many of them lived at once."""

    def __init__(self, arrays: list[np.ndarray], alphas: list[np.ndarray | None]) -> None:
        self.arrays, self.alphas = arrays, alphas
        self.alive: set[int] = set()
        self.most = 0

    def __iter__(self) -> Iterator[Page]:
        for number, (array, alpha) in enumerate(zip(self.arrays, self.alphas, strict=True)):
            levels = array.copy()
            self.alive.add(number)
            weakref.finalize(levels, self.alive.discard, number)
            gc.collect()
            self.most = max(self.most, len(self.alive))
            yield Page(levels, alpha)
            del levels


def _arrays(channels: int, dtype: type = np.uint16) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (channels, 20, 37)
    return [rng.integers(0, np.iinfo(dtype).max, shape, dtype) for _ in range(NUMBER)]


@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_stack_is_written_page_by_page(tmp_path, kind, channels):
    stored = np.concatenate(_arrays(1))
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", **STACKS[kind])
    arrays = _arrays(channels)
    pages = Counting(arrays, [None] * NUMBER)
    target = tmp_path / "b.tif"
    notes = write_pages(target, iter(pages), container_of(tmp_path / "a.tif"), number=NUMBER)
    assert notes == []
    assert pages.most <= 4
    paths = each_page([target])
    assert len(paths) == NUMBER
    for path, array in zip(paths, arrays, strict=True):
        assert np.array_equal(read_image(path).pixels, array)
    with tifffile.TiffFile(tmp_path / "a.tif") as one, tifffile.TiffFile(target) as two:
        assert one.series[0].kind == two.series[0].kind
        assert one.pages[0].compression == two.pages[0].compression
        assert one.pages[0].is_tiled == two.pages[0].is_tiled
        assert one.pages[0].tile == two.pages[0].tile


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".avif"])
def test_an_animation_is_written_frame_by_frame(tmp_path, suffix):
    arrays = [np.full((3, 20, 37), 20 * number, np.uint8) for number in range(NUMBER)]
    pages = Counting(arrays, [None] * NUMBER)
    durations = tuple(40.0 + 10 * number for number in range(NUMBER))
    container = Container(num_pages=NUMBER, durations=durations, loop=0)
    target = tmp_path / f"b{suffix}"
    assert write_pages(target, iter(pages), container, number=NUMBER) == []
    assert pages.most <= 4
    assert len(each_page([target])) == NUMBER
    assert container_of(target).durations == durations
    for path, array in zip(each_page([target]), arrays, strict=True):
        found = np.asarray(read_image(path).pixels).transpose(2, 0, 1)
        off = np.abs(found.astype(int) - array).max()
        assert off <= (0 if suffix == ".gif" else 4)


def test_equal_frames_of_a_gif_stay_apart_and_what_is_transparent_stays_so(tmp_path):
    alpha = np.zeros((20, 37), np.uint8)
    alpha[5:9, 6:30] = 255
    red, blue = (np.zeros((3, 20, 37), np.uint8) for _ in range(2))
    red[0], blue[2] = 255, 255
    pages = [Page(blue, alpha), Page(blue, alpha), Page(red, 255 - alpha), Page(blue, alpha)]
    container = Container(num_pages=4, durations=(50.0,) * 4, loop=None)
    assert write_pages(tmp_path / "a.gif", pages, container) == []
    with Image.open(tmp_path / "a.gif") as file:
        assert (file.n_frames, "loop" in file.info) == (4, False)
        for number, page in enumerate(pages):
            file.seek(number)
            shown = np.asarray(file.convert("RGBA"))
            seen = page.alpha > 0
            assert np.array_equal(shown[:, :, 3], page.alpha)
            assert np.array_equal(shown[seen][:, :3], page.levels.transpose(1, 2, 0)[seen])
    write_pages(tmp_path / "b.gif", [Page(red), Page(blue, alpha), *[Page(red)] * 2], container)
    controls = (tmp_path / "b.gif").read_bytes().split(b"\x21\xf9\x04")[1:]
    assert [control[0] >> 2 & 7 for control in controls] == [2, 0, 0, 0], "what lay below goes"


@pytest.mark.parametrize("colours", [1, 2, 3, 200, 256])
def test_a_frame_has_the_pixels_that_pillow_gives_it_alone(tmp_path, colours):
    rng = np.random.default_rng(colours)
    grey = rng.integers(0, colours, (31, 18)).astype(np.uint8)
    frames = [Image.fromarray(grey), Image.fromarray(grey.T.copy().reshape(31, 18))]
    write_gif(tmp_path / "a.gif", ((frame, 100.0) for frame in frames), loop=2)
    with Image.open(tmp_path / "a.gif") as file:
        assert (file.info["loop"], file.size) == (2, (18, 31))
        for number, frame in enumerate(frames):
            file.seek(number)
            assert file.info["duration"] == 100
            assert np.array_equal(np.asarray(file.convert("L")), np.asarray(frame))


def test_a_page_without_alpha_among_pages_with_it_is_opaque(tmp_path):
    arrays = _arrays(3)[:3]
    alpha = arrays[0][0]
    pages = [Page(arrays[0], alpha), Page(arrays[1]), Page(arrays[2], alpha)]
    assert write_pages(tmp_path / "a.tif", pages, Container(num_pages=3)) == []
    found = [read_image(path) for path in each_page([tmp_path / "a.tif"])]
    for picture, array in zip(found, arrays, strict=True):
        assert np.array_equal(picture.pixels, array)
    assert np.array_equal(found[0].alpha, alpha)
    assert np.array_equal(found[1].alpha, np.full_like(alpha, 65535))
    (note,) = write_pages(tmp_path / "b.tif", pages[1:], Container(num_pages=2))
    assert note == "alpha is not kept: the first page has none"
    assert read_image(each_page([tmp_path / "b.tif"])[1]).alpha is None


def test_a_writer_that_fails_between_pages_leaves_the_old_file(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"old")

    def pages():
        yield Page(_arrays(1)[0])
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_pages(tmp_path / "a.tif", pages(), Container(num_pages=2), number=2)
    assert (tmp_path / "a.tif").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
