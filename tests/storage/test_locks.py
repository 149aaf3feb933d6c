"""One writer at a time; a lock is free when the process that held it is no more."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from patchkin.data import folders
from patchkin.data.folders import made_once
from patchkin.errors import InUseError, StorageError
from patchkin.storage import atomic, locks
from patchkin.storage.locks import FolderLock, alone_at, give_all_back, lock_file

POSIX = pytest.mark.skipif(os.name != "posix", reason="forks")
PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(locks, "_told", locks._told.copy())


@contextlib.contextmanager
def another_process(work, *arguments):
    """A forked process; ended by force at the end."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def hold(folder: Path, held, release=None) -> None:
    """Take the lock of a folder, say so, and keep it."""
    lock = FolderLock(folder)
    lock.acquire()
    held.set()
    if release is not None:
        release.wait(PATIENCE_SECONDS)
        lock.release()
    else:
        time.sleep(PATIENCE_SECONDS)


def hold_with_a_child(folder: Path, held) -> None:
    """Take the lock, and fork a child that outlives us, as a loader's worker may."""
    lock = FolderLock(folder)
    lock.acquire()
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    held.set()
    time.sleep(PATIENCE_SECONDS)
    lock.release()


def event():
    return multiprocessing.get_context("fork").Event()


# Of a folder


def test_a_folder_has_one_writer(tmp_path):
    with FolderLock(tmp_path) as first:
        first.acquire()  # once more: it is ours
        second = FolderLock(tmp_path, remedy="choose another --run-dir")
        with pytest.raises(InUseError) as caught:
            second.acquire()
        message = str(caught.value)
        assert message.startswith(f"`{tmp_path}` is in use: process {os.getpid()} on ")
        assert message.endswith("Wait until it is done, end it, or choose another --run-dir.")
        assert "\n" not in message
        second.release()  # what it never had
        with pytest.raises(InUseError):
            second.acquire()
    assert list(tmp_path.iterdir()) == []
    with second:
        assert (tmp_path / ".lock").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_locked_when_it_is(tmp_path):
    folder = tmp_path / "run"
    with FolderLock(folder) as lock:
        assert not folder.exists()
        folder.mkdir()
        lock.acquire()
        with pytest.raises(InUseError), FolderLock(folder):
            pass


def test_without_its_owners_name_a_lock_holds_too(tmp_path):
    with FolderLock(tmp_path):
        for content in ("", "no json", "[]", '{"process": 1}'):
            (tmp_path / ".lock.owner").write_text(content)
            with pytest.raises(InUseError, match="in use: another process writes there"):
                FolderLock(tmp_path).acquire()
        (tmp_path / ".lock.owner").unlink()
        with pytest.raises(InUseError, match="in use: another process writes there"):
            FolderLock(tmp_path).acquire()


@POSIX
@pytest.mark.parametrize("holder", [hold, hold_with_a_child])
def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path, holder):
    held = event()
    with another_process(holder, tmp_path, held) as process:
        assert held.wait(PATIENCE_SECONDS)
        with pytest.raises(InUseError, match=f"process {process.pid} on"):
            FolderLock(tmp_path).acquire()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert (tmp_path / ".lock.owner").is_file()
        with FolderLock(tmp_path), pytest.raises(InUseError, match=f"process {os.getpid()} on"):
            FolderLock(tmp_path).acquire()
    assert list(tmp_path.iterdir()) == []


@POSIX
def test_what_a_killed_process_left_unfinished_is_removed_with_its_lock(tmp_path):
    def work():
        with locks.storage_errors(tmp_path), folders.new_folder(tmp_path / "set"):
            os._exit(1)

    with another_process(work) as process:
        process.join()
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    with FolderLock(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".lock.owner"]


@POSIX
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    original = os.open

    def refuse(path, flags, *rest, **options):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return original(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"Cannot write `.*\.lock`: Permission denied\."):
        FolderLock(tmp_path).acquire()
    with alone_at(tmp_path / "set", "does the same") as alone:  # the write itself says it
        assert not alone


# File systems without locks


@POSIX
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_this_is_said_once_and_the_work_goes_on(tmp_path, monkeypatch, caplog, error):
    import fcntl

    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with FolderLock(tmp_path) as first, FolderLock(tmp_path):
                first.acquire()
        with alone_at(tmp_path / "set", "does the same") as alone:
            assert alone is False
    (message,) = caplog.messages
    assert message.startswith(f"`{tmp_path}` is on a file system without locks (")
    assert os.strerror(error) in message


# Waiting


def test_where_the_lock_lies():
    assert lock_file(Path("a/set.zip")) == Path("a/.set.zip.lock")
    longest = lock_file(Path("a") / ("ü" * 125 + ".json"))
    assert longest.parent == Path("a")
    assert len(longest.name) < 60
    assert longest != lock_file(Path("a") / ("ü" * 124 + "o.json"))


def test_the_second_waits_and_says_for_whom(tmp_path, caplog):
    began, order = threading.Event(), []

    def second():
        began.set()
        with alone_at(tmp_path / "new" / "set", "downloads set"):
            order.append("second")

    thread = threading.Thread(target=second)
    with caplog.at_level(logging.WARNING):
        with alone_at(tmp_path / "new" / "set", "downloads set") as alone:
            assert alone
            thread.start()
            began.wait()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not caplog.messages and time.monotonic() < deadline:
                time.sleep(0.01)
            order.append("first")
        thread.join()
    (message,) = caplog.messages
    assert message.startswith(f"waiting for process {os.getpid()} on ")
    assert message.endswith(", which downloads set")
    assert order == ["first", "second"]
    assert list((tmp_path / "new").iterdir()) == []


