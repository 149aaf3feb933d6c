"""A run goes on with the settings and the files it began with, or says what is another."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field

import numpy as np
import pytest
import yaml
from PIL import Image
from torch import nn

import patchkin
from patchkin.cli import main
from patchkin.schedules import AdamConfig
from patchkin.scoring.report import read_log
from patchkin.storage.checkpoint import CheckpointStore

FLAGS = (
    *("--size", "8", "--data.load-size", "8", "--device", "cpu", "--workers", "0"),
    *("--steps", "4", "--training.log-every", "1"),
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.01


@dataclass(frozen=True, kw_only=True)
class CopyConfig:
    weight: float = 1.0
    inner: Inner = field(default_factory=Inner)


class Copy(patchkin.Method):
    name = "copy"
    paper = "none"
    config_type = CopyConfig
    presets = {
        "default": patchkin.Preset(summary="", method=CopyConfig()),
        "heavy": patchkin.Preset(summary="", method=CopyConfig(weight=3.0)),
    }

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.G = nn.Conv2d(3, 3, 1)

    def adam(self):
        return {"G": AdamConfig(learning_rate=self.config.inner.rate)}

    def train_step(self, batch, update, progress):
        distance = (self.G(batch.a_BCHW) - batch.b_BCHW).abs().mean()
        update("G", loss=lambda: {"copy": self.config.weight * distance})

    def translate(self, x_BCHW):
        return self.G(x_BCHW)


@pytest.fixture
def command(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = main(list(map(str, arguments)), methods={"copy": Copy}, default_method="copy")
        return code, capsys.readouterr().err

    return run


def write_set(root, number):
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB"):
        (root / name).mkdir(parents=True)
        for index in range(number):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index:03d}.png")


@pytest.fixture
def run(command, tmp_path):
    """A finished run of four steps."""
    write_set(tmp_path / "set", 12)
    code, err = command("train", "--data", tmp_path / "set", "--run-dir", tmp_path / "r", *FLAGS)
    assert code == 0, err
    return tmp_path / "r"


def manifest(run_dir):
    return json.loads((run_dir / "data.json").read_text())


def config_of(run_dir):
    return yaml.safe_load((run_dir / "config.yaml").read_text())


# Files


def added(folder):
    shutil.copy(folder / "trainA" / "000.png", folder / "trainA" / "0000.png")


def removed(folder):
    (folder / "trainB" / "003.png").unlink()


def grown(folder):
    with (folder / "trainB" / "005.png").open("ab") as file:
        file.write(b"more")


def replaced(folder):
    """By an image of as many bytes."""
    path = folder / "trainA" / "007.png"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (added, "`trainA/0000.png` is new (1 new, 0 missing, 0 changed)"),
        (removed, "`trainB/003.png` is missing (0 new, 1 missing, 0 changed)"),
        (grown, "bytes, not "),
        (replaced, "`trainA/007.png` has other content (0 new, 0 missing, 1 changed)"),
    ],
)
def test_other_files_are_refused_or_told(command, run, tmp_path, change, said):
    change(tmp_path / "set")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, err = command("train", "--resume", run, "--steps", "6")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert said in err
    assert "--allow-changed-data" in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    code, err = command("train", "--resume", run, "--steps", "6", "--allow-changed-data")
    assert code == 0, err
    (told,) = [record for record in read_log(run) if "changed_data" in record]
    assert told["step"] == 4
    assert said in told["changed_data"]
    assert "From step 4 on other files" in (run / "report.html").read_text()
    code, err = command("train", "--resume", run, "--steps", "8")  # they are those of the run now
    assert code == 0, err


def test_a_new_file_moves_no_validation_image_into_training(command, tmp_path):
    """31 of 32 did."""
    write_set(tmp_path / "set", 130)
    code, err = command(
        *("train", "--data", tmp_path / "set", "--run-dir", tmp_path / "r", *FLAGS),
        *("--score-every", "4"),
    )
    assert code == 0, err
    before = manifest(tmp_path / "r")["files"]
    assert [len(before[domain]["val"]) for domain in "ab"] == [32, 32]
    added(tmp_path / "set")
    code, err = command("train", "--resume", tmp_path / "r", "--steps", "6", "--allow-changed-data")
    assert code == 0, err
    after = manifest(tmp_path / "r")["files"]
    assert [after[domain]["val"] for domain in "ab"] == [before[domain]["val"] for domain in "ab"]
    assert after["a"]["train"].keys() - before["a"]["train"].keys() == {"trainA/0000.png"}
    assert after["b"]["train"] == before["b"]["train"]
    # Without scores the images that were held out stay out.
    code, err = command("train", "--resume", tmp_path / "r", "--steps", "7", "--score-every", "0")
    assert code == 0, err
    assert manifest(tmp_path / "r")["files"] == after


def test_the_same_files_in_another_place_are_the_same(command, tmp_path):
    write_set(tmp_path / "set", 120)
    (tmp_path / "set" / "trainA" / "011.png").write_bytes(b"broken")
    code, err = command("train", "--data", tmp_path / "set", "--run-dir", tmp_path / "r", *FLAGS)
    assert code == 0, err
    (tmp_path / "set").rename(tmp_path / "moved")
    code, err = command(
        "train", "--resume", tmp_path / "r", "--data", tmp_path / "moved", "--steps", "6"
    )
    assert code == 0, err
    (broken,) = manifest(tmp_path / "r")["broken"]
    assert broken["path"] == str(tmp_path / "moved" / "trainA" / "011.png")


def test_a_run_from_before_files_were_remembered_goes_on(command, run):
    (run / "data.json").write_text('{"broken": []}')
    code, err = command("train", "--resume", run, "--steps", "6")
    assert code == 0, err
    assert len(manifest(run)["files"]["a"]["train"]) == 12


def test_a_record_that_lacks_a_domain_is_one_line(command, run):
    """With validation images in the other: it was a traceback."""
    code, err = command("train", "--resume", run, "--steps", "6", "--score-every", "1", "--change")
    assert code == 0, err
    plain = manifest(run)
    plain["files"].pop("a")
    (run / "data.json").write_text(json.dumps(plain))
    code, err = command("train", "--resume", run, "--steps", "8")
    assert code == 2
    assert err.count("\n") == 1, err
    assert "trainA/" in err


# Settings


def test_other_settings_are_refused_by_their_flags(command, run):
    before = (run / "config.yaml").read_bytes()
    code, err = command(
        *("train", "--resume", run, "--method.weight", "3", "--method.inner.rate", "0.5"),
        *("--seed", "2", "--workers", "1"),
    )
    assert code == 2
    assert len(err.splitlines()) == 1
    for words in (
        "--method.weight 1.0, now 3.0", "--method.inner.rate 0.01, now 0.5", "--seed 0, now 2",
        "--change",
    ):  # fmt: skip
        assert words in err
    assert "workers" not in err
    assert (run / "config.yaml").read_bytes() == before


def test_changes_are_told_from_their_step(command, run):
    code, err = command(
        "train", "--resume", run, "--method.weight", "3", "--steps", "6", "--change"
    )
    assert code == 0, err
    (told,) = [record for record in read_log(run) if "changed_settings" in record]
    assert told["step"] == 4
    assert told["changed_settings"] == {"method.weight": [1.0, 3.0]}
    config = config_of(run)
    assert config["method"]["weight"] == 3.0
    assert config["history"] == [
        {
            "from_step": 4,
            "before": {"method.weight": 1.0, "schedule.steps": 4},
            "after": {"method.weight": 3.0, "schedule.steps": 6},
        }
    ]
    assert "method.weight 3.0 (before: 1.0)" in (run / "report.html").read_text()
    code, err = command("train", "--resume", run, "--steps", "7")  # the history stays
    assert code == 0, err
    assert [entry["from_step"] for entry in config_of(run)["history"]] == [4, 6]


def test_a_file_of_settings_changes_nothing_in_silence(command, run, tmp_path):
    (tmp_path / "other.yaml").write_text("method: {weight: 3.0}\n")
    code, err = command("train", "--resume", run, "--config", tmp_path / "other.yaml")
    assert code == 2
    assert "--method.weight 1.0, now 3.0" in err


def test_a_preset_is_what_the_run_has_or_is_refused(command, run):
    """`--preset` with `--resume` was passed over in silence."""
    config = (run / "config.yaml").read_bytes()
    again = ("--resume", run, *FLAGS)
    code, err = command("train", "copy", "--preset", "heavy", *again)
    assert code == 2
    assert "--method.weight 1.0, now 3.0." in err
    assert (run / "config.yaml").read_bytes() == config
    code, err = command("train", "copy", "--preset", "default", *again)
    assert code == 0, err
    code, err = command("train", "copy", "--preset", "heavy", "--method.weight", "1", *again)
    assert code == 0, err  # the preset and what was changed of it, as the run began
    code, err = command("train", "copy", "--preset", "heavvy", *again)
    assert code == 2
    assert "Did you mean `heavy`?" in err


def test_a_preset_may_hold_from_here_on(command, run):
    code, err = command(
        "train", "--resume", run, "--preset", "heavy", *FLAGS, "--steps", "6", "--change"
    )
    assert code == 0, err
    assert config_of(run)["method"]["weight"] == 3.0
    (told,) = [record for record in read_log(run) if "changed_settings" in record]
    assert told["changed_settings"] == {"method.weight": [1.0, 3.0]}


def test_harmless_settings_and_steps_beyond_the_end_pass(command, run):
    code, err = command(
        *("train", "--resume", run, "--steps", "6", "--workers", "1", "--save-every", "1"),
        *("--training.log-every", "2", "--training.preview-every", "5", "--training.keep", "0"),
    )
    assert code == 0, err
    assert CheckpointStore(run).steps() == [4, 5, 6]
    assert config_of(run)["history"] == [
        {"from_step": 4, "before": {"schedule.steps": 4}, "after": {"schedule.steps": 6}}
    ]


def test_another_length_of_a_run_that_is_not_at_its_end_is_a_change(command, run):
    """Learning rates fall towards the end."""
    state = CheckpointStore(run).path(4) / "state.json"
    told = json.loads(state.read_text())
    told["run"]["total_steps"] = 9
    del told["run_sha256"]  # as in a run of a version before
    state.write_text(json.dumps(told))
    code, err = command("train", "--resume", run, "--steps", "6")
    assert code == 2
    assert "--steps 4, now 6" in err
    code, err = command("train", "--resume", run, "--steps", "6", "--change")
    assert code == 0, err


def test_images_per_step_count_and_not_the_processes(command, run):
    code, err = command("train", "--resume", run, "--steps", "6", "--batch-size", "2")
    assert code == 2
    assert "--batch-size x processes: 1 images per step, now 2" in err
    plain = {**manifest(run), "images_per_step": 2}  # as by two processes
    (run / "data.json").write_text(json.dumps(plain))
    code, err = command("train", "--resume", run, "--steps", "6", "--batch-size", "2")
    assert code == 0, err


def test_scores_that_would_take_images_from_training_are_a_change(command, run):
    code, err = command("train", "--resume", run, "--steps", "6", "--score-every", "1")
    assert code == 2
    assert "--score-every 0, now 1" in err
    code, err = command("train", "--resume", run, "--steps", "6", "--score-every", "1", "--change")
    assert code == 0, err
    assert len(manifest(run)["files"]["a"]["val"]) == 3
