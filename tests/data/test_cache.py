"""The decoded image cache: the same views as without it, and nothing damaged is believed."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

import patchkin.data.cache.decoded as decoded_module
import patchkin.data.cache.store as store_module
from patchkin.data.cache import FirstStep, open_cache
from patchkin.data.config import AUTO, DataConfig, Preprocess
from patchkin.data.datasets import Place
from patchkin.data.domains import domain_loader, open_domain_data
from patchkin.data.folders import cache_folder
from patchkin.data.loading import open_training_data, training_loader
from patchkin.data.paired import open_paired_data, paired_loader
from patchkin.errors import ConfigError, DataError, StorageError
from patchkin.storage import atomic

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX limits and locks")


def noise(seed: int, width: int, height: int) -> Image.Image:
    """A smooth picture in which no two places are alike."""
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array).filter(ImageFilter.GaussianBlur(1))


def write_all_kinds(folder: Path, *, seed: int, width: int, height: int) -> list[Path]:
    """A file of every way in which pixels come: Pillow, colour, grey, palette, 16 bits, float."""
    folder.mkdir(parents=True)
    pictures = [noise(seed + place, width - place, height + place) for place in range(7)]
    deep_HW = np.asarray(pictures[5].convert("L")).astype(np.uint16) * 257
    pictures[0].save(folder / "0.jpg", quality=90)
    pictures[1].save(folder / "1.png")
    pictures[2].convert("L").save(folder / "2.png")
    pictures[3].convert("P").save(folder / "3.gif")
    pictures[4].save(folder / "4.jpg", exif=_turned())
    Image.fromarray(deep_HW).save(folder / "5.png")
    np.save(folder / "6.npy", np.asarray(pictures[6]).astype(np.float32) / 255)
    return sorted(folder.iterdir())


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.fixture
def root(tmp_path):
    """Source images smaller than views, target images much larger."""
    write_all_kinds(tmp_path / "set" / "trainA", seed=0, width=35, height=31)
    write_all_kinds(tmp_path / "set" / "trainB", seed=20, width=141, height=97)
    return tmp_path / "set"


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded, in order."""
    names: list[str] = []
    read_image = decoded_module.read_image

    def counted(path, channels=None):
        names.append(f"{Path(path).parent.name}/{Path(path).name}")
        return read_image(path, channels)

    monkeypatch.setattr(decoded_module, "read_image", counted)
    return names


def config_for(root, **settings) -> DataConfig:
    return DataConfig(**({"root": str(root), "size": 24, "load_size": 28} | settings))


def views(config: DataConfig, *, workers: int = 0, steps: int = 21, channels=(3, 3)) -> list:
    """Three epochs of single images, the last without jitter."""
    dataset = open_training_data(config, seed=1, channels=channels).dataset
    return [
        (batch.a_names, batch.b_names, batch.a_BCHW, batch.b_BCHW)
        for batch in training_loader(
            dataset, batch_size=1, total_steps=steps, workers=workers, jitter_steps=14
        )
    ]


