from __future__ import annotations

import shutil

import pytest

from patchkin.data.config import DataConfig
from patchkin.data.layouts import (
    DomainFolders,
    PairedImages,
    SingleImages,
    TwoFolders,
    UnpairedFolders,
    detect_layout,
    find_domains,
    image_files,
)
from patchkin.errors import DataError
from patchkin.images import picture


def _names(files):
    return [path.name for path in files]


def test_unpaired_folders(unpaired):
    domains = find_domains(DataConfig(root=str(unpaired)))
    assert detect_layout(unpaired) == UnpairedFolders(unpaired)
    assert _names(domains.train_a) == [f"{i:03d}.png" for i in range(5)]
    assert [len(files) for files in (domains.train_b, domains.test_a, domains.test_b)] == [3, 2, 1]
    assert domains.val_a == ()


def test_direction_exchanges_all_splits(unpaired):
    forward = find_domains(DataConfig(root=str(unpaired)))
    backward = find_domains(DataConfig(root=str(unpaired), direction="BtoA"))
    assert backward.train_a == forward.train_b
    assert backward.test_b == forward.test_a
    assert backward.reversed() == forward


def test_test_split_falls_back_to_validation(unpaired, make_images):
    shutil.rmtree(unpaired / "testA")
    make_images(unpaired / "valA", 4)
    domains = find_domains(DataConfig(root=str(unpaired)))
    assert domains.test_a == domains.val_a != ()
    assert domains.test_b[0].parent.name == "testB"


def test_folders_that_only_begin_like_a_split_are_no_domain(unpaired, make_images):
    make_images(unpaired / "valA_masks", 4)
    make_images(unpaired / "testA_true", 4)
    domains = find_domains(DataConfig(root=str(unpaired)))
    assert domains.val_a == ()
    assert len(domains.test_a) == 2


def test_two_folders_anywhere(tmp_path, make_images):
    source, target = make_images(tmp_path / "x", 2), make_images(tmp_path / "y", 3)
    config = DataConfig(source=str(tmp_path / "x"), target=str(tmp_path / "y"))
    domains = find_domains(config)
    assert (list(domains.train_a), list(domains.train_b)) == (source, target)
    assert domains.test_a == ()


def test_files_are_found_recursively_sorted_by_path_without_regard_to_case(tmp_path, make_images):
    (path,) = make_images(tmp_path / "d", 1)
    for name in (
        "b/z.PNG",
        "a/Y.JPeG",
        "B.png",
        "b/.hidden.png",
        ".cache/x.png",
        "__MACOSX/._q.png",
    ):
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "d" / name)
    (tmp_path / "d" / "notes.txt").write_text("")
    found = [file.relative_to(tmp_path / "d").as_posix() for file in image_files(tmp_path / "d")]
    assert found == ["000.png", "B.png", "a/Y.JPeG", "b/z.PNG"]


def test_max_images_cuts_training_after_sorting(unpaired):
    domains = find_domains(DataConfig(root=str(unpaired), max_images=2))
    assert _names(domains.train_a) == ["000.png", "001.png"]
    assert len(domains.train_b) == len(domains.test_a) == 2


@pytest.mark.parametrize(
    ("files", "layout", "words"),
    [
        (("trainA/a.png", "trainB/b.png"), SingleImages, "one image per domain"),
        (("train/a.png", "train/b.png"), PairedImages, "side-by-side pairs"),
        (("train/cat/a.png", "train/dog/b.png"), DomainFolders, "several domains"),
    ],
)
def test_other_layouts_are_recognised_and_refused_by_name(
    tmp_path, make_images, files, layout, words
):
    for name in files:
        (source,) = make_images(tmp_path / "spare", 1)
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "set" / name)
    assert isinstance(detect_layout(tmp_path / "set"), layout)
    with pytest.raises(DataError, match=f"{words}.*not supported yet for this method"):
        find_domains(DataConfig(root=str(tmp_path / "set")))


