"""A second `--resume` of a run that is under way leaves the first alone."""

from __future__ import annotations

from patchkin.cli import main
from patchkin.storage.locks import FolderLock

SMALL = ["--size", "32", "--ngf", "2", "--ndf", "2", "--device", "cpu", "--workers", "0"]


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_the_second_ends_and_changes_nothing(tmp_path, capsys):
    run = tmp_path / "run"
    begun = ["train", "cut", "--data", "toy", "--preset", "toy", "--run-dir", str(run), *SMALL]
    assert main([*begun, "--steps", "2", "--data.load-size", "32"]) == 0
    before = files(run)
    lock = FolderLock(run, remedy="choose another --run-dir")
    lock.acquire()  # as the first, which is still at work
    try:
        capsys.readouterr()
        assert main(["train", "--resume", str(run)]) == 2
    finally:
        lock.release()
    told = capsys.readouterr().err
    assert str(run) in told
    assert len(told.strip().splitlines()) == 1
    assert files(run) == before
