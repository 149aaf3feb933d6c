"""A tiny data set and a tiny trained run, made once."""

from __future__ import annotations

import shutil

import pytest

from patchkin.cli import main
from patchkin.data.toy import write_toy

TINY = (
    *("--size", "32", "--data.load-size", "36", "--workers", "0"),
    *("--ngf", "4", "--ndf", "4", "--blocks", "5", "--method.num-patches", "8"),
    *("--method.head-width", "8", "--device", "cpu"),
)
"""Flags for networks that take milliseconds."""


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    write_toy(root, size=64, train=6, test=3)
    return root


@pytest.fixture(scope="session")
def finished_run(toy_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    arguments = ["train", "cut", "--data", str(toy_root), "--run-dir", str(run_dir), *TINY]
    assert main([*arguments, "--steps", "3"]) == 0
    return run_dir


@pytest.fixture
def run_copy(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def command(capsys):
    """Run the command line; returns exit code, standard output and standard error."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
