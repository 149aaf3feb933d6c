"""Every way out of training ends the process and all that it started, within a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patchkin.data.toy import write_toy
from patchkin.storage.checkpoint import CheckpointStore

SCRIPT = Path(__file__).with_name("ways_out.py")
LIMIT_SECONDS = 20

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks and sends signals")


class Ended:
    """What became of runs that went one way each."""

    def __init__(self, folder, *ways):
        self.folder = folder
        write_toy(folder / "toy", size=64, train=12, test=2)
        result = subprocess.run(
            [sys.executable, str(SCRIPT), str(folder), str(folder / "toy"), *ways],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False, timeout=400,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        self.told = json.loads(result.stdout)

    def check(self, way, code, *said, within=LIMIT_SECONDS):
        """It ended in so many seconds, with nothing left, this exit code, and these words."""
        heard = (self.folder / f"{way}.stderr").read_text()
        assert way in self.told, heard
        assert self.told[way]["code"] == code, heard
        assert self.told[way]["seconds"] < within
        assert not (self.folder / way / ".lock").exists()
        for words in said:
            assert words in heard
        return heard

    def steps(self, way):
        return CheckpointStore(self.folder / way).steps()


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    ways = (
        *("exception", "memory", "sigterm", "dead-worker", "exception-in-second"),
        "killed-at-start-in-first",
    )
    return Ended(tmp_path_factory.mktemp("ways"), *ways)


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    ways = (
        *("sigint", "hanging-workers", "scores", "scores-sigterm", "preview"),
        *("exception-in-first", "killed-in-second", "broken-file-in-second"),
        *("sigterm-in-first", "sigterm-in-second", "stopped-in-second"),
    )
    return Ended(tmp_path_factory.mktemp("more"), *ways)


def test_a_bug_in_a_method(ended):
    heard = ended.check("exception", 1, "Step 3 ended with an error. No checkpoint was saved yet.")
    assert heard.splitlines()[-1] == "NameError: name 'lss' is not defined"


def test_out_of_memory(ended):
    ended.check("memory", 1, "a smaller --size or --batch-size", "OutOfMemoryError: out of memory")


def test_a_termination_signal(ended):
    ended.check("sigterm", 130, "patchkin: interrupted")
    assert ended.steps("sigterm") == [3]


def test_a_dead_worker(ended):
    ended.check("dead-worker", 1, "is killed by signal: Killed")


def test_a_bug_in_one_of_two_processes(ended):
    """Its reason is told, and not the other's lost connection."""
    heard = ended.check("exception-in-second", 1, "NameError: name 'lss' is not defined")
    assert heard.count("Traceback") == 1


def test_who_comes_to_meet_the_first_process_does_not_wait_for_it_if_it_is_gone(ended):
    ended.check("killed-at-start-in-first", -9, within=90)  # most of it are imports


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "code", "said"),
    [
        ("sigint", 130, "patchkin: interrupted"),
        ("scores", 1, "NameError: in validation"),
        ("scores-sigterm", 130, "patchkin: interrupted"),
        ("preview", 1, "NameError: in previews"),
        ("exception-in-first", 1, "NameError: name 'lss' is not defined"),
        ("killed-in-second", 1, "Process 1 of the run was ended by SIGKILL"),
        ("broken-file-in-second", 2, "patchkin: error: `0.png` broke."),
        ("sigterm-in-first", 130, "patchkin: interrupted"),
        ("sigterm-in-second", 130, "patchkin: interrupted"),
    ],
)
def test_other_ways(more, way, code, said):
    more.check(way, code, said)
    if code == 130:
        assert more.steps(way) == [3]


@pytest.mark.slow
def test_workers_that_hang_do_not_keep_a_run_that_was_asked_to_stop(more):
    more.check("hanging-workers", 130)
    (step,) = more.steps("hanging-workers")
    assert 3 <= step <= 12  # what the workers had made before


@pytest.mark.slow
def test_a_process_that_hangs_does_not_keep_the_first_one(more):
    """SIGTERM is not heard in a collective operation that nobody answers."""
    more.check("stopped-in-second", 130)
