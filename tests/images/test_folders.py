from __future__ import annotations

import os
from pathlib import Path

import pytest

from patchkin.errors import DataError
from patchkin.images import folders, picture
from patchkin.images.folders import find_images
from patchkin.images.heic import HEIC_SUFFIXES


def _make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def _found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_images(root).files]


def test_what_networks_macs_and_bins_leave_beside_images_is_no_image(tmp_path):
    _make(
        tmp_path,
        *("a.jpg", "sub/b.png", "@eaDir/a.jpg/THUMB.jpg", "sub/@eaDir/b.png", "sub/Thumbs/b.png"),
        *(".AppleDouble/a.jpg", "__MACOSX/a.jpg", ".Trash-1000/files/c.png", "$RECYCLE.BIN/c.png"),
        *("._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"),
    )
    found = find_images(tmp_path)
    assert _found(tmp_path) == ["a.jpg", "sub/b.png"]
    assert (found.ignored, found.note) == ({}, "")


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path):
    _make(tmp_path, "0.png/inside.png", "1.png")
    assert _found(tmp_path) == ["0.png/inside.png", "1.png"]


def test_linked_folders_are_searched(tmp_path):
    _make(tmp_path, "elsewhere/x.png", "elsewhere/deep/y.png", "set/a.png")
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set" / "z.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    assert _found(tmp_path / "set") == ["a.png", "link/deep/y.png", "link/x.png", "z.png"]


def test_links_in_a_circle_end_and_count_every_image_once(tmp_path):
    _make(tmp_path, "set/a.png", "set/sub/b.png", "set/sub/c.png", "other/d.png")
    for place, target in (
        ("set/sub/up", "set"),
        ("set/0first", "set/sub"),
        ("set/other", "other"),
        ("other/back", "set"),
    ):
        (tmp_path / place).symlink_to(tmp_path / target, target_is_directory=True)
    (tmp_path / "set" / "itself.png").symlink_to(tmp_path / "set" / "itself.png")
    expected = ["a.png", "itself.png", "other/d.png", "sub/b.png", "sub/c.png"]
    assert _found(tmp_path / "set") == expected, "a real place comes before a link to it"


def test_a_link_that_leads_nowhere_is_missed_and_not_passed_over(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    assert _found(tmp_path) == ["gone.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert find_images(tmp_path).note == "0 images of 1 files; ignored: 1 .png"


def test_a_link_to_a_device_is_no_image(tmp_path):
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    assert find_images(tmp_path).note == "0 images of 1 files; ignored: 1 .png"


def test_ignored_files_are_counted_by_suffix(tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "IMAGE_SUFFIXES", picture.IMAGE_SUFFIXES - set(HEIC_SUFFIXES))
    _make(tmp_path, "a.png", "b.png", "c.jfif", "x.mkv", "y.pdf", "z.PDF", "LICENSE")
    _make(tmp_path, *(f"phone/{index}.heic" for index in range(100)))
    assert find_images(tmp_path).note == (
        "3 images of 107 files; ignored: 100 .heic (install patchkin[heic]), "
        "2 .pdf (export its pages), 1 .mkv (video: name it itself, or take out its frames), "
        "1 without suffix"
    )


def test_many_kinds_are_summed(tmp_path):
    _make(tmp_path, *(f"a.{letter}" for letter in "bcdefghij"))
    assert find_images(tmp_path).note.endswith("1 .e, 1 .f, 1 .g, 3 of other kinds")


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    _make(tmp_path, "a.png", "closed/b.png")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(folders.os, "scandir", refusing)
    with pytest.raises(DataError) as caught:
        find_images(tmp_path)
    closed = tmp_path / "closed"
    assert str(caught.value) == (
        f"The folder `{closed}` cannot be read: Permission denied. Allow it, or move it elsewhere."
    )
