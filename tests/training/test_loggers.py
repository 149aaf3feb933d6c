"""Other loggers are told what `log.jsonl` is, once, and none of them ends a training."""

from __future__ import annotations

import errno
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from patchkin.cli import main
from patchkin.errors import ConfigError
from patchkin.schedules import ScheduleConfig
from patchkin.storage.checkpoint import CheckpointStore, ModelHeader
from patchkin.training import TrainingConfig, fit
from patchkin.training import loggers as loggers_module
from patchkin.training.loggers import find_loggers, values_of
from support import ListData, cpu_fabric, random_batch
from training.test_fit import final_bytes, make, records, stop_hard


class Remembered:
    """A user's own logger."""

    def __init__(self):
        self.runs, self.told, self.images, self.closed = [], [], [], 0

    def __call__(self, run):
        self.runs.append(run)
        return self

    def values(self, step, values):
        self.told.append((step, dict(values)))

    def image(self, step, file):
        self.images.append((step, file.name))

    def close(self):
        self.closed += 1


def train(run_dir, *, method=None, resume=False, names=(), steps=12, **loggers):
    fit(
        method or make(),
        ListData([random_batch(2, size=(8, 12), seed=i) for i in range(5)]),
        run_dir,
        fabric=cpu_fabric(),
        schedule=ScheduleConfig(steps=steps),
        training=TrainingConfig(log_every=2, save_every=4, preview_every=6),
        header=ModelHeader(method="copy", config={"width": 3}),
        loggers={**find_loggers(names), **loggers},
        resume=resume,
    )


def logged(run_dir):
    """Tag -> step -> value, as the log has them."""
    found = {}
    for record in records(run_dir):
        for name, value in values_of(record).items():
            found.setdefault(name, []).append((record["step"], value))
    return found


def check_events(run_dir):
    """TensorBoard's own reader finds the values of the log, each step of them once."""
    reader = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    expected = logged(run_dir)
    assert set(reader.Tags()["scalars"]) == set(expected) > {"terms/G.copy", "learning_rates/G"}
    for name, points in expected.items():
        read = [(event.step, event.value) for event in reader.Scalars(name)]
        assert read == [(step, float(np.float32(value))) for step, value in points], name
    return [event.step for event in reader.Images("previews")]


def test_tensorboard_reads_the_values_of_the_log(tmp_path):
    train(tmp_path, names=["tensorboard"])
    assert check_events(tmp_path) == [0, 6, 12]


def test_a_resumed_run_tells_no_step_twice(tmp_path):
    run = tmp_path / "run"
    killed = make(at_step=7, action=stop_hard)  # steps 5 to 6 are in the log, and done again
    with pytest.raises(RuntimeError, match="killed"):
        train(run, method=killed, names=["tensorboard"])
    assert CheckpointStore(run).steps() == [4]
    assert [step for step, _ in logged(run)["terms/G.copy"]] == [2, 4, 6]
    train(run, resume=True, names=["tensorboard"])
    assert check_events(run) == [0, 6, 12]
    assert len(list((run / "tensorboard").iterdir())) == 1
    train(tmp_path / "whole")
    assert final_bytes(run) == final_bytes(tmp_path / "whole")  # and it changes nothing


def test_one_that_comes_later_is_told_what_was_before(tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, method=make(at_step=9, action=stop_hard))
    mine = Remembered()
    train(tmp_path, resume=True, names=["tensorboard"], mine=mine)
    check_events(tmp_path)
    (run,) = mine.runs
    assert run.folder == tmp_path
    steps = [step for step, values in run.history if "terms/G.copy" in values]
    assert steps == [2, 4, 6, 8]
    assert [(step, file.name[5:13]) for step, file in run.previews] == [
        (0, "00000000"),
        (6, "00000006"),
    ]
    assert [step for step, _ in mine.told] == [10, 12]


