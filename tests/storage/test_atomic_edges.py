"""Files and folders that appear whole: what goes wrong beside the writing."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import pytest

from patchkin.errors import StorageError
from patchkin.storage import atomic
from patchkin.storage.atomic import put_in_place, remove_remains, set_apart, write_bytes, write_json


def refuse(*_, **__):
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def test_json_that_cannot_be_written_has_the_advice_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", refuse)
    for options, end in (
        ({}, "What was saved before is untouched."),
        ({"advice": "Choose another folder."}, "Choose another folder."),
    ):
        with pytest.raises(StorageError) as caught:
            write_json(tmp_path / "a.json", {"a": 1}, **options)
        assert str(caught.value) == (
            f"Cannot write `{tmp_path / 'a.json'}`: {os.strerror(errno.EBUSY)}. {end}"
        )


def test_a_folder_that_cannot_be_removed_spoils_no_file(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, set_apart(tmp_path / "a") as part:
        part.write_text("whole")
        (part.parent / "beside").touch()
        patch.setattr(os, "rmdir", refuse)
        patch.setattr(os, "unlink", refuse)
    assert (tmp_path / "a").read_text() == "whole"


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_remains_that_another_process_removes_meanwhile_do_not_keep_the_others(
    tmp_path, monkeypatch, make
):
    for number in range(3):
        make(tmp_path / f".patchkin-{atomic._host()}-{number + 1}-0000000{number}.part")
    first, *_ = tmp_path.iterdir()

    def is_alive(process):
        if first.is_dir():
            first.rmdir()
        first.unlink(missing_ok=True)
        return False

    monkeypatch.setattr(atomic, "_is_alive", is_alive)
    remove_remains(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_looked_through_once_for_many_files(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(atomic, "remove_remains", looked.append)
    for name in ("a/1", "a/2", "b/1", "a/3"):
        write_bytes(tmp_path / name, b"new")
    assert looked == [tmp_path / "a", tmp_path / "b"]


def test_large_files_are_compared_piece_by_piece(tmp_path):
    """Those of 8 MiB with less memory than one of them has."""
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(bytes(8 << 20))
    tracemalloc.start()
    try:
        put_in_place(tmp_path / "new", tmp_path / "old")
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 8 << 20
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]


def test_remains_that_cannot_be_removed_do_not_keep_the_others(tmp_path, monkeypatch):
    for number in range(3):
        (tmp_path / f".patchkin-{atomic._host()}-{number + 1}-0000000{number}.part").mkdir()
    first, *_ = tmp_path.iterdir()
    original = os.rmdir

    def refuse_one(path, **options):
        return refuse() if Path(path).name == first.name else original(path, **options)

    monkeypatch.setattr(os, "rmdir", refuse_one)
    monkeypatch.setattr(atomic, "_is_alive", lambda _: False)
    remove_remains(tmp_path)
    assert list(tmp_path.iterdir()) == [first]
