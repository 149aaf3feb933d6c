"""Whatever is kept: a write that fails at any moment is one line, and the old content is whole."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from patchkin.cli import bench
from patchkin.compression.search import EvolutionSearch, SearchConfig
from patchkin.compression.space import SearchSpace
from patchkin.data.paired import write_paired_toy
from patchkin.data.toy import write_toy
from patchkin.errors import StorageError
from patchkin.images import Encoding, write_image, write_pillow
from patchkin.images.container import Container
from patchkin.images.saving import Page, write_pages
from patchkin.metrics.protocols import Protocol
from patchkin.metrics.statistics import Statistics, write_statistics
from patchkin.runs.compression import write_plot
from patchkin.scoring.comparison.formats import as_html
from patchkin.scoring.comparison.table import make_table
from patchkin.scoring.results import Result, write_result
from patchkin.storage import checkpoint
from patchkin.storage.atomic import new_file, set_apart, write_text
from patchkin.storage.checkpoint import write_tensors
from patchkin.translation import styles
from storage.faults import Faults


def image(suffix, encoding):
    def write(folder, number):
        image_CHW = torch.full((encoding.channels, 5, 7), 0.1 * number)
        write_image(folder / f"a{suffix}", image_CHW, encoding)

    return write


def result(folder, number):
    write_result(
        Result(
            scores={"change": float(number)}, warnings=(), protocols={}, subject={"step": 1},
            data={"split": "test"}, evaluation={},
        ),
        folder / "scores.json",
    )  # fmt: skip


def statistics(folder, number):
    protocol = Protocol(name="tiny", image_size=8, input_size=None, extractor="none")
    features_ND = torch.full((2, 3), float(number))
    kept = Statistics(protocol=protocol, names=("a", "b"), features_ND=features_ND)
    write_statistics(folder / "a.safetensors", kept)


def model(folder, number):
    with new_file(folder / "model.safetensors") as part:
        write_tensors(part, {"weight": torch.full((3,), float(number))}, {"patchkin": "{}"})


def search(folder, number):
    search = EvolutionSearch(
        SearchSpace.parse("channels-32"),
        SearchConfig(budget=2.2e9, population=4, generations=1, seed=number),
    )
    search.run(sum, state_file=folder / "search.json")


def plot(folder, number):
    evolution = EvolutionSearch(
        SearchSpace.parse("channels-32"),
        SearchConfig(budget=2.2e9, population=4, generations=1, seed=number),
    )
    write_plot(evolution, evolution.run(sum), "score", folder / "pareto.png")


def animation(folder, number):
    frames = [torch.full((3, 4, 4), 0.1 * number * shift) for shift in (-1, 1)]
    styles._write_animation(folder / "path.gif", frames)


WRITERS = {
    "png": image(".png", Encoding(8, 3)),
    "png of 16 bits": image(".png", Encoding(16, 3)),
    "jpeg": image(".jpg", Encoding(8, 3)),
    "webp": image(".webp", Encoding(8, 3)),
    "tiff of 5 channels": image(".tif", Encoding(8, 5)),
    "npy": image(".npy", Encoding(32, 2)),
    "grid": lambda folder, number: write_pillow(
        folder / "grid.png", Image.new("L", (4, 4), number)
    ),
    "animation": animation,
    "scores": result,
    "page of runs": lambda folder, number: write_text(
        folder / "comparison.html", as_html(make_table([], {}), command=str(number))
    ),
    "speeds": lambda folder, number: bench._write(folder / "bench.json", {"cases": number}),
    "statistics": statistics,
    "model": model,
    "search": search,
    "plot of a search": plot,
}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("writer", WRITERS)
def test_a_failing_write_leaves_the_old_content_or_the_new(writer, tmp_path):
    write = WRITERS[writer]
    if writer.startswith("tiff"):
        pytest.importorskip("tifffile")
    (tmp_path / "new").mkdir()
    with Faults(tmp_path / "new") as counted:
        write(tmp_path / "new", 2)
    new = contents(tmp_path / "new")
    assert len(new) == 1
    assert {"make", "sync", "rename"} <= set(counted.done)
    for number in range(1, len(counted.done) + 1):
        folder = tmp_path / f"failing {number}"
        folder.mkdir()
        if writer != "search":  # which would go on from it
            write(folder, 1)
        old = contents(folder)
        assert old != new
        with Faults(folder, number, errno.ENOSPC) as faults:
            try:
                write(folder, 2)
            except StorageError as error:
                told = str(error)
            else:
                told = None
        if writer == "scores" and number == 1:  # its lock; without one it is written nevertheless
            assert faults.done[0] == "make"
            assert told is None
        else:
            assert told is not None
            assert told.startswith("Cannot write `")
            assert f"`: {os.strerror(errno.ENOSPC)}. " in told
            assert "\n" not in told
        assert contents(folder) in (old, new)
        if writer not in ("scores", "search") and number < len(counted.done):
            assert contents(folder) == old  # a search tries once more when it ends
        write(folder, 2)
        assert contents(folder) == new


@pytest.mark.parametrize("write", [write_toy, write_paired_toy])
def test_a_toy_set_on_a_full_disk_is_one_line(write, tmp_path):
    counts = {"train": 2, "test": 1} if write is write_toy else {"counts": {"train": 2}}
    with Faults(tmp_path / "whole") as counted:
        write(tmp_path / "whole", **counts)
    for number in range(1, len(counted.done) + 1, 5):
        root = tmp_path / str(number)
        with (
            Faults(root, number, errno.ENOSPC),
            pytest.raises(StorageError, match=r"Cannot write `.*`: No space left on device\."),
        ):
            write(root, **counts)
        assert list(root.rglob(".*")) == []
        write(root, **counts)
        assert contents(root) == contents(tmp_path / "whole")


def test_the_reason_of_safetensors_is_told_as_that_of_others(tmp_path):
    """Its errors are no `OSError`."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory") as caught:
        write_tensors(tmp_path / "file" / "a", {"weight": torch.zeros(1)}, None)
    assert caught.value.errno == errno.ENOTDIR
    write_tensors(tmp_path / "a", {"weight": torch.ones(2)}, None)
    assert load_file(tmp_path / "a")["weight"].tolist() == [1, 1]