def test_a_logger_of_a_users_own(tmp_path):
    mine = Remembered()
    train(tmp_path, mine=mine)
    expected = [(r["step"], values_of(r)) for r in records(tmp_path) if values_of(r)]
    assert mine.told == expected
    assert mine.images == [(step, f"step_{step:08d}.png") for step in (0, 6, 12)]
    assert mine.closed == 1
    assert mine.runs[0].history == mine.runs[0].previews == []


class Failing(Remembered):
    def __init__(self, where, error):
        super().__init__()
        self._where, self._error = where, error

    def __call__(self, run):
        self._fail("open")
        return super().__call__(run)

    def values(self, step, values):
        if step >= 4:
            self._fail("values")
        super().values(step, values)

    def image(self, step, file):
        self._fail("image")
        super().image(step, file)

    def close(self):
        self._fail("close")

    def _fail(self, here):
        if here == self._where:
            raise self._error


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("open", ConnectionError("no route\nto host"), "ConnectionError: no route"),
        ("values", OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        ("image", SystemExit(), "(SystemExit)"),
        ("close", RuntimeError("gone."), "(RuntimeError: gone)"),
    ],
)
def test_one_that_fails_ends_no_training(tmp_path, capsys, where, error, said):
    failing, other = Failing(where, error), Remembered()
    train(tmp_path / "run", failing=failing, other=other)
    told = [line for line in capsys.readouterr().err.splitlines() if "logger" in line]
    assert len(told) == 1
    assert "Warning: the logger `failing` fails and is told nothing more" in told[0]
    assert said in told[0]
    assert [step for step, _ in other.told] == [2, 4, 6, 8, 10, 12]
    before = {"open": [], "image": [], "values": [2], "close": [2, 4, 6, 8, 10, 12]}
    assert [step for step, _ in failing.told] == before[where]
    train(tmp_path / "alone")
    assert final_bytes(tmp_path / "run") == final_bytes(tmp_path / "alone")


def test_event_files_that_cannot_be_written_end_no_training(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").write_text("a file where the folder should be")
    train(run, names=["tensorboard"])
    assert "the logger `tensorboard` fails" in capsys.readouterr().err
    assert [step for step, _ in logged(run)["terms/G.copy"]] == [2, 4, 6, 8, 10, 12]


def test_weights_and_biases_by_a_stand_in_for_its_library(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)),
        finish=lambda: calls.append("finished"),
    )
    wandb = SimpleNamespace(
        init=lambda **settings: calls.append(settings) or run, Image=lambda path: ("image", path)
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    train(tmp_path / "run", wandb=loggers_module.OWN["wandb"])
    settings, *told = calls
    assert (settings["name"], settings["resume"]) == ("run", "allow")
    assert told[-1] == "finished"
    numbers = [(step, v) for step, v in told[:-1] if "previews" not in v]
    assert numbers == [(r["step"], values_of(r)) for r in records(tmp_path / "run")]
    assert [step for step, values in told[:-1] if "previews" in values] == [0, 6, 12]
    first_id = settings["id"]
    calls.clear()
    shutil.rmtree(CheckpointStore(tmp_path / "run").path(12))
    train(tmp_path / "run", resume=True, wandb=loggers_module.OWN["wandb"])
    assert calls[0]["id"] == first_id


def test_names_that_stand_for_no_logger(monkeypatch):
    with pytest.raises(ConfigError, match=r"Unknown logger `tensorbord` \(--log\). Known: tensorb"):
        find_loggers(["tensorbord"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--log wandb needs wandb: pip install wandb, or in a"):
        find_loggers(["wandb"])


def test_the_flag(tmp_path, capsys):
    given = ["train", "cut", "--data", "toy", "--run-dir", str(tmp_path / "run"), "--log", "nope"]
    assert main(given) == 2
    err = capsys.readouterr().err
    assert "Unknown logger `nope` (--log)" in err
    assert not (tmp_path / "run").exists()


def test_a_number_beyond_all_floats_is_none():
    assert values_of({"step": 1, "x": 10**400, "terms": {"G": 2, "D": -(10**400)}}) == {
        "terms/G": 2.0
    }
