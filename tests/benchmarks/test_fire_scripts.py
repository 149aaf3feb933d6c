"""The scripts of `benchmarks/fire`: they find nothing, and they would."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.test_scaling_scripts import loaded
from cli.conftest import finished_run, toy_root
from patchkin.errors import PatchkinError

__all__ = ["finished_run", "toy_root"]

FIRE = Path(__file__).parents[2] / "benchmarks" / "fire"


@pytest.fixture
def kills(monkeypatch):
    return loaded(FIRE / "kills.py", monkeypatch)


def burnt(folder, *arguments):
    """The summary of runs that were killed, and what was found."""
    result = subprocess.run(
        [sys.executable, str(FIRE / "kills.py"), str(folder), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [json.loads(line) for line in (folder / "kills.jsonl").read_text().splitlines()]
    return result.stdout, lines


def test_killed_runs_end_as_if_nothing_had_been(tmp_path):
    said, lines = burnt(tmp_path, "--kills", "1")
    kills = [kill for line in lines for kill in line["killed"]]
    assert kills
    assert said.startswith(f"{len(lines)} runs, {len(kills)} kills, 0 runs with a fault\n")
    assert [line["faults"] for line in lines] == [[]] * len(lines)


@pytest.mark.slow
def test_a_hundred_kills(tmp_path):
    _, some = burnt(tmp_path, "--kills", "50", "--seed", "1")
    _, lines = burnt(tmp_path, "--kills", "100", "--seed", "1")
    assert lines[: len(some)] == some  # it went on behind them
    assert sum(len(line["killed"]) for line in lines) >= 100


def test_a_process_dies_at_the_operation_that_was_chosen(kills, tmp_path):
    """The third: a write, of which half is done."""
    process = os.fork()
    if not process:
        with kills.operations(tmp_path, kills.Kill(signal.SIGKILL, operation=3)):
            file = os.open(tmp_path / "a", os.O_WRONLY | os.O_CREAT)
            os.write(file, b"abcd")
            os.write(file, b"efgh")
        os._exit(0)
    assert kills.waited(process, None) == -signal.SIGKILL
    assert (tmp_path / "a").read_bytes() == b"abcdef"


def test_a_process_is_killed_after_its_time_and_what_it_left_is_found(kills, monkeypatch):
    monkeypatch.setattr(kills, "LEAVING_SECONDS", 0.2)
    parent = subprocess.Popen(
        ["sh", "-c", "sleep 60 & wait"], start_new_session=True, stdout=subprocess.DEVNULL
    )
    parent.returncode = kills.waited(parent.pid, kills.Kill(signal.SIGTERM, seconds=0.3))
    assert parent.returncode == -signal.SIGTERM
    assert len(kills.survivors(parent.pid)) == 1
    assert kills.survivors(parent.pid) == []


def test_what_a_kill_could_have_broken_is_seen(kills, finished_run, tmp_path):
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    assert kills.unusable(run_dir) == kills.unlike(run_dir, finished_run) == []
    log = run_dir / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines, lines[-1]]) + "\n")  # a record twice
    assert kills.unlike(run_dir, finished_run) == ["log"]
    log.write_text("\n".join([*lines[:-1], lines[-1][:9], ""]))  # half a last one
    assert kills.unusable(run_dir) == []
    log.write_text("\n".join([*lines[:-2], lines[-2][:9], lines[-1], ""]))
    assert len(kills.unusable(run_dir)) == 1
    weights = next(run_dir.glob("checkpoints/step_*/model.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    log.write_text("\n".join([*lines, ""]))
    assert kills.unlike(run_dir, finished_run) == [weights.relative_to(run_dir).as_posix()]
    assert "checkpoint" in kills.unusable(run_dir)[0]
    (run_dir / "report.html").write_text("<html>")
    assert kills.unusable(run_dir)[-1] == "half a report"
    (run_dir / ".patchkin-00000000-1-00000000.part").touch()
    assert len(kills.remains(tmp_path)) == 1


# A file layer that fails


def failed(folder, *arguments):
    """What came of commands whose files failed."""
    result = subprocess.run(
        [sys.executable, str(FIRE / "files.py"), str(folder), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads(line) for line in (folder / "files.jsonl").read_text().splitlines()]


LINUX = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="Linux with a C compiler"
)


@LINUX
def test_commands_whose_files_fail_below_python(tmp_path):
    lines = failed(
        tmp_path, "--only", "import", "--every", "3", "--faults", "no space", "half writes"
    )
    codes = {(line["fault"], line["code"]) for line in lines}
    assert codes == {("no space", 2), ("half writes", 0)}
    for line in lines:
        assert line["failed"]  # otherwise nothing was tried
        assert ("No space left on device" in line["said"]) == (line["fault"] == "no space")


@LINUX
@pytest.mark.slow
def test_every_command_on_files_that_fail(tmp_path):
    some = failed(tmp_path, "--only", "push", "--sample", "2", "--every", "25")
    lines = failed(tmp_path, "--sample", "2", "--every", "25")
    assert lines[: len(some)] == some  # it did not do them again
    assert len({line["command"] for line in lines}) == 15


def test_what_a_failure_could_have_left_is_seen(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FIRE)
    commands = loaded(FIRE / "commands.py", monkeypatch)
    command = commands.Command(lambda _: [], lambda _: None, varying=r"\.jsonl$", remains="kept")
    box, whole = tmp_path / "box", tmp_path / "whole"
    for folder in (box, whole):
        (folder / "tmp").mkdir(parents=True)
        (folder / "a.json").write_text("{}")
        (folder / "b.jsonl").write_text('{"a": 1}\n')

    def faults(*, torn=False):
        return command.spoiled(box, before, whole, torn=torn)

    before = commands.files_of(box)
    assert faults() == command.unlike(box, whole) == commands.remains(box) == []
    (box / "b.jsonl").write_text('{"a": 1}\n{"b')
    assert faults() == ["cannot be read: b.jsonl: JSONDecodeError"]
    assert faults(torn=True) == []
    (box / "b.jsonl").write_text('{"another": 1}\n')  # may be other than in the whole one
    (box / "a.json").write_text('{"half": ')
    assert faults() == ["half or unknown: a.json", "cannot be read: a.json: JSONDecodeError"]
    (box / "a.json").unlink()
    assert faults() == ["lost: a.json"]
    assert command.unlike(box, whole) == ["a.json"]
    (box / ".patchkin-1-2-3.part").mkdir()
    (box / ".patchkin-1-2-3.part" / "a.json").write_text("{")
    (box / "tmp" / "x").touch()
    assert commands.remains(box) == [".patchkin-1-2-3.part", "tmp/x"]


# Eight on one folder


@pytest.mark.slow
def test_killed_translations_of_a_shared_folder_are_finished(tmp_path):
    result = subprocess.run(
        [sys.executable, str(FIRE / "eight.py"), str(tmp_path), "--images", "120"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    codes = list(found["parts"]["codes"].values())
    assert sorted(codes) == [-signal.SIGKILL] * 2 + [0] * 6
    assert found["parts"]["then"]["written"] > 0
    assert found["without_parts"]["codes"] == [0] * 8


# Our own parsers


@pytest.fixture
def parsers(monkeypatch):
    monkeypatch.syspath_prepend(FIRE)
    yield loaded(FIRE / "parsers.py", monkeypatch)
    for name in ("parser_targets", "parser_seeds", "seeds"):
        sys.modules.pop(name, None)


@pytest.fixture
def targets(parsers, finished_run, tmp_path, monkeypatch):
    """Those of a run, without atheris, and what they change put back."""
    from patchkin.images import limits
    from patchkin.scoring import report

    monkeypatch.setattr(limits.Image, "MAX_IMAGE_PIXELS", limits.Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(limits, "_allowed", [0])
    monkeypatch.setenv(limits.VARIABLE, "")
    for name in ("_curves", "render"):
        monkeypatch.setattr(report, name, getattr(report, name))
    (tmp_path / "run").symlink_to(finished_run)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    return parsers.targets_of(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_parsers_take_what_they_begin_with_and_refuse_junk(parsers, targets, tmp_path):
    watch = parsers.Watch(tmp_path / "box", tmp_path)
    taken = set()
    for name, target in targets.items():
        for data in target.seeds:  # once before, for what is imported on the way
            with contextlib.suppress(PatchkinError):
                target.read(data, parsers._emptied(watch.box))
                taken.add(name)
        for data in (*target.seeds, *parsers.JUNK):
            found = watch.judged(target.read, data)
            assert found is None or found[0] == "slow", (name, data[:40], found)
    # Some begin with what is refused late: a network that is not known, a model without a method.
    assert set(targets) - taken == {"onnx", "pickled", "tensors", "words"}


def test_a_parser_that_does_what_it_must_not_is_seen(parsers, tmp_path):
    watch = parsers.Watch(tmp_path / "box", tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()

    def judged(act):
        found = watch.judged(lambda *_: act(), b"")
        return found and found[0]

    def refuse(message):
        raise PatchkinError(message)

    assert judged((tmp_path / "box" / "a").touch) is None
    assert judged(lambda: refuse("one line\nof two")) is None
    assert judged(lambda: refuse("x" * 3000)).startswith("message-")
    assert judged(lambda: refuse("")).startswith("message-")
    assert judged(lambda: {}["x"]).startswith("KeyError-")
    assert judged((tmp_path / "b").touch) == "event-open"
    assert judged(elsewhere.unlink) == "event-os.remove"
    assert judged(lambda: subprocess.run(["true"], check=True)) == "event-subprocess.Popen"
    assert judged(lambda: parsers.time.sleep(0.01)) is None
