"""What a run says before it begins, and what its page tells afterwards."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from patchkin._version import __version__
from patchkin.cli import main
from patchkin.cli import train as train_verb
from patchkin.methods import METHODS
from patchkin.runs.announcement import _preset
from patchkin.runs.channels import with_channels
from patchkin.runs.config import RunConfig
from patchkin.scoring.report import read_log
from runs.test_resuming import FLAGS, Copy, write_set


@pytest.fixture
def command(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = main(list(map(str, arguments)), methods={"copy": Copy}, default_method="copy")
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def told(command, tmp_path):
    """Standard error of a run of 30 steps, and its folder."""
    write_set(tmp_path / "set", 20)
    code, err = command(
        *("train", "--data", tmp_path / "set", "--run-dir", tmp_path / "r", *FLAGS),
        *("--steps", "30", "--batch-size", "2", "--method.weight", "2", "--score-every", "15"),
        *("--training.preview-every", "3"),
    )
    assert code == 0, err
    return err, tmp_path / "r"


@pytest.mark.parametrize("flags", [(), ("--data.jitter-in-decay",), ("--data.load-size", "10")])
def test_a_scale_that_changes_when_the_rate_falls_is_told(command, tmp_path, flags):
    write_set(tmp_path / "set", 20)
    code, err = command(
        *("train", "--data", tmp_path / "set", "--run-dir", tmp_path / "r", *FLAGS),
        *("--steps", "2", "--data.load-size", "20", *flags),
    )
    assert code == 0, err
    assert [line for line in err.splitlines() if line.startswith("views")] == (
        []
        if flags
        else [
            "views       8 pixels of images at 20; of images at 8 once the rate falls, as in CUT's "
            "code (--data.jitter-in-decay: at 20 to the end)"
        ]
    )


def test_a_run_begins_with_what_it_is(told, tmp_path):
    err, run_dir = told
    rows = dict(line.split(maxsplit=1) for line in err.splitlines()[:8])
    assert list(rows) == [
        *("method", "preset", "data", "images", "parameters", "device", "steps", "folder"),
    ]
    assert rows["method"] == "copy (none)"
    changed = "--method.weight 2.0, --size 8, --data.load-size 8, --batch-size 2, --steps 30"
    assert rows["preset"] == f"default, but {changed}"
    assert rows["data"] == str(tmp_path / "set")
    assert rows["images"] == "a 15 and 5 for validation, b 15 and 5 for validation"
    assert rows["parameters"] == "12 that learn; 12 translate"
    assert re.fullmatch(r"cpu \(.+ threads?\), precision 32-true", rows["device"])
    assert rows["steps"] == "30 of 2 images; an epoch has 7"
    assert rows["folder"] == str(run_dir)
    assert len(re.findall(r"s per step: about 0:0\d to the end", err)) == 1


def test_the_page_tells_when_where_and_on_what(told, command):
    _, run_dir = told
    code, err = command("train", "--resume", run_dir, "--steps", "31")
    assert code == 0, err
    records = read_log(run_dir)
    sessions = [record for record in records if "session" in record]
    assert [record["step"] for record in sessions] == [0, 30]
    page = (run_dir / "report.html").read_text()
    facts = dict(re.findall(r"<tr><th>(\w[\w ]*)</th><td>(.*?)</td></tr>", page))
    assert list(facts) == ["Begun", "Version", "Machine", "Parameters", "Images", "Training time"]
    assert facts["Begun"].startswith(sessions[0]["session"]["date"])
    assert "resumed 1 time, last" in facts["Begun"]
    assert facts["Version"].startswith(f"patchkin {__version__}, torch ")
    assert facts["Machine"].startswith("cpu (")
    assert facts["Images"] == (
        "15 of domain a and 5 for validation, 15 of domain b and 5 for validation"
    )
    assert re.fullmatch(r"0:\d\d", facts["Training time"])
    assert re.findall(r"<figcaption>step (\d+)</figcaption>", page) == [
        *("31", "27", "21", "12", "6", "0"),
    ]
    assert page.count("<th>better</th>") == 1
    for meaning in ("Mean absolute change of the pixels", "neither way is better"):
        assert meaning in page


def test_the_training_time_is_that_of_all_steps(command, tmp_path):
    from patchkin.scoring.report import _seconds

    records = [
        {"step": 0, "session": {}},
        {"step": 10, "seconds_per_step": 3.0},
        {"step": 10, "scores": {}},
        {"step": 14, "seconds_per_step": 5.0},
    ]
    assert _seconds(records) == 50.0


def test_a_run_without_a_checkpoint_says_how_to_start_it_again(command, tmp_path, monkeypatch):
    write_set(tmp_path / "set", 4)
    arguments = ("train", "--data", tmp_path / "set", "--run-dir", tmp_path / "r", *FLAGS)

    def fails(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Copy, "train_step", fails)
        with pytest.raises(RuntimeError, match="killed"):
            command(*arguments)
    code, err = command("train", "--resume", tmp_path / "r")
    assert code == 2
    assert len(err.splitlines()) == 1
    (again,) = re.findall(r"ended before its first one was saved .*: `(.*)`\.", err)
    code, err = command(*again.split())
    assert code == 0, err
    code, err = command("train", "--resume", tmp_path / "nothing")
    assert code == 2
    assert "Start one: train METHOD --data ROOT --run-dir" in err


def test_bare_train_says_what_it_will_do(capsys, monkeypatch):
    monkeypatch.setattr(train_verb, "train", lambda *_, **__: None)
    assert main(["train"]) == 0
    said = capsys.readouterr().err
    assert "semantic-relation is trained on the built-in toy set" in said
    assert "patchkin train METHOD --data ROOT" in said
    assert main(["train", "cut"]) == 0
    assert capsys.readouterr().err == ""


def test_channels_of_all_networks_are_told_by_one_flag():
    kind = METHODS["cut"]
    name, preset = next(iter(kind.presets.items()))
    parts = {"data": preset.data, "schedule": preset.schedule}
    grey = with_channels(kind, preset.method, 1)
    assert _preset(kind, RunConfig(method=grey, **parts)) == f"{name}, but --channels 1"
    fewer = replace(grey, num_patches=8)
    told = _preset(kind, RunConfig(method=fewer, **parts))
    assert told == f"{name}, but --channels 1, --method.num-patches 8"
    one_way = replace(preset.method.generator, in_channels=1)
    told = _preset(kind, RunConfig(method=replace(preset.method, generator=one_way), **parts))
    assert told == f"{name}, but --method.generator.in-channels 1"
