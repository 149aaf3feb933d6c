"""Several domains: whose labels, in which order, drawn how."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from patchkin.data.check import check_data
from patchkin.data.config import DataConfig
from patchkin.data.datasets import Place
from patchkin.data.domains import (
    CROP_AREA,
    DomainDataset,
    crop_box,
    domain_images,
    domain_loader,
    domain_view,
    find_domain_files,
    open_domain_data,
)
from patchkin.data.toy import (
    COATS,
    Scene,
    cached_domain_toy,
    domain_mask_file,
    domain_truth_file,
    write_domain_toy,
)
from patchkin.errors import ConfigError, DataError
from patchkin.images import pillow_to_tensor

VALUES = {"bird": 30, "cat": 100, "dog": 170}
"""Mean grey of the first image of each domain; image i is i brighter."""


@pytest.fixture
def root(tmp_path, make_images):
    """Three domains of 8, 2 and 5 training images, two of each held out."""
    folder = tmp_path / "animals"
    for name, number in (("dog", 5), ("cat", 2), ("bird", 8)):
        make_images(folder / "train" / name, number, first=VALUES[name])
        make_images(folder / "val" / name, 2, first=VALUES[name] + 40)
    return folder


def config_for(root, **settings) -> DataConfig:
    return DataConfig(**({"root": str(root), "size": 12} | settings))


def dataset_for(root, *, seed=3, **settings) -> DomainDataset:
    config = config_for(root, **settings)
    return DomainDataset(find_domain_files(config).train, config, seed=seed)


# Files


def test_labels_are_the_places_of_the_sorted_folder_names(root):
    files = find_domain_files(config_for(root))
    assert files.names == ("bird", "cat", "dog")
    assert [len(paths) for paths in files.train] == [8, 2, 5]
    assert [len(paths) for paths in files.val] == [2, 2, 2]
    assert files.test == files.val
    for name, paths in zip(files.names, files.train, strict=True):
        assert {path.parent.name for path in paths} == {name}
        assert list(paths) == sorted(paths)


def test_stray_files_are_reported_and_shift_no_label(root, caplog):
    clean = find_domain_files(config_for(root))
    for name in ("train/aaa.png", "train/notes.txt", "val/0.png", "train/.DS_Store"):
        shutil.copy(root / "train" / "cat" / "000.png", root / name)
    (root / "val" / "zebra").mkdir()
    files = find_domain_files(config_for(root))
    assert replace(files, notes=()) == clean
    (note,) = files.notes
    for name in ("train/aaa.png", "train/notes.txt", "val/0.png", "val/zebra"):
        assert name in note
    assert "DS_Store" not in note
    with caplog.at_level(logging.WARNING):
        open_domain_data(config_for(root), seed=0)
    assert note in caplog.text


def test_folders_without_splits_and_folders_of_two_domains(root, unpaired):
    files = find_domain_files(config_for(root / "train"))
    assert [len(paths) for paths in files.train] == [8, 2, 5]
    assert files.val == files.test == ()
    assert "has no folder train" in files.notes[0]
    two = find_domain_files(config_for(unpaired))
    assert two.names == ("A", "B")
    assert [len(paths) for paths in two.train] == [5, 3]
    assert [len(paths) for paths in two.test] == [2, 1]


def test_max_images_cuts_each_domain(root):
    files = find_domain_files(config_for(root, max_images=3))
    assert [len(paths) for paths in files.train] == [3, 2, 3]
    assert [len(paths) for paths in files.val] == [2, 2, 2]


def test_missing_root(tmp_path):
    with pytest.raises(DataError, match=r"`.*nowhere` does not exist"):
        find_domain_files(config_for(tmp_path / "nowhere"))


def test_an_empty_domain(root):
    (root / "train" / "emu").mkdir()
    with pytest.raises(DataError, match="emu` holds no image"):
        find_domain_files(config_for(root))


def test_one_domain(root):
    for name in ("bird", "cat"):
        shutil.rmtree(root / "train" / name)
    with pytest.raises(DataError, match="has one domain, `dog`; at least two are needed"):
        find_domain_files(config_for(root))


def test_one_image_is_no_pair_of_references(root):
    (root / "train" / "cat" / "001.png").unlink()
    with pytest.raises(DataError, match=r"`cat` of .* has 1 training image; at least 2"):
        find_domain_files(config_for(root))


def test_a_domain_missing_from_a_split_offers_the_nearest_name(root):
    (root / "val" / "dog").rename(root / "val" / "dogs")
    with pytest.raises(DataError, match=r"val/dog` does not exist. Did you mean `dogs`"):
        find_domain_files(config_for(root))


def test_images_without_folders_of_domains(tmp_path, make_images):
    make_images(tmp_path / "set" / "train", 3)
    with pytest.raises(DataError, match="holds no domains; this method needs a folder for each"):
        find_domain_files(config_for(tmp_path / "set"))
    with pytest.raises(DataError, match="holds no domains; this method needs a folder for each"):
        find_domain_files(config_for(tmp_path / "set" / "train"))


@pytest.mark.parametrize(
    "setting",
    [
        {"direction": "BtoA"},
        {"load_size": 20},
        {"preprocess": "none"},
        {"pairing": "serial"},
    ],
)
def test_settings_of_two_domains_are_refused(root, setting):
    with pytest.raises(ConfigError, match=f"`{next(iter(setting))}` is a setting of two domains"):
        find_domain_files(config_for(root, **setting))


def test_two_folders_are_no_domains(root):
    with pytest.raises(DataError, match="any number of domains"):
        find_domain_files(DataConfig(source=str(root), target=str(root)))


def test_crop_probability_is_a_probability():
    with pytest.raises(ConfigError, match=r"`crop_probability` must be from 0 to 1; got 1.5"):
        DataConfig(crop_probability=1.5)


def test_broken_files_are_left_out_by_domain(root, make_images):
    make_images(root / "train" / "cat", 150, first=60, size=(8, 8))
    bad = root / "train" / "cat" / "007.png"
    bad.write_bytes(b"no image")
    data = open_domain_data(config_for(root), seed=0)
    assert [entry.path for entry in data.broken] == [bad]
    assert [len(paths) for paths in data.files.train] == [8, 149, 5]
    again = open_domain_data(config_for(root), seed=0, known_broken=data.broken)
    assert again.files.train == data.files.train
    (root / "train" / "dog" / "000.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="1 of 5 images cannot be used"):
        open_domain_data(config_for(root), seed=0)


def test_held_out_images_leave_training(root, make_images):
    shutil.rmtree(root / "val")
    for name, value in VALUES.items():
        make_images(root / "train" / name, 12, first=value)
    config = config_for(root, validation_images=3)
    data = open_domain_data(config, seed=0, validate=True)
    assert data.files == open_domain_data(config, seed=0, validate=True).files
    assert data.files.val != open_domain_data(config, seed=1, validate=True).files.val
    for train, val in zip(data.files.train, data.files.val, strict=True):
        assert (len(train), len(val)) == (9, 3)
        assert not set(train) & set(val)
    assert len(data.dataset) == 27
    shutil.rmtree(root / "train" / "cat")
    make_images(root / "train" / "cat", 7)
    with pytest.raises(DataError, match="`cat` has 7 training images, too few to hold some out"):
        open_domain_data(config, seed=0, validate=True)


# Draws


def test_every_domain_is_equally_likely_whatever_its_size(root):
    dataset = dataset_for(root)
    chosen = [dataset.choose(Place(epoch, item)) for epoch in range(100) for item in range(30)]
    assert len(dataset) == 15
    pairs = Counter((row.domain, row.target) for row in chosen)
    for count in pairs.values():  # 3000 / 9 each; standard deviation 17
        assert abs(count - 3000 / 9) < 70
    images = Counter(row.source for row in chosen)
    for path, count in images.items():
        expected = 1000 / len(dataset.train[("bird", "cat", "dog").index(path.parent.name)])
        assert abs(count - expected) < 5 * expected**0.5


def test_references_are_two_images_of_the_target_and_every_partner_occurs(root):
    dataset = dataset_for(root)
    partners: dict[str, set[str]] = {}
    for item in range(3000):
        row = dataset.choose(Place(0, item))
        assert row.source.parent.name == ("bird", "cat", "dog")[row.domain]
        for path in (row.reference, row.second_reference):
            assert path.parent.name == ("bird", "cat", "dog")[row.target]
        assert row.reference != row.second_reference
        partners.setdefault(str(row.reference), set()).add(str(row.second_reference))
    assert sorted(map(len, partners.values())) == [1] * 2 + [4] * 5 + [7] * 8


def test_a_batch_holds_the_images_of_its_labels(root):
    """The grey of an image tells where it comes from."""
    dataset = dataset_for(root, crop_probability=0.0)
    (batch,) = domain_loader(dataset, batch_size=40, total_steps=1)
    first = torch.tensor([VALUES[name] for name in ("bird", "cat", "dog")]) / 127.5 - 1
    for images_BCHW, labels_B in (
        (batch.x_BCHW, batch.domain_B),
        (batch.reference_BCHW, batch.target_B),
        (batch.second_reference_BCHW, batch.target_B),
    ):
        above_B = images_BCHW.mean(dim=(1, 2, 3)) - first[labels_B]
        assert float(above_B.min()) > -0.02
        assert float(above_B.max()) < 0.08
    assert batch.domain_B.dtype == batch.target_B.dtype == torch.int64
    assert len(batch) == len(batch.names) == 40
    assert batch.to("cpu").names == batch.names


def rows_of(batches):
    return [
        (
            batch.names,
            torch.cat([batch.x_BCHW, batch.reference_BCHW, batch.second_reference_BCHW], dim=1),
            torch.stack([batch.domain_B, batch.target_B], dim=1),
        )
        for batch in batches
    ]


def assert_equal(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1])
        assert torch.equal(ours[2], theirs[2])


def test_batches_do_not_depend_on_workers_or_resuming(root):
    dataset = dataset_for(root)
    whole = rows_of(domain_loader(dataset, batch_size=4, total_steps=7))
    assert len(whole) == 7
    assert_equal(rows_of(domain_loader(dataset, batch_size=4, total_steps=7, workers=2)), whole)
    for start in (1, 3, 5):  # within an epoch of 3 steps, and at its beginning
        resumed = domain_loader(dataset, batch_size=4, total_steps=7, start_step=start)
        assert_equal(rows_of(resumed), whole[start:])
    other = rows_of(domain_loader(dataset_for(root, seed=4), batch_size=4, total_steps=7))
    assert not any(torch.equal(a[1], b[1]) for a, b in zip(whole, other, strict=True))
    assert len({row[1].sum().item() for row in whole}) == 7


def test_two_processes_share_the_batches_of_one(root):
    dataset = dataset_for(root)
    whole = rows_of(domain_loader(dataset, batch_size=4, total_steps=5))
    shares = [
        rows_of(domain_loader(dataset, batch_size=2, total_steps=5, rank=rank, world_size=2))
        for rank in range(2)
    ]
    for step, (names, images, labels) in enumerate(whole):
        for rank in range(2):
            assert shares[rank][step][0] == names[rank::2]
            assert torch.equal(shares[rank][step][1], images[rank::2])
            assert torch.equal(shares[rank][step][2], labels[rank::2])
    with pytest.raises(ConfigError, match="`rank` must be from 0 to 1; got 2"):
        domain_loader(dataset, batch_size=2, total_steps=5, rank=2, world_size=2)


def test_a_set_smaller_than_a_batch_gives_other_draws_of_it(root):
    (batch,) = domain_loader(dataset_for(root), batch_size=64, total_steps=1)
    assert len({image.numpy().tobytes() for image in batch.x_BCHW}) > 35


def test_errors_reach_the_training_process_as_one_line(root):
    dataset = dataset_for(root)
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"\.png`: cannot be decoded"):
        list(domain_loader(dataset, batch_size=2, total_steps=1, workers=1))


# Views


def ramp(width: int, height: int) -> Image.Image:
    array = np.add.outer(np.arange(height) * 3, np.arange(width) * 2).astype(np.uint8)
    return Image.fromarray(np.stack([array, 255 - array, array // 2], axis=2))


def test_without_a_crop_the_whole_picture_is_resized():
    picture = ramp(30, 20)
    expected = picture.resize((12, 12), Image.Resampling.BILINEAR)
    seen = set()
    for seed in range(20):
        shown = domain_view(picture, np.random.default_rng(seed), size=12, crop_probability=0.0)
        assert shown in (expected, ImageOps.mirror(expected))
        seen.add(shown == expected)
        unflipped = domain_view(
            picture, np.random.default_rng(seed), size=12, crop_probability=0.0, flip=False
        )
        assert unflipped == expected
    assert seen == {True, False}


def test_a_crop_is_a_part_of_the_picture():
    """With one pixel per pixel and no flip: some box of it, resized."""
    picture = ramp(40, 30)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        shown = domain_view(picture, rng, size=12, crop_probability=1.0, flip=False)
        rng = np.random.default_rng(seed)
        rng.random(2)
        left, top, width, height = crop_box(40, 30, rng)
        box = (left, top, left + width, top + height)
        assert shown == picture.crop(box).resize((12, 12), Image.Resampling.BILINEAR)


@pytest.mark.parametrize(("width", "height"), [(256, 256), (97, 101), (100, 95)])
def test_crops_keep_most_of_the_area_at_nearly_its_ratio(width, height):
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(width, height, rng) for _ in range(2000)])
    left, top, w, h = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + w <= width).all()
    assert (top + h <= height).all()
    share = w * h / (width * height)
    assert share.min() > CROP_AREA[0] - 0.02
    assert share.max() <= 1
    assert (w / h).min() > 0.88
    assert (w / h).max() < 1.13
    assert share.mean() == pytest.approx(0.88, abs=0.015)  # shapes that do not fit are drawn again
    assert np.log(w / h).mean() == pytest.approx(0, abs=0.01 + abs(np.log(width / height)))
    assert len(set(left)) > 5
    assert len(set(top)) > 5


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(100, 10, (44, 0, 11, 10)), (10, 100, (0, 44, 10, 11)), (1, 1, (0, 0, 1, 1))],
)
def test_a_long_strip_is_cropped_in_the_middle(width, height, expected):
    assert crop_box(width, height, np.random.default_rng(0)) == expected


def test_half_of_the_views_are_crops():
    picture = ramp(64, 64)
    whole = (picture, ImageOps.mirror(picture))
    views = [domain_view(picture, np.random.default_rng(seed), size=64) for seed in range(400)]
    assert 160 < sum(view not in whole for view in views) < 240


def test_sixteen_bits_are_cropped_as_eight_are():
    picture = ramp(40, 30)
    tensor_CHW = pillow_to_tensor(picture)
    for seed in range(4):
        pillow = domain_view(picture, np.random.default_rng(seed), size=12, crop_probability=1.0)
        tensor = domain_view(tensor_CHW, np.random.default_rng(seed), size=12, crop_probability=1.0)
        torch.testing.assert_close(tensor, pillow_to_tensor(pillow), rtol=0, atol=1.5 / 127.5)


def test_evaluation_shows_whole_images_in_order(root):
    files = find_domain_files(config_for(root))
    images_BCHW = domain_images(files.val[2], size=12)
    for image_CHW, path in zip(images_BCHW, files.val[2], strict=True):
        with Image.open(path) as picture:
            expected = picture.convert("RGB").resize((12, 12), Image.Resampling.BILINEAR)
        assert torch.equal(image_CHW, pillow_to_tensor(expected))
    assert domain_images(files.val[0], size=12, channels=1).shape == (2, 1, 12, 12)


# The toy set


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    write_domain_toy(root, train=2, test=2, val=1)
    return root


def pixels(path, mode="RGB"):
    with Image.open(path) as image:
        return np.asarray(image.convert(mode)).astype(int)


def test_toy_domains_and_their_truths(toy):
    files = find_domain_files(config_for(toy))
    assert files.names == COATS
    assert files.notes == ()
    assert [len(split[0]) for split in (files.train, files.val, files.test)] == [2, 1, 2]
    for coat, paths in zip(files.names, files.test, strict=True):
        for path in paths:
            shown, mask = pixels(path), pixels(domain_mask_file(path), "L")
            assert set(np.unique(mask)) == {0, 255}
            for other in COATS:
                truth = domain_truth_file(path, other)
                assert truth.is_file() == (other != coat)
                if other != coat:
                    assert np.array_equal(shown[mask == 0], pixels(truth)[mask == 0])
                    assert np.abs(shown - pixels(truth))[mask > 0].mean() > 15


def test_no_toy_scene_is_shown_twice(toy, tmp_path):
    shown = [path.read_bytes() for path in toy.rglob("*.png") if "masks" not in str(path)]
    assert len(set(shown)) == len(shown) == 6 + 3 + 6 + 6 + 12
    write_domain_toy(tmp_path, train=1, test=1)
    for path in tmp_path.rglob("*.png"):
        again = toy / path.relative_to(tmp_path)
        assert not again.is_file() or again.read_bytes() == path.read_bytes()


def test_spots_are_many_dark_islands_and_stripes_are_bands():
    """Spots leave most of the coat light and repeat in both directions."""
    for seed in range(6):
        scene = Scene(128, seed)
        inside = np.asarray(scene.mask()) > 0
        spotted, plain = (
            np.asarray(image.convert("L")).astype(int)[inside]
            for image in (scene.spotted(), scene.plain())
        )
        middle = (spotted.max() + spotted.min()) / 2
        assert 0.2 < (spotted < middle).mean() < 0.75
        assert spotted.std() > plain.std()
    assert np.array_equal(np.asarray(scene.spotted()), np.asarray(scene.with_coat("spotted")))


def test_the_toy_of_a_method_of_several_domains(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "patchkin.data.toy.write_domain_toy",
        lambda root, *, size: write_domain_toy(root, size=size, train=2, test=1),
    )
    files = find_domain_files(DataConfig(size=32))
    assert files.names == COATS
    assert files.train[0][0].is_relative_to(cached_domain_toy(64))
    assert [path.name for path in tmp_path.iterdir()] == ["toy-domains-64-1"]


# `patchkin data check`


def test_check_knows_domains(root, toy):
    report = check_data(root)
    assert report.layout == "DomainFolders"
    assert report.ok
    assert {folder.folder: folder.num_images for folder in report.folders} == {
        **{"train/bird": 8, "train/cat": 2, "train/dog": 5},
        **{"val/bird": 2, "val/cat": 2, "val/dog": 2},
    }
    assert not any("held-out" in warning for warning in report.warnings)
    assert [folder.folder for folder in check_data(toy).folders][:3] == [
        f"train/{coat}" for coat in COATS
    ]


def test_check_of_domains_tells_what_is_wrong(root):
    shutil.rmtree(root / "val" / "dog")
    (root / "train" / "cat" / "001.png").unlink()
    shutil.copy(root / "train" / "cat" / "000.png", root / "train" / "lost.png")
    report = check_data(root)
    assert "val has no folder dog." in report.errors
    assert "train/cat has 1 usable images; at least 2 needed." in report.errors
    assert any("1 entries are in no folder of a domain" in line for line in report.warnings)
    assert any("train/lost.png" in line for line in report.warnings)


def test_check_of_domains_without_splits(root):
    report = check_data(root / "train")
    assert report.ok
    assert [folder.folder for folder in report.folders] == ["bird", "cat", "dog"]
    assert any("no held-out images (test/<domain>)" in warning for warning in report.warnings)
    shutil.rmtree(root / "train" / "cat")
    shutil.rmtree(root / "train" / "dog")
    assert check_data(root / "train").errors == [
        "There is one domain, bird; at least two are needed."
    ]