@POSIX
def test_what_is_made_once_is_made_once(tmp_path, monkeypatch):
    """By four processes that start together."""
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path))
    start = event()

    def make(folder):
        with (tmp_path / "made").open("a") as file:
            file.write("x")
        time.sleep(0.2)
        (folder / "content").write_text("content")

    def work():
        start.wait(PATIENCE_SECONDS)
        root = made_once("set", make)
        os._exit(0 if (root / "content").read_text() == "content" else 1)

    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(another_process(work)) for _ in range(4)]
        start.set()
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "made").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "set"]


def test_what_fails_to_be_made_is_made_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path))

    def fail(folder):
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError) as caught:
        made_once("set", fail)
    assert str(caught.value) == (
        f"Cannot write `{tmp_path / 'set'}`: No space left on device. "
        "Set PATCHKIN_CACHE to another folder."
    )
    assert list(tmp_path.iterdir()) == []
    assert list(made_once("set", lambda folder: (folder / "whole").touch()).iterdir())


def test_without_locks_the_faster_one_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path))
    monkeypatch.setattr(folders, "alone_at", lambda *_: contextlib.nullcontext(False))

    def make(folder):
        (folder / "slow").touch()
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "fast").touch()

    assert [path.name for path in made_once("set", make).iterdir()] == ["fast"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_process_that_ends_without_ado_leaves_no_lock(tmp_path):
    with FolderLock(tmp_path):
        assert (tmp_path / ".lock").exists()
        give_all_back()
        assert list(tmp_path.iterdir()) == []
    with FolderLock(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_who_writes_is_told_in_full(tmp_path):
    with FolderLock(tmp_path):
        with pytest.raises(InUseError) as caught:
            FolderLock(tmp_path).acquire()
        kept = (tmp_path / ".lock.owner").read_text()
    time_ = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    who = f"process {os.getpid()} on {re.escape(socket.gethostname())}"
    assert re.fullmatch(
        rf"`{re.escape(str(tmp_path))}` is in use: {who} \(since {time_}\) writes there\. "
        r"Wait until it is done, end it, or choose another folder\.",
        str(caught.value),
    )
    assert json.loads(kept).keys() == {"process", "machine", "since"}


def test_folders_above_what_is_written_alone_are_made(tmp_path):
    with alone_at(tmp_path / "a" / "b" / "set", "does the same") as alone:
        assert alone
        assert (tmp_path / "a" / "b" / ".set.lock").exists()


def test_a_python_without_locks(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise NotImplementedError("no flock here.")

    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    with caplog.at_level(logging.WARNING), FolderLock(tmp_path):
        pass
    (message,) = caplog.messages
    assert message.startswith(f"`{tmp_path}` is on a file system without locks (no flock here): ")


def test_names_up_to_200_bytes_are_kept():
    assert lock_file(Path("a") / ("n" * 200)).name == f".{'n' * 200}.lock"
    name = "ü" * 100 + "n"
    digest = hashlib.sha256(name.encode()).hexdigest()
    assert lock_file(Path("a") / name).name == f".{digest[:32]}.lock"


@POSIX
def test_remains_are_removed_one_folder_deep(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 2**22 + 1)  # more than Linux gives
        name = atomic._temporary_name()
    for folder in (tmp_path, tmp_path / "in", tmp_path / "in" / "deeper"):
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    (tmp_path / "a file").touch()
    with FolderLock(tmp_path):
        left = list(tmp_path.rglob("*.part"))
    assert left == [tmp_path / "in" / "deeper" / name]


@POSIX
def test_an_error_that_says_nothing_of_locks_is_one(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=r"Cannot write `.*\.lock`: Input/output error"):
        FolderLock(tmp_path).acquire()


@POSIX
def test_every_folder_without_locks_is_told_once(tmp_path, monkeypatch, caplog):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available.")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folders_ = [tmp_path / "a", tmp_path / "b"]
    with caplog.at_level(logging.WARNING):
        for folder in (*folders_, *folders_):
            folder.mkdir(exist_ok=True)
            with FolderLock(folder):
                assert not (folder / ".lock.owner").exists()
    assert caplog.messages == [
        f"`{folder}` is on a file system without locks (No locks available): see to it that no "
        "two processes write there at once."
        for folder in folders_
    ]


def test_a_lock_holds_though_its_owner_cannot_be_noted(tmp_path):
    (tmp_path / ".lock.owner").mkdir()
    with (
        FolderLock(tmp_path),
        pytest.raises(InUseError, match="in use: another process writes there"),
    ):
        FolderLock(tmp_path).acquire()
    with FolderLock(tmp_path):
        assert (tmp_path / ".lock").is_file()


def test_a_lock_may_be_given_back_by_another_thread(tmp_path, monkeypatch):
    """Also where its file stays: Windows removes nothing that is open."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "it is open")

    lock = FolderLock(tmp_path)
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    with pytest.raises(InUseError):
        FolderLock(tmp_path).acquire()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        lock.release()
    assert (tmp_path / ".lock").is_file()
    with FolderLock(tmp_path), pytest.raises(InUseError):
        FolderLock(tmp_path).acquire()