def test_what_safetensors_writes_under_names_of_its_own_is_set_apart(tmp_path, monkeypatch):
    seen = []

    def save(tensors, path, metadata):
        seen.append(path.parent.name)
        save_file(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", save)
    model(tmp_path, 1)
    assert len(seen) == 1
    assert seen[0].startswith(".patchkin-")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_folder_that_was_set_apart_goes_where_it_cannot_be_read(tmp_path, monkeypatch):
    """An error of reading leaves nothing behind: the folder is empty."""
    opened = os.open

    def unreadable(path, flags, *rest, **options):
        if Path(path).is_dir():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", unreadable)
    with set_apart(tmp_path / "a") as part:
        part.write_bytes(b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files, and what they answer")
@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".gif", ".png", ".webp", ".ppm", ".tga"])
@pytest.mark.parametrize("pages", [False, True])
def test_a_last_write_of_which_a_part_is_taken_fails(tmp_path, suffix, pages):
    """As on a disk that is full but for a part of it. Pillow takes such a write for a whole one."""
    import resource

    levels_CHW = np.random.default_rng(0).integers(0, 256, (3, 60, 60), dtype=np.uint8)

    def write(path):
        if pages:
            write_pages(path, [Page(levels_CHW)], Container())
        else:
            write_pillow(path, Image.fromarray(levels_CHW.transpose(1, 2, 0)))

    write(tmp_path / f"a{suffix}")
    size = (tmp_path / f"a{suffix}").stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            write(tmp_path / f"b{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]
