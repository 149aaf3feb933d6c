"""A disk that fails at any moment of a run: one line, exit code 2, and the run goes on as if not.

Nothing may be lost but the steps since the last checkpoint, and these are done again exactly.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from patchkin.cli import main
from patchkin.errors import StorageError
from patchkin.scoring import report
from storage import faults as program
from storage.faults import DIED, Faults, check_whole, small_run, unlike
from tinting import STYLED

FLAGS = (
    *("--device", "cpu", "--workers", "0", "--save-every", "1", "--score-every", "2"),
    *("--training.log-every", "1", "--training.preview-every", "2", "--training.keep", "1"),
)
"""Those of `small_run`."""


@pytest.fixture
def by_function(small_toy):
    """Train; what went wrong."""

    def run(folder, *, steps, resume):
        try:
            small_run(small_toy, folder, steps=steps, resume=resume)
        except StorageError as error:
            return str(error)
        return None

    return run


@pytest.fixture
def by_command(small_toy, capsys, monkeypatch):
    """The command line; the one line that it says, with exit code 2, or nothing."""
    monkeypatch.setattr(report, "_curves", lambda *_: None)

    def run(folder, *, steps, resume):
        begin = ("tint-pair", "--data", str(small_toy), "--run-dir", str(folder), *FLAGS)
        how = ("--resume", str(folder)) if resume else begin
        capsys.readouterr()
        code = main(["train", *how, "--steps", str(steps)], methods=STYLED)
        err = capsys.readouterr().err
        told = [
            line for line in err.splitlines() if line.startswith(("patchkin: error", "Traceback"))
        ]
        assert (code, len(told)) in ((0, 0), (2, 1)), err
        return told[0].removeprefix("patchkin: error: ") if told else None

    return run


def check_every_moment(
    run, begun, folder, *, every=1, errors=(errno.ENOSPC, errno.EIO), both=False
):
    """Let the disk fail at every moment of a run, or of one that is resumed.

    Returns:
        What failed without stopping the run, by its number.
    """

    def prepare(copy):
        if begun is not None:
            shutil.copytree(begun, copy)

    command = {"steps": 2 if begun is None else 3, "resume": begun is not None}
    whole, failing = folder / "whole", folder / "failing"
    prepare(whole)
    with Faults(whole) as counted:
        assert run(whole, **command) is None
    survived = {}
    for number in range(1, len(counted.done) + 1, every):
        for error in errors if both else [errors[number // every % len(errors)]]:
            prepare(failing)
            with Faults(failing, number, error) as faults:
                told = run(failing, **command)
            what = f"{number}, {faults.done[number - 1]}: {told}"
            if told is None:
                survived[number] = faults.done[number - 1]
            else:
                assert told.startswith(f"Cannot write `{failing}"), what
                assert told.endswith(
                    f"`: {os.strerror(error)}. What was saved before is untouched."
                ), what
            going_on = check_whole(failing, died=False)
            assert run(failing, **{**command, "resume": going_on}) is None, what
            assert unlike(failing, whole) == [], what
            shutil.rmtree(failing)
    return survived


def check_survived(survived) -> None:
    """An old folder that cannot be renamed is removed under its own name."""
    assert set(survived.values()) <= {"rename"}
    assert len(survived) <= 3  # checkpoints and previews before a fresh run, one that is not kept


def test_a_disk_that_fails_at_every_moment(by_function, tmp_path):
    survived = check_every_moment(by_function, None, tmp_path)
    check_survived(survived)


def test_a_disk_that_fails_at_every_moment_of_a_resumed_run(by_function, tmp_path):
    assert by_function(tmp_path / "begun", steps=2, resume=False) is None
    check_survived(check_every_moment(by_function, tmp_path / "begun", tmp_path))


def test_what_the_command_line_says(by_command, tmp_path):
    check_survived(check_every_moment(by_command, None, tmp_path, every=16))


@pytest.mark.slow
@pytest.mark.parametrize("resumed", [False, True])
def test_every_moment_and_error_by_the_command_line(by_command, tmp_path, resumed):
    begun = None
    if resumed:
        begun = tmp_path / "begun"
        assert by_command(begun, steps=2, resume=False) is None
    errors = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
    check_survived(check_every_moment(by_command, begun, tmp_path, errors=errors, both=True))


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_dies_at_every_moment(small_toy, tmp_path, every):
    """In a process that has trained nothing, whose forks can."""
    done = subprocess.run(
        [sys.executable, program.__file__, str(small_toy), str(tmp_path), str(every)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) >= 70 // every
    for found in told:
        assert (found["died"], found["went on"], found["unlike"]) == (DIED, 0, []), (
            found, done.stderr,
        )  # fmt: skip