def _lines(config: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        find_domains(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_root_offers_the_nearest_name(unpaired):
    message = _lines(DataConfig(root=str(unpaired.parent / "sets")))
    assert message == f"`{unpaired.parent / 'sets'}` does not exist. Did you mean `set`?"


def test_missing_parent_is_named(tmp_path):
    message = _lines(DataConfig(root=str(tmp_path / "no" / "set")))
    assert message.endswith(f"does not exist, nor does `{tmp_path / 'no'}`.")


def test_root_that_is_a_file(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"")
    assert "is a file; expected a folder" in _lines(DataConfig(root=str(tmp_path / "set.zip")))


def test_missing_domain_offers_the_nearest_name(unpaired):
    (unpaired / "trainB").rename(unpaired / "trainBB")
    message = _lines(DataConfig(root=str(unpaired)))
    assert message == f"`{unpaired / 'trainB'}` is missing beside `trainA`. Did you mean `trainBB`?"


@pytest.mark.parametrize(
    ("spellings", "note"),
    [
        (("TrainA", "trainB"), "TrainA is read as trainA."),
        (("train_A", "train-b"), "train_A is read as trainA, train-b is read as trainB."),
        (("train/A", "train/B"), "train/A is read as trainA, train/B is read as trainB."),
        (("Train/a", "trainB"), "Train/a is read as trainA."),
    ],
)
def test_other_spellings_are_read_and_said(unpaired, spellings, note):
    expected = find_domains(DataConfig(root=str(unpaired)))
    assert expected.notes == ()
    for domain, name in zip("AB", spellings, strict=True):
        (unpaired / name).parent.mkdir(exist_ok=True)
        (unpaired / f"train{domain}").rename(unpaired / name)
    domains = find_domains(DataConfig(root=str(unpaired)))
    assert _names(domains.train_a) == _names(expected.train_a)
    assert _names(domains.train_b) == _names(expected.train_b)
    assert domains.test_a == expected.test_a
    assert domains.notes == (f"`{unpaired}`: {note}",)


def test_the_spelling_of_the_layout_comes_first_and_two_others_are_no_answer(unpaired, make_images):
    make_images(unpaired / "train_A", 2)
    assert len(find_domains(DataConfig(root=str(unpaired))).train_a) == 5
    (unpaired / "trainA").rename(unpaired / "TrainA")
    message = _lines(DataConfig(root=str(unpaired)))
    assert message == f"`{unpaired}` has `TrainA` and `train_A`; name the one that counts `trainA`."


def test_folders_a_and_b_are_two_folders(tmp_path, make_images):
    make_images(tmp_path / "A", 2)
    make_images(tmp_path / "b", 3)
    assert detect_layout(tmp_path) == TwoFolders(tmp_path / "A", tmp_path / "b")
    domains = find_domains(DataConfig(root=str(tmp_path)))
    assert [len(files) for files in (domains.train_a, domains.train_b)] == [2, 3]


def test_domains_without_a_direction_are_answered_with_the_flags(tmp_path, make_images):
    make_images(tmp_path / "train" / "cat", 2)
    make_images(tmp_path / "train" / "dog", 2)
    train = tmp_path / "train"
    assert f"--data.source {train / 'cat'} --data.target {train / 'dog'}" in _lines(
        DataConfig(root=str(tmp_path))
    )


def test_what_is_ignored_is_counted_and_named(unpaired, monkeypatch):
    monkeypatch.setattr(picture, "IMAGE_SUFFIXES", picture.IMAGE_SUFFIXES - {".heic"})
    for index in range(100):
        (unpaired / "trainA" / f"{index}.HEIC").write_bytes(b"")
    (unpaired / "trainA" / "Thumbs.db").write_bytes(b"")
    domains = find_domains(DataConfig(root=str(unpaired)))
    note = "5 images of 105 files; ignored: 100 .heic (install patchkin[heic])"
    assert domains.notes == (f"`{unpaired / 'trainA'}`: {note}",)


def test_unknown_layout_says_what_is_expected_and_found(tmp_path, make_images):
    make_images(tmp_path / "cats", 2)
    message = _lines(DataConfig(root=str(tmp_path)))
    assert "needs the folders trainA and trainB" in message
    assert "It has cats." in message
    assert "--data.source DIR" in message


def test_empty_domain(unpaired):
    shutil.rmtree(unpaired / "trainB")
    (unpaired / "trainB").mkdir()
    (unpaired / "trainB" / "scan.pdf").write_bytes(b"")
    message = _lines(DataConfig(root=str(unpaired)))
    assert f"`{unpaired / 'trainB'}` holds no image (looked for .avif" in message
    assert message.endswith("It has 1 .pdf (export its pages).")


def test_one_image_is_not_enough(unpaired):
    for path in image_files(unpaired / "trainB")[1:]:
        path.unlink()
    message = _lines(DataConfig(root=str(unpaired)))
    assert "trainB` gives 1 image; unpaired training needs at least 2 per domain" in message
    assert "single-image layout" in message


def test_toy_is_rendered_once_into_the_cache(tmp_path, monkeypatch):
    from patchkin.data import toy

    calls = []

    def write(root, *, size):
        calls.append(size)
        toy_write(root, size=size, train=2, test=1)

    toy_write = toy.write_toy
    monkeypatch.setattr(toy, "write_toy", write)
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))
    first = find_domains(DataConfig(size=32))
    assert find_domains(DataConfig(size=64)) == first
    assert calls == [64], "smaller sizes use the smallest set, rendered once"
    assert [len(files) for files in (first.train_a, first.val_b, first.test_a)] == [2, 1, 1]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"toy-64-{toy.TOY_VERSION}"]
