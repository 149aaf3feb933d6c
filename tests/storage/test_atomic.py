"""Files appear whole or not at all, whatever fails."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from patchkin.errors import DataError, StorageError
from patchkin.images import is_image_file
from patchkin.storage import atomic
from patchkin.storage.atomic import (
    append_line,
    is_disk_trouble,
    new_file,
    new_folder,
    remove_folder,
    remove_remains,
    set_apart,
    storage_errors,
    sync_folder,
    sync_tree,
    write_bytes,
    write_json,
    write_text,
)

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and pipes")


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def failing(number: int, *, on: str, monkeypatch, errors=(errno.ENOSPC,)):
    """Let the n-th call of a function of `os` or `Path` fail; returns what counts the calls."""
    owner = Path if on in ("replace", "rename") else os
    original, calls = getattr(owner, on), []

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) == number:
            raise OSError(errors[0], os.strerror(errors[0]))
        return original(*arguments, **options)

    monkeypatch.setattr(owner, on, call)
    return calls


# Contents


def test_contents(tmp_path):
    write_bytes(tmp_path / "deep" / "er" / "a.bin", b"\0\r\n\xff")
    write_text(tmp_path / "b.txt", "Zürich\r\n")
    write_json(tmp_path / "c.json", {"a": [1, 2]})
    write_json(tmp_path / "d.json", {"a": 1}, indent=None)
    write_bytes(tmp_path / "empty", b"")
    assert (tmp_path / "deep" / "er" / "a.bin").read_bytes() == b"\0\r\n\xff"
    assert (tmp_path / "b.txt").read_bytes() == "Zürich\r\n".encode()
    assert (tmp_path / "c.json").read_text() == json.dumps({"a": [1, 2]}, indent=1)
    assert (tmp_path / "d.json").read_text() == '{"a": 1}'
    assert (tmp_path / "empty").read_bytes() == b""
    assert names(tmp_path) == [
        "b.txt", "c.json", "d.json", "deep", "deep/er", "deep/er/a.bin", "empty",
    ]  # fmt: skip


def test_a_large_content_is_written_in_several_calls(tmp_path, monkeypatch):
    """The operating system may take less than it is given."""
    original = os.write
    monkeypatch.setattr(os, "write", lambda fd, content: original(fd, content[:1000]))
    content = bytes(range(256)) * 40
    write_bytes(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == content


def test_the_order_is_write_sync_rename_sync(tmp_path, monkeypatch):
    """A name that is on the disk before its content is what a power cut makes an empty file of."""
    done = []
    write, fsync, replace = os.write, os.fsync, Path.replace

    def told(what, original):
        def call(first, *rest):
            kind = "folder" if what == "sync" and stat.S_ISDIR(os.fstat(first).st_mode) else ""
            done.append(f"{what} {kind}".strip())
            return original(first, *rest)

        return call

    monkeypatch.setattr(os, "write", told("write", write))
    monkeypatch.setattr(os, "fsync", told("sync", fsync))
    monkeypatch.setattr(Path, "replace", told("rename", replace))
    write_text(tmp_path / "a", "content")
    assert done == ["write", "sync", "rename", *(["sync folder"] if os.name == "posix" else [])]


def test_the_same_content_is_not_written_again(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, [1])
    before = path.stat()
    write_json(path, [1])
    with new_file(path) as part:
        part.write_text("[\n 1\n]")
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    write_json(path, [2])
    assert path.stat().st_ino != before.st_ino
    assert json.loads(path.read_text()) == [2]
    assert names(tmp_path) == ["a.json"]


# Failures


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("on", ["open", "write", "fsync", "replace"])
def test_a_failure_is_one_line_and_leaves_the_old_content(tmp_path, monkeypatch, on, error, exists):
    path = tmp_path / "config.yaml"
    if exists:
        path.write_text("old")
    with monkeypatch.context() as patch:
        calls = failing(1, on=on, monkeypatch=patch, errors=(error,))
        with pytest.raises(StorageError) as caught:
            write_text(path, "new")
    assert calls
    assert str(caught.value) == (
        f"Cannot write `{path}`: {os.strerror(error)}. What was saved before is untouched."
    )
    assert caught.value.errno == error
    assert path.read_text() == "old" if exists else not path.exists()
    assert names(tmp_path) == (["config.yaml"] if exists else [])
    write_text(path, "new")
    assert path.read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="folders are not synced")
@pytest.mark.parametrize(
    ("error", "fails"),
    [(errno.EIO, True), (errno.ENOSPC, True), (errno.EINVAL, False), (errno.ENOTSUP, False)],
)
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, error, fails):
    """Some file systems know no such thing; a disk that fails is told."""
    failing(2, on="fsync", monkeypatch=monkeypatch, errors=(error,))  # the first is of the file
    if fails:
        with pytest.raises(StorageError, match="Cannot write"):
            write_text(tmp_path / "a", "new")
    else:
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_where_folders_cannot_be_synced_nothing_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    sync_folder(tmp_path)


def write_half(path: Path, error: BaseException) -> None:
    with new_file(path, advice="Elsewhere.") as part:
        part.write_text("half")
        raise error


def test_what_a_writer_raises_passes_and_leaves_nothing(tmp_path):
    write_text(tmp_path / "a", "old")
    for error in (KeyboardInterrupt(), ValueError("ours"), DataError("for the user")):
        with pytest.raises(type(error)) as caught:
            write_half(tmp_path / "a", error)
        assert caught.value is error
    with pytest.raises(StorageError, match=r"Cannot write `.*a`: in several lines\. Elsewhere\."):
        write_half(tmp_path / "a", OSError("in several\n lines."))
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"Cannot write `.*a`"):
        write_text(tmp_path / "a", "content")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Cannot write `.*inside`"):
        write_text(tmp_path / "file" / "inside", "content")
    assert names(tmp_path) == ["a", "a/b", "file"]


def test_errors_of_ours_pass_unchanged():
    told = StorageError("told already")
    with pytest.raises(StorageError) as caught, storage_errors(Path("x")):
        raise told
    assert caught.value is told


# Names, permissions, links


def test_the_other_name_is_taken_for_nothing_and_fits_beside_the_longest(tmp_path):
    name = "ü" * 125 + ".json"  # 255 bytes
    write_text(tmp_path / name, "content")
    assert (tmp_path / name).read_text() == "content"
    with new_file(tmp_path / "picture.png") as part:
        assert part.parent == tmp_path
        assert not is_image_file(part)
        for pattern in ("*.png", "*.json*", "step_*", "[!.]*"):
            assert part not in list(tmp_path.glob(pattern))
        assert len(part.name) < 60
        part.write_bytes(b"x")


@POSIX
def test_permissions_are_those_of_any_new_file_or_of_the_one_before(tmp_path):
    (tmp_path / "other").touch()
    write_text(tmp_path / "a", "1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode
    (tmp_path / "a").chmod(0o440)
    write_text(tmp_path / "a", "2")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o440
    with new_file(tmp_path / "b") as part:
        part.unlink()
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))  # as some writers do
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "other").stat().st_mode


@POSIX
def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    for content in ("new", "newer"):  # to where nothing is yet, and to a file
        write_text(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "far" / "file").read_text() == content
    assert names(tmp_path) == ["far", "far/file", "link"]


@POSIX
def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "content")
    reader.join()
    assert read == ["content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_text(Path(os.devnull), "content")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


# Lines


def test_lines_are_added(tmp_path):
    for number in range(3):
        append_line(tmp_path / "log", f"line {number}")
    assert (tmp_path / "log").read_bytes() == b"line 0\nline 1\nline 2\n"


@pytest.mark.parametrize("on", ["write", "fsync"])
@pytest.mark.parametrize("half", [0, 4])
def test_a_line_that_fails_leaves_whole_lines(tmp_path, monkeypatch, on, half):
    path = tmp_path / "log"
    append_line(path, "first")
    original, calls = getattr(os, on), []

    def fail(descriptor, *content):
        calls.append(content)
        if on == "write" and len(calls) == 1 and half:
            return original(descriptor, content[0][:half])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, on, fail)
        with pytest.raises(StorageError, match=r"Cannot write `.*log`: No space left on device"):
            append_line(path, "second")
    assert path.read_bytes() == b"first\n"
    append_line(path, "third")
    assert path.read_bytes() == b"first\nthird\n"


def test_a_line_after_a_torn_one_is_whole(tmp_path):
    (tmp_path / "log").write_bytes(b'{"step": 1}\n{"st')
    append_line(tmp_path / "log", '{"step": 2}')
    assert (tmp_path / "log").read_bytes() == b'{"step": 1}\n{"st\n{"step": 2}\n'


# Folders


def test_a_folder_appears_with_all_that_is_in_it(tmp_path):
    with new_folder(tmp_path / "deep" / "set") as unfinished:
        assert unfinished.parent == tmp_path / "deep"
        write_bytes(unfinished / "a" / "1.png", b"1", synced=False)
        assert not (tmp_path / "deep" / "set").exists()
    assert names(tmp_path) == ["deep", "deep/set", "deep/set/a", "deep/set/a/1.png"]
    with (
        pytest.raises(StorageError, match=r"Cannot write `.*set`"),
        new_folder(tmp_path / "deep" / "set"),
    ):
        pass
    with new_folder(tmp_path / "deep" / "set", replace=True) as unfinished:
        (unfinished / "b").touch()
    assert names(tmp_path) == ["deep", "deep/set", "deep/set/b"]


def test_folders_above_a_new_one_are_made(tmp_path):
    with new_folder(tmp_path / "a" / "b" / "set"):
        pass
    with new_folder(tmp_path / "a" / "b" / "other"):  # where they are
        pass
    assert names(tmp_path) == ["a", "a/b", "a/b/other", "a/b/set"]


def write_folder(target: Path) -> None:
    with new_folder(target, replace=True) as unfinished:
        (unfinished / "new").write_text("new")
        (unfinished / "in").mkdir()
        (unfinished / "in" / "new").write_text("new")


FOLDER_STEPS = [*(("fsync", number) for number in range(1, 6)), ("rename", 1), ("rename", 2)]
"""Syncs of two files, their two folders, and the folder above; the old one away, the new one in."""


@POSIX
@pytest.mark.parametrize(("on", "number"), FOLDER_STEPS)
def test_a_folder_that_fails_leaves_the_old_one(tmp_path, monkeypatch, on, number):
    target = tmp_path / "step"
    target.mkdir()
    (target / "old").write_text("old")
    with monkeypatch.context() as patch:
        failing(number, on=on, monkeypatch=patch, errors=(errno.EIO,))
        with pytest.raises(StorageError, match=r"Cannot write `.*step`: Input/output error\."):
            write_folder(target)
    old, new = ["step", "step/old"], ["step", "step/in", "step/in/new", "step/new"]
    assert names(tmp_path) == (new if (on, number) == ("fsync", 5) else old)
    write_folder(target)
    assert names(tmp_path) == new


@POSIX
def test_a_folder_is_written_in_these_steps(tmp_path, monkeypatch):
    """Else the test above left some out."""
    target = tmp_path / "step"
    target.mkdir()
    calls = {on: failing(99, on=on, monkeypatch=monkeypatch) for on in ("fsync", "rename")}
    write_folder(target)
    assert [(on, n + 1) for on, made in calls.items() for n in range(len(made))] == FOLDER_STEPS


def write_toy_folder(target: Path) -> None:
    with new_folder(target, advice="Set another.") as unfinished:
        write_bytes(unfinished / "1.png", b"content", synced=False)


def test_what_fails_inside_is_told_of_the_folder(tmp_path, monkeypatch):
    failing(1, on="write", monkeypatch=monkeypatch)
    with pytest.raises(StorageError) as caught:
        write_toy_folder(tmp_path / "toy")
    assert str(caught.value) == (
        f"Cannot write `{tmp_path / 'toy'}`: No space left on device. Set another."
    )
    assert names(tmp_path) == []


def test_many_files_are_synced_at_once(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"), raising=False)
    with new_folder(tmp_path / "set") as unfinished:
        for number in range(atomic._MANY_FILES + 1):
            write_bytes(unfinished / str(number), b"x", synced=False)
    assert synced == (["all"] if sys.platform == "linux" else [])
    assert len(names(tmp_path)) == atomic._MANY_FILES + 2


def test_a_folder_is_removed(tmp_path, monkeypatch):
    for renamed in (True, False):
        (tmp_path / "old" / "er").mkdir(parents=True)
        if not renamed:
            failing(1, on="rename", monkeypatch=monkeypatch)
        remove_folder(tmp_path / "old")
        assert names(tmp_path) == []
    remove_folder(tmp_path / "nothing")


# Remains


@POSIX
def test_remains_of_processes_that_are_no_more_are_removed(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    ours = atomic._temporary_name()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: ended.pid)
        file, folder = atomic._temporary_name(), atomic._temporary_name()
        patch.setattr("socket.gethostname", lambda: "elsewhere")
        of_others = atomic._temporary_name()
    kept = {ours, of_others, "a.part", ".patchkin-x.part"}
    for name in {file, *kept}:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / folder / "in").mkdir(parents=True)
    remove_remains(tmp_path)
    assert set(names(tmp_path)) == kept
    remove_remains(tmp_path / "nothing")


# Details


def test_which_errors_stop_the_next_writes_too():
    told = {name for name in errno.errorcode if is_disk_trouble(OSError(name, ""))}
    assert told == {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
    assert not is_disk_trouble(ValueError(errno.ENOSPC))


def test_a_reason_without_words_of_the_system():
    for error, reason in (
        (OSError("no\n room.."), "no room"),
        (OSError(5, None), "[Errno 5] None"),
    ):
        with pytest.raises(StorageError) as caught, storage_errors(Path("x"), advice="Go on."):
            raise error
        assert str(caught.value) == f"Cannot write `x`: {reason}. Go on."


@pytest.mark.parametrize("length", [1, 1 << 20, (1 << 20) + 1])
def test_a_last_byte_that_differs_is_written(tmp_path, length):
    path, old, new = tmp_path / "a", bytes(length), bytes(length - 1) + b"x"
    write_bytes(path, old)
    with new_file(path) as part:
        part.write_bytes(new)
    assert path.read_bytes() == new
    write_bytes(path, old)
    assert path.read_bytes() == old


def test_what_is_not_to_be_synced_is_not(tmp_path, monkeypatch):
    synced = failing(99, on="fsync", monkeypatch=monkeypatch)
    write_bytes(tmp_path / "a", b"1", synced=False)
    with new_file(tmp_path / "b", synced=False) as part:
        part.touch()
    append_line(tmp_path / "c", "1", synced=False)
    assert not synced
    append_line(tmp_path / "c", "2")
    assert len(synced) == 1
    assert (tmp_path / "c").read_text() == "1\n2\n"


@POSIX
def test_a_log_is_as_readable_as_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    append_line(tmp_path / "log", "1")
    assert (tmp_path / "log").stat().st_mode == (tmp_path / "other").stat().st_mode


@POSIX
def test_up_to_64_files_are_synced_one_by_one(tmp_path, monkeypatch):
    """What a link names belongs to somebody else."""
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"), raising=False)
    monkeypatch.setattr(os, "fsync", lambda d: synced.append(os.fstat(d).st_ino) or fsync(d))
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").touch()
    folder = tmp_path / "set"
    (folder / "in").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "far" / "file")
    (folder / "folder").symlink_to(tmp_path / "far")
    files = [folder / "in" / str(number) for number in range(64)]
    for file in files:
        file.touch()
    sync_tree(folder)
    assert sorted(synced) == sorted(p.stat().st_ino for p in (*files, folder / "in", folder))
    (folder / "one more").touch()
    synced.clear()
    sync_tree(folder)
    assert synced == ["all"] if sys.platform == "linux" else "all" not in synced


@POSIX
def test_a_process_of_another_user_is_alive(monkeypatch):
    def refuse(process, number):
        assert number == 0
        raise PermissionError(errno.EPERM, "")

    assert atomic._is_alive(os.getpid())
    monkeypatch.setattr(os, "kill", refuse)
    assert atomic._is_alive(1)
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        patch.setattr(os, "kill", lambda *_: asked.append("Ctrl-C"))
        alive = atomic._is_alive(1)
    assert alive
    assert not asked


def _make_folder(path):
    with new_folder(path):
        pass


@POSIX
@pytest.mark.parametrize("write", [lambda path: write_bytes(path, b"new"), _make_folder])
def test_what_could_not_be_removed_goes_with_the_next_write(tmp_path, monkeypatch, write):
    """Of a process that is no more: a disk that failed for good let it remove nothing."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: ended.pid)
        file, folder = atomic._temporary_name(), atomic._temporary_name()
    (tmp_path / file).write_bytes(b"half")
    (tmp_path / folder).mkdir()
    write(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_what_a_library_writes_beside_its_file_goes_with_it(tmp_path):
    """safetensors has names such as `.tmpA1b2C3`, which a killed process would leave for ever."""

    def written(content):
        with set_apart(tmp_path / "a") as part:
            assert atomic._TEMPORARY.fullmatch(
                part.parent.name
            )  # so that `remove_remains` finds it
            part.with_name(".tmpA1b2C3").write_bytes(b"half")
            if content is None:
                raise OSError(errno.ENOSPC, "full")
            part.write_bytes(content)

    with pytest.raises(OSError, match="full"):
        written(None)
    assert names(tmp_path) == []
    written(b"old")
    with pytest.raises(OSError, match="full"):
        written(None)
    assert (tmp_path / "a").read_bytes() == b"old"
    written(b"new")
    assert (names(tmp_path), (tmp_path / "a").read_bytes()) == (["a"], b"new")
