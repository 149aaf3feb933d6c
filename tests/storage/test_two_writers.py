"""Two processes at one thing: the second says so or waits, and nothing is damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.conftest import TINY
from patchkin.cli import main
from patchkin.scoring.results import Result, read_results, write_result
from patchkin.storage.checkpoint import CheckpointStore
from storage import full_disk

POSIX = pytest.mark.skipif(os.name != "posix", reason="forks and kills")
PATIENCE_SECONDS = 60


@POSIX
def test_two_trainings_of_one_run(small_toy, tmp_path, capsys):
    """The second is refused whatever it asks for; once the first is killed, it may go on."""
    run_dir = tmp_path / "run"
    train = ["train", "cut", "--data", str(small_toy), "--run-dir", str(run_dir), *TINY]
    first = subprocess.Popen(
        [sys.executable, "-m", "patchkin", *train, "--steps", "100000", "--save-every", "1"],
        stderr=subprocess.DEVNULL,
    )
    try:
        store, deadline = CheckpointStore(run_dir), time.monotonic() + PATIENCE_SECONDS
        while not store.steps() and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        begun = (run_dir / "config.yaml").read_bytes()
        for how in (
            [*train, "--steps", "2"],
            [*train, "--steps", "2", "--overwrite"],
            ["train", "--resume", str(run_dir), "--steps", "2"],
        ):
            assert main(how) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(
                f"patchkin: error: `{run_dir}` is in use: process {first.pid} on "
            )
            assert line.endswith("or choose another --run-dir.")
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    assert (run_dir / "config.yaml").read_bytes() == begun
    step = store.steps()[-1]
    shorter = ["--steps", str(step + 2), "--change"]
    assert main(["train", "--resume", str(run_dir), *shorter]) == 0
    snapshot, damaged = store.load_newest()
    assert (snapshot.step, damaged) == (step + 2, [])
    steps = [json.loads(line)["step"] for line in (run_dir / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert [path.name for path in run_dir.rglob(".*")] == []


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.yaml", "log.jsonl", "checkpoints/step_00000002"])
def test_a_full_disk_ends_all_processes_of_a_run(small_toy, tmp_path, file):
    """Those that write nothing too, at once, and one of them says why."""
    run_dir = tmp_path / "run"
    train = ["train", "cut", "--data", str(small_toy), "--run-dir", str(run_dir), *TINY]
    result = subprocess.run(
        [sys.executable, full_disk.__file__, *train, "--steps", "2", "--devices", "2"],
        env={**os.environ, "FULL_AT": Path(file).name, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "patchkin: error" in line]
    assert line == (
        f"patchkin: error: Cannot write `{run_dir / file}`: No space left on device. "
        "What was saved before is untouched."
    )
    assert "Traceback" not in result.stderr


def a_result(step: int) -> Result:
    return Result(
        scores={"change": float(step)}, warnings=(), protocols={}, subject={"step": step},
        data={"split": "test"}, evaluation={},
    )  # fmt: skip


@POSIX
def test_results_that_are_added_at_once_are_all_there(tmp_path):
    """Each reads the file, and writes it with its own."""
    context = multiprocessing.get_context("fork")
    start, path = context.Event(), tmp_path / "scores.json"

    def add(number: int) -> None:
        start.wait(PATIENCE_SECONDS)
        for step in range(5):
            write_result(a_result(10 * number + step), path)

    processes = [context.Process(target=add, args=(number,)) for number in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    found = sorted(entry["subject"]["step"] for entry in read_results(path))
    assert found == sorted(10 * number + step for number in range(4) for step in range(5))
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]