def assert_equal(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        for x, y in zip(mine, other, strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


def files_in(folder: Path) -> list[str]:
    """The index first."""
    names = [path.name for path in folder.iterdir() if path.suffix != ".lock"]
    return sorted(names, key=lambda name: (name.split(".")[-1], name))


# The same pixels


@pytest.mark.parametrize("preprocess", get_args(Preprocess))
def test_views_are_equal_with_and_without(root, tmp_path, preprocess, decoded):
    config = config_for(root, preprocess=preprocess)
    expected = views(config)
    decoded.clear()
    cached = replace(config, cache=str(tmp_path / "cache"))
    assert_equal(views(cached), expected)
    assert len(decoded) == len(set(decoded)) == 14  # each once, in the first opening
    assert_equal(views(cached), expected)
    assert len(decoded) == 14


def test_views_are_equal_whatever_the_workers_and_the_step_of_a_resumed_run(root, tmp_path):
    config = config_for(root)
    expected = views(config)
    cached = replace(config, cache=str(tmp_path / "cache"))
    assert_equal(views(cached, workers=2), expected)
    data = open_training_data(cached, seed=1, known_broken=())
    resumed = training_loader(
        data.dataset, batch_size=1, total_steps=21, start_step=11, jitter_steps=14
    )
    ours = [(b.a_names, b.b_names, b.a_BCHW, b.b_BCHW) for b in resumed]
    assert_equal(ours, expected[11:])


def test_two_folders_other_channels_and_a_range_of_values(tmp_path):
    generator = np.random.default_rng(0)
    for name, channels in (("a", 5), ("b", 1)):
        (tmp_path / name).mkdir()
        for index in range(3):
            array = generator.integers(0, 4096, (40, 30, channels), dtype=np.uint16)
            np.save(tmp_path / name / f"{index}.npy", array)
    config = DataConfig(
        source=str(tmp_path / "a"), target=str(tmp_path / "b"), size=16, value_range=(0, 4095)
    )
    cached = replace(config, cache=str(tmp_path / "cache"))
    assert_equal(views(cached, channels=(5, 1)), views(config, channels=(5, 1)))
    (pixels,) = (tmp_path / "cache").glob("*.pixels")
    assert pixels.stat().st_size == 3 * 40 * 30 * (5 + 1) * 2  # uint16, as in the files
    # another range of values reads the same pixels
    ranged = {"value_range": (0, 1000)}
    assert_equal(
        views(replace(cached, **ranged), channels=(5, 1)),
        views(replace(config, **ranged), channels=(5, 1)),
    )
    assert list((tmp_path / "cache").glob("*.pixels")) == [pixels]


@pytest.mark.parametrize("channels", [(3, 3), (3, 1)])
@pytest.mark.parametrize("preprocess", ["resize_and_crop", "crop", "scale_width"])
@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_pairs_are_equal(tmp_path, channels, preprocess, direction, decoded):
    (tmp_path / "set" / "train").mkdir(parents=True)
    for index, (width, height) in enumerate([(61, 30), (301, 97), (300, 160), (58, 29)]):
        noise(index, width, height).save(tmp_path / "set" / "train" / f"{index}.png")
    config = config_for(tmp_path / "set", preprocess=preprocess, direction=direction)

    def pairs(config: DataConfig) -> list:
        dataset = open_paired_data(config, seed=1, channels=channels).dataset
        loader = paired_loader(dataset, batch_size=1, total_steps=12, jitter_steps=8)
        return [(batch.names, batch.a_BCHW, batch.b_BCHW) for batch in loader]

    expected = pairs(config)
    decoded.clear()
    assert_equal(pairs(replace(config, cache=str(tmp_path / "cache"))), expected)
    assert len(decoded) == 4 * len(set(channels))


@pytest.mark.parametrize("split", ["train/", ""])
def test_domains_are_equal(tmp_path, split, decoded):
    for place, name in enumerate(("cat", "dog", "owl")):
        write_all_kinds(tmp_path / "set" / split / name, seed=9 * place, width=61, height=50)
    config = DataConfig(root=str(tmp_path / "set"), size=24)

    def rows(config: DataConfig, workers: int = 0) -> list:
        dataset = open_domain_data(config, seed=1).dataset
        return [
            (b.names, b.x_BCHW, b.reference_BCHW, b.second_reference_BCHW, b.target_B)
            for b in domain_loader(dataset, batch_size=4, total_steps=12, workers=workers)
        ]

    expected = rows(config)
    decoded.clear()
    cached = replace(config, cache=str(tmp_path / "cache"))
    assert_equal(rows(cached), expected)
    assert len(decoded) == 21
    assert_equal(rows(cached, workers=2), expected)


def test_a_run_that_stops_and_goes_on_with_the_cache_ends_with_the_same_bytes(tmp_path, root):
    from patchkin.cli import main

    tiny = [
        *("train", "cut", "--data", str(root), "--size", "32", "--data.load-size", "36"),
        *("--ngf", "4", "--ndf", "4", "--blocks", "5", "--method.num-patches", "8"),
        *("--method.head-width", "8", "--device", "cpu", "--workers", "0"),
    ]
    assert main([*tiny, "--steps", "4", "--run-dir", str(tmp_path / "whole")]) == 0
    stopped = str(tmp_path / "stopped")
    assert (
        main([*tiny, "--steps", "2", "--schedule.decay-fraction", "0", "--run-dir", stopped]) == 0
    )
    cached = ["--cache", str(tmp_path / "cache"), "--schedule.decay-fraction", "0.5", "--change"]
    assert main(["train", "--resume", stopped, "--steps", "4", *cached]) == 0
    assert len(files_in(tmp_path / "cache")) == 2
    for name in ("model.safetensors", "optimizers.safetensors"):
        ours, theirs = (
            (tmp_path / run / "checkpoints" / "step_00000004" / name).read_bytes()
            for run in ("stopped", "whole")
        )
        assert ours == theirs, name


# What is stored


def test_large_pictures_are_stored_as_the_first_step_leaves_them(root, tmp_path):
    cached = config_for(root, cache=str(tmp_path / "cache"))
    views(cached, steps=1)
    index, pixels = files_in(tmp_path / "cache")
    forms = {
        f"{Path(row[0]).parent.name}/{Path(row[0]).name}": row[-1]
        for row in json.loads((tmp_path / "cache" / index).read_text())["body"]["entries"]
    }
    # load_size, kind, shape
    assert [form[:3] for form in forms["trainA/0.jpg"]] == [[None, "RGB", [31, 35, 3]]]
    assert [form[:3] for form in forms["trainB/2.png"]] == [
        [28, "RGB", [28, 28, 3]],
        [24, "RGB", [24, 24, 3]],
    ]
    assert [form[:3] for form in forms["trainB/5.png"]] == [[None, "uint16", [3, 102, 136]]]
    assert [form[:3] for form in forms["trainB/6.npy"]] == [[None, "float32", [3, 103, 135]]]
    total = sum(form[4] for row in forms.values() for form in row)
    assert (tmp_path / "cache" / pixels).stat().st_size == total


def test_a_picture_as_large_as_its_view_stays_as_it_is():
    step = FirstStep(preprocess="resize_and_crop", crop_size=256, load_sizes=(286, 256))
    assert list(step.forms(Image.new("RGB", (256, 256)))) == [None]
    wide = FirstStep(preprocess="scale_width_and_crop", crop_size=64, load_sizes=(100,))
    assert wide.forms(Image.new("L", (1000, 500)))[100].size == (100, 64)


def test_runs_with_other_first_steps_have_files_of_their_own(root, tmp_path, decoded):
    cache = str(tmp_path / "cache")
    for settings in ({}, {"load_size": 30}, {"preprocess": "crop"}, {"preprocess": "none"}):
        views(config_for(root, cache=cache, **settings), steps=1)
    assert len(list((tmp_path / "cache").glob("*.json"))) == 3  # the last two have none
    assert len(decoded) == 3 * 14


# Stale


def test_only_what_changed_is_decoded_again(root, tmp_path, decoded, caplog):
    cached = config_for(root, cache=str(tmp_path / "cache"))
    views(cached, steps=1)
    before = set(files_in(tmp_path / "cache"))
    decoded.clear()
    changed = root / "trainB" / "1.png"
    size = changed.stat().st_size
    noise(99, 139, 97).save(changed)
    assert changed.stat().st_size != size
    touched = root / "trainA" / "2.png"
    os.utime(touched, ns=(0, touched.stat().st_mtime_ns + 1))
    noise(98, 50, 40).save(root / "trainA" / "7.png")
    (root / "trainA" / "0.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        ours = views(cached)
    assert sorted(decoded) == ["trainA/2.png", "trainA/7.png", "trainB/1.png"]
    assert "decoding 3 of 14 images" in caplog.text
    assert_equal(ours, views(replace(cached, cache=None)))
    after = set(files_in(tmp_path / "cache"))
    assert len(after) == 2
    assert len(after - before) == 1  # other pixels; those of before are gone
    entries = json.loads(next((tmp_path / "cache").glob("*.json")).read_text())["body"]["entries"]
    assert not any(row[0].endswith("0.jpg") and "trainA" in row[0] for row in entries)


def test_fewer_images_need_no_new_cache_and_lose_none(root, tmp_path, decoded):
    cached = config_for(root, cache=str(tmp_path / "cache"))
    views(cached, steps=1)
    before = files_in(tmp_path / "cache")
    few = replace(cached, max_images=3)
    assert_equal(views(few, steps=6), views(replace(few, cache=None), steps=6))
    assert files_in(tmp_path / "cache") == before
    decoded.clear()
    noise(98, 50, 40).save(root / "trainA" / "00.png")
    views(few, steps=1)
    assert decoded == ["trainA/00.png"]
    views(cached, steps=1)
    assert decoded == ["trainA/00.png"]


def test_another_version_of_the_decoder_decodes_anew(root, tmp_path, decoded, monkeypatch, caplog):
    cached = config_for(root, cache=str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "decoder_versions", lambda: "Pillow 1")
        views(cached, steps=1)
    decoded.clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        views(cached, steps=1)
    assert len(decoded) == 14
    assert "was made by Pillow 1; here is Pillow" in caplog.messages[0]


# Damaged


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a bit of the pixels": (lambda index, pixels: _flip(pixels, -1), 1, "1 of 14 images in"),
    "the end is cut off": (
        lambda index, pixels: os.truncate(pixels, pixels.stat().st_size - 7 * 3 * 28 * 28),
        1,
        "1 of 14 images in",
    ),
    "nothing is left": (lambda index, pixels: os.truncate(pixels, 0), 14, "cannot be read"),
    "no pixels": (lambda index, pixels: pixels.unlink(), 14, "pixels that are not there"),
    "a digit of the index": (
        lambda index, pixels: index.write_text(index.read_text().replace("28,28", "14,56", 1)),
        14,
        "is damaged",
    ),
    "half an index": (
        lambda index, pixels: os.truncate(index, index.stat().st_size // 2),
        14,
        "is damaged",
    ),
    "another index": (lambda index, pixels: index.write_text("[1, 2]"), 14, "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_anew_with_one_line(root, tmp_path, decoded, caplog, damage):
    cached = config_for(root, cache=str(tmp_path / "cache"))
    expected = views(cached)
    index, pixels = (tmp_path / "cache" / name for name in files_in(tmp_path / "cache"))
    harm, number, message = DAMAGES[damage]
    harm(index, pixels)
    decoded.clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        ours = views(cached)
    assert_equal(ours, expected)
    assert len(decoded) == number
    complaint, *others = caplog.messages
    assert message in complaint
    assert complaint.endswith("Decoding anew.")
    assert [line.split()[0].rstrip(":") for line in others] == ["decoding", "decoded"]
    decoded.clear()
    assert_equal(views(cached), expected)
    assert decoded == []
    assert len(files_in(tmp_path / "cache")) == 2


def test_pixels_that_vanish_are_decoded_instead(root, tmp_path, decoded, caplog):
    """As in a worker that starts while another run makes the cache anew."""
    cached = config_for(root, cache=str(tmp_path / "cache"))
    dataset = open_training_data(cached, seed=1).dataset
    expected = dataset[Place(0, 3)]
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(dataset[Place(0, 3)].a_CHW, expected.a_CHW)  # still mapped
    decoded.clear()
    copy = pickle.loads(pickle.dumps(dataset))
    with caplog.at_level(logging.WARNING):
        item = copy[Place(0, 3)]
    assert torch.equal(item.a_CHW, expected.a_CHW)
    assert torch.equal(item.b_CHW, expected.b_CHW)
    assert len(decoded) == 2
    assert caplog.text.count("is gone") == 1


# A disk that cannot be written


@POSIX
@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_is_one_error_and_leaves_what_there_was(root, tmp_path, exists):
    cached = config_for(root, cache=str(tmp_path / "cache"))
    if exists:
        views(cached, steps=1)
        noise(99, 139, 97).save(root / "trainB" / "1.png")
    before = files_in(tmp_path / "cache") if exists else []
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            StorageError, match=r"Cannot write `.*pixels`: .*`--cache DIR`"
        ) as error:
            open_training_data(cached, seed=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert files_in(tmp_path / "cache") == before
    assert_equal(views(cached), views(replace(cached, cache=None)))


def test_a_file_where_the_folder_should_be_is_one_error(root, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(StorageError, match=r"Cannot \w+ `.*cache.*`: Not a directory"):
        open_training_data(config_for(root, cache=str(tmp_path / "cache")), seed=1)


READ_ONLY = """
import sys
from patchkin.data.config import DataConfig
from patchkin.data.loading import open_training_data
from patchkin.errors import StorageError
for load_size in (28, 30):
    config = DataConfig(root=sys.argv[1], size=24, load_size=load_size, cache=sys.argv[2])
    try:
        print(len(open_training_data(config, seed=1).dataset.read))
    except StorageError as error:
        print(error)
"""


@POSIX
def test_a_cache_on_a_read_only_disk_can_be_read_and_not_made(root, tmp_path):
    cache = tmp_path / "cache"
    views(config_for(root, cache=str(cache)), steps=1)
    script = f'mount --bind -o ro {cache} {cache} && exec "$@"'
    command = [sys.executable, "-c", READ_ONLY, str(root), str(cache)]
    result = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip("this machine does not let us mount a file system")
    there, missing = result.stdout.splitlines()
    assert there == "14"
    assert missing.startswith("Cannot write")
    assert "Read-only file system" in missing


# Several processes


def _open_and_count(config: DataConfig, start, queue, locks: bool) -> None:
    if not locks:
        store_module.alone_at = lambda *_: contextlib.nullcontext(False)
    count = 0
    read_image = decoded_module.read_image

    def counted(path, channels=None):
        nonlocal count
        count += 1
        return read_image(path, channels)

    decoded_module.read_image = counted
    start.wait()
    dataset = open_training_data(config, seed=1).dataset
    built = count
    values = [float(dataset[Place(0, item)].b_CHW.double().sum()) for item in range(7)]
    queue.put((built, count, values))


@POSIX
@pytest.mark.parametrize("locks", [True, False])
def test_processes_that_start_at_once_make_one_cache(root, tmp_path, locks):
    config = config_for(root, cache=str(tmp_path / "cache"))
    uncached = open_training_data(replace(config, cache=None), seed=1).dataset
    expected = [float(uncached[Place(0, item)].b_CHW.double().sum()) for item in range(7)]
    context = multiprocessing.get_context("fork")
    start, queue = context.Event(), context.Queue()
    processes = [
        context.Process(target=_open_and_count, args=(config, start, queue, locks)) for _ in "1234"
    ]
    for process in processes:
        process.start()
    start.set()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    built, read, values = zip(*results, strict=True)
    if locks:
        assert sorted(built) == [0, 0, 0, 14]
    assert built == read  # views decode nothing
    assert all(sums == expected for sums in values)
    assert_equal(views(config), views(replace(config, cache=None)))


def test_remains_of_a_killed_process_are_removed(root, tmp_path, monkeypatch):
    cached = config_for(root, cache=str(tmp_path / "cache"))
    views(cached, steps=1)
    index, _ = files_in(tmp_path / "cache")
    stem = index.removesuffix(".json")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: ended.pid)
        part = atomic._temporary_name()
    for name in (part, f"{stem}.0abc.pixels", "another-set.0abc.pixels"):
        (tmp_path / "cache" / name).write_bytes(b"half")
    noise(99, 139, 97).save(root / "trainB" / "1.png")
    views(cached, steps=1)
    assert len(files_in(tmp_path / "cache")) == 3
    assert (tmp_path / "cache" / "another-set.0abc.pixels").exists()


# Broken files


def test_broken_files_are_named_counted_and_left_out_as_without(tmp_path, make_images, caplog):
    root = tmp_path / "set"
    paths = make_images(root / "trainA", 200)
    make_images(root / "trainB", 3)
    paths[7].write_bytes(b"no image")
    config = DataConfig(root=str(root), size=12, load_size=16)
    cached = replace(config, cache=str(tmp_path / "cache"))
    expected = open_training_data(config, seed=1)
    ours = open_training_data(cached, seed=1)
    assert ours.broken == expected.broken
    assert [entry.path for entry in ours.broken] == [paths[7]]
    assert ours.domains == expected.domains
    again = open_training_data(cached, seed=1)
    assert again.broken == expected.broken
    resumed = open_training_data(cached, seed=1, known_broken=expected.broken)
    assert resumed.domains == expected.domains
    Image.new("RGB", (20, 20)).save(paths[7])  # mended
    assert open_training_data(cached, seed=1).broken == ()
    for path in paths[:3]:
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="3 of 200 images cannot be used, more than 1%") as refused:
        open_training_data(cached, seed=1)
    with pytest.raises(DataError) as without:
        open_training_data(config, seed=1)
    assert str(refused.value) == str(without.value)


def test_floats_out_of_range_are_broken_although_they_are_stored(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(2):
            np.save(tmp_path / name / f"{index}.npy", np.full((16, 16), 3.0, np.float32))
    config = DataConfig(
        source=str(tmp_path / "a"), target=str(tmp_path / "b"), size=12, preprocess="none",
        cache=str(tmp_path / "cache"),
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(DataError, match=r"holds float values from 3 to 3"):
            open_training_data(config, seed=0, channels=(1, 1))
    ranged = open_training_data(replace(config, value_range=(0, 4)), seed=0, channels=(1, 1))
    assert ranged.dataset[Place(0, 0)].a_CHW.unique().tolist() == [0.5]


# The setting


def test_the_flag(capsys):
    from patchkin.cli import main

    def printed(*arguments: str) -> str:
        assert main(["train", "cut", "--print-config", *arguments]) == 0
        (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("  cache:")]
        return line.split(": ")[1]

    assert printed() == "null"
    assert printed("--cache") == printed("--cache", "--size", "64") == AUTO
    assert printed("--cache", "there") == printed("--data.cache=there") == "there"
    assert printed("--data.cache", "None") == "null"
    assert main(["train", "cut", "--print-config", "--cache", "a", "b"]) == 2
    assert "expected at most one folder; got a b" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="`cache` must name a folder"):
        DataConfig(cache="")


def test_the_default_place_follows_the_environment(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PATCHKIN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "patchkin"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / "home" / ".cache" / "patchkin"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert cache_folder() == tmp_path / "users" / "patchkin"
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "own"))
    open_cache(config_for(root, cache=AUTO), [(root / "trainA" / "0.jpg", 3)])
    assert [name.split(".")[-1] for name in files_in(tmp_path / "own" / "decoded")] == [
        "json",
        "pixels",
    ]


def test_no_setting_no_cache(root):
    assert open_cache(config_for(root), [(root / "trainA" / "0.jpg", 3)]) is None
