"""The loop and its files, with a toy method that learns to copy b from a."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from PIL import Image
from torch import nn

from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import CheckpointError, DivergenceError, StorageError
from patchkin.method import Method
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.storage import checkpoint as checkpoint_module
from patchkin.storage.checkpoint import CheckpointStore, ModelHeader, read_model
from patchkin.training import Scorer, TrainingConfig, Updater, fit, loop
from support import ListData, cpu_fabric, random_batch


@dataclass(frozen=True)
class CopyConfig:
    width: int = 3


class Copy(Method):
    name = "copy"
    paper = "none"
    config_type = CopyConfig
    presets = {}

    def __init__(self, config=None, *, at_step=None, action=None):
        super().__init__()
        self.G = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Dropout(0.1))
        self.at_step, self.action = at_step, action
        self.seen = []

    def adam(self):
        return {"G": AdamConfig(learning_rate=0.01)}

    def train_step(self, batch, update, progress):
        self.seen.append((progress.step, progress.epoch, round(progress.fraction, 6)))
        if progress.step == self.at_step:
            self.action()
        weight = 1 + float(progress.draws.coin())
        update(
            "G", loss=lambda: {"copy": weight * (self.G(batch.a_BCHW) - batch.b_BCHW).abs().mean()}
        )

    def translate(self, x_BCHW):
        return self.G(x_BCHW)


def make(seed=0, **options):
    torch.manual_seed(seed)
    return Copy(**options)


def train(
    run_dir, method, *, steps=12, resume=False, averaging=None, scorer=None, data=None, **training
):
    settings = {"log_every": 4, "save_every": 4, "preview_every": 6, **training}
    fit(
        method,
        data or ListData([random_batch(2, size=(8, 12), seed=i) for i in range(5)]),
        run_dir,
        fabric=cpu_fabric(),
        schedule=ScheduleConfig(steps=steps, **(averaging or {})),
        training=TrainingConfig(**settings),
        header=ModelHeader(method="copy", config={"width": 3}),
        resume=resume,
        scorer=scorer,
    )
    return method


def final_bytes(run_dir, step=12):
    folder = CheckpointStore(run_dir).path(step)
    names = ("model.safetensors", "optimizers.safetensors")
    return [(folder / name).read_bytes() for name in names]


def stop_hard():
    raise RuntimeError("killed")


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def test_the_term_falls_and_the_files_are_there(tmp_path):
    x_BCHW = random_batch(2, size=(8, 12)).a_BCHW
    train(
        tmp_path, make(), steps=120, data=ListData([UnpairedBatch(x_BCHW, -x_BCHW)]), log_every=40
    )
    log = [r for r in records(tmp_path) if "terms" in r]
    assert log[-1]["terms"]["G.copy"] < 0.8 * log[0]["terms"]["G.copy"]
    assert [r["step"] for r in log if r["step"] % 40 == 0] == [40, 80, 120]
    assert log[-1]["learning_rates"]["G"] == pytest.approx(0.01 / 61)
    with Image.open(tmp_path / "previews" / "step_00000006.png") as preview:
        assert preview.size[0] >= 2 * 12
    assert CheckpointStore(tmp_path).pointed("last").name == "step_00000120"


def test_progress_counts_steps_or_epochs(tmp_path):
    method = train(tmp_path / "steps", make(), steps=4)
    assert method.seen == [(0, 1, 0.25), (1, 1, 0.5), (2, 2, 0.75), (3, 2, 1.0)]
    method = make()
    fit(
        method,
        ListData([random_batch(1, size=(8, 8))], steps_per_epoch=2),
        tmp_path / "epochs",
        fabric=cpu_fabric(),
        schedule=ScheduleConfig(epochs=2),
        training=TrainingConfig(),
        header=ModelHeader(method="copy", config={}),
    )
    assert method.seen == [(0, 1, 0.5), (1, 1, 0.5), (2, 2, 1.0), (3, 2, 1.0)]


def test_a_run_may_end_before_its_schedule_does(tmp_path):
    method = make()
    settings = {
        "fabric": cpu_fabric(),
        "training": TrainingConfig(log_every=1),
        "header": ModelHeader(method="copy", config={}),
    }
    data = ListData([random_batch(1, size=(8, 8))], steps_per_epoch=2)
    schedule = ScheduleConfig(epochs=4, max_steps=5)
    fit(method, data, tmp_path / "whole", schedule=schedule, **settings)
    assert method.seen == [(step, 1 + step // 2, (1 + step // 2) / 4) for step in range(5)]
    log = (tmp_path / "whole" / "log.jsonl").read_text()
    records = [json.loads(line) for line in log.splitlines()]
    rates = [r["learning_rates"]["G"] for r in records if "learning_rates" in r]
    assert rates[-1] == pytest.approx(0.01 * (1 - 1 / 3)), "in the third of four epochs"
    parted = tmp_path / "parted"
    fit(make(), data, parted, schedule=ScheduleConfig(epochs=4, max_steps=3), **settings)
    resumed = make(seed=1)
    fit(resumed, data, parted, schedule=schedule, resume=True, **settings)
    for name, tensor in method.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


@pytest.mark.parametrize("killed_at", [1, 4, 7, 11])
@pytest.mark.parametrize("averaging", [{}, {"ema_decay": 0.9, "ema_warmup": True}])
def test_a_killed_and_resumed_run_equals_one_that_was_not(tmp_path, killed_at, averaging):
    whole = train(tmp_path / "whole", make(), averaging=averaging)
    with pytest.raises(RuntimeError, match="killed"):
        train(
            tmp_path / "killed",
            make(at_step=killed_at, action=stop_hard),
            averaging=averaging,
            save_every=1,
        )
    resumed = train(tmp_path / "killed", make(seed=99), resume=True, averaging=averaging)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert final_bytes(tmp_path / "whole") == final_bytes(tmp_path / "killed")


def test_a_resumed_log_has_every_step_once(tmp_path):
    with pytest.raises(RuntimeError):
        train(tmp_path, make(at_step=10, action=stop_hard), log_every=1)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 11, "ter')  # torn by the kill
    train(tmp_path, make(), resume=True, log_every=1)
    assert [r["step"] for r in records(tmp_path)] == list(range(1, 13))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys):
    train(tmp_path / "whole", make())
    train(tmp_path / "cut", make(), steps=12)
    store = CheckpointStore(tmp_path / "cut")
    damaged = store.path(12) / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    (store.path(8) / "state.json").unlink()
    train(tmp_path / "cut", make(seed=5), resume=True)
    said = capsys.readouterr().err
    assert "checksum differs" in said
    assert "Resuming" in said
    assert "after step 4/12" in said
    assert final_bytes(tmp_path / "cut") == final_bytes(tmp_path / "whole")


def test_all_damaged_is_an_error(tmp_path):
    train(tmp_path, make(), steps=4)
    (CheckpointStore(tmp_path).path(4) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"Every checkpoint in .* is damaged"):
        train(tmp_path, make(), resume=True)


def test_a_full_disk_leaves_the_old_checkpoint_intact(tmp_path, monkeypatch):
    train(tmp_path, make(), steps=4)
    before = final_bytes(tmp_path, 4)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(StorageError, match=r"No space left on device\. What was saved before"):
        train(tmp_path, make(), steps=12, resume=True)
    assert final_bytes(tmp_path, 4) == before
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["last", "step_00000004"]


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    scores = iter([0.0, 1.0, 5.0, 2.0, 3.0, 4.0, 4.5])
    scorer = Scorer(score=lambda _: {"psnr": next(scores)}, primary="psnr")
    train(tmp_path, make(), scorer=scorer, score_every=2, save_every=2, keep=2)
    store = CheckpointStore(tmp_path)
    assert store.steps() == [4, 10, 12]
    assert store.pointed("best").name == "step_00000004"
    scored = [r for r in records(tmp_path) if "scores" in r]
    assert [r["step"] for r in scored if r["best"]] == [2, 4]


def test_the_best_score_survives_a_stop(tmp_path):
    first = iter([0.0, 5.0, 1.0])
    with pytest.raises(RuntimeError):
        train(
            tmp_path,
            make(at_step=4, action=stop_hard),
            scorer=Scorer(score=lambda _: {"psnr": next(first)}, primary="psnr"),
            score_every=2,
            save_every=2,
        )
    train(
        tmp_path,
        make(),
        resume=True,
        scorer=Scorer(score=lambda _: {"psnr": 2.0}, primary="psnr"),
        score_every=2,
        save_every=2,
        keep=0,
    )
    assert CheckpointStore(tmp_path).pointed("best").name == "step_00000002"


def judge_later(monkeypatch):
    """As on a GPU, which is not waited for in each step."""
    monkeypatch.setattr(loop, "Updater", partial(Updater, judges_later=True))


@pytest.mark.parametrize("later", [False, True])
def test_a_term_that_is_not_finite_names_the_last_good_checkpoint(tmp_path, monkeypatch, later):
    """The step at fault is named also where it is found later: here with the line of step 12."""

    class Exploding(Copy):
        def train_step(self, batch, update, progress):
            factor = float("nan") if progress.step == 9 else 1.0
            update("G", loss=lambda: {"copy": factor * self.G(batch.a_BCHW).mean()})
            self.last = progress.step

    if later:
        judge_later(monkeypatch)
    method = Exploding()
    with pytest.raises(DivergenceError) as caught:
        train(tmp_path, method)
    assert "The term `copy` of the update of G became nan" in str(caught.value)
    assert "at step 10. " in str(caught.value)
    assert "step_00000008" in str(caught.value)
    assert CheckpointStore(tmp_path).steps() == [4, 8]
    assert method.last == (11 if later else 8)


@pytest.mark.parametrize("due", ["score_every", "preview_every", "save_every"])
def test_nothing_is_made_of_weights_behind_a_term_that_is_not_finite(tmp_path, monkeypatch, due):
    class Exploding(Copy):
        def train_step(self, batch, update, progress):
            factor = float("inf") if progress.step == 1 else 1.0
            update("G", loss=lambda: {"copy": factor * self.G(batch.a_BCHW).mean()})

    def score(method):
        scored.append(1)
        return {"x": 0.0}

    scored, settings = [], {"log_every": 50, "save_every": 50, "preview_every": 50, due: 3}
    judge_later(monkeypatch)
    with pytest.raises(DivergenceError, match=r"at step 2\. Last good checkpoint: none"):
        train(tmp_path, Exploding(), scorer=Scorer(score=score, primary="x"), **settings)
    assert scored == [1]  # before the first step
    assert not CheckpointStore(tmp_path).steps()
    assert [p.name for p in (tmp_path / "previews").iterdir()] == ["step_00000000.png"]


def test_terms_read_later_are_the_same(tmp_path, monkeypatch):
    train(tmp_path / "at_once", make(), log_every=5)
    judge_later(monkeypatch)
    train(tmp_path / "later", make(), log_every=5)
    assert final_bytes(tmp_path / "later") == final_bytes(tmp_path / "at_once")
    terms = [
        [record["terms"] for record in records(tmp_path / name) if "terms" in record]
        for name in ("at_once", "later")
    ]
    assert terms[0] == terms[1]
    assert len(terms[0]) == 5  # steps 4, 5, 8, 10 and 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_saves_and_then_interrupts(tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", make(at_step=5, action=lambda: os.kill(os.getpid(), number)))
    assert CheckpointStore(tmp_path / "a").steps() == [4, 6]
    assert signal.getsignal(number) is before
    train(tmp_path / "a", make(), resume=True)
    train(tmp_path / "b", make())
    assert final_bytes(tmp_path / "a") == final_bytes(tmp_path / "b")


def looked_at(run_dir):
    """Scores, previews, pointers and what the last checkpoint tells."""
    store = CheckpointStore(run_dir)
    state = (store.path(12) / "state.json").read_bytes()
    previews = {path.name: path.read_bytes() for path in (run_dir / "previews").iterdir()}
    scored = [record for record in records(run_dir) if "scores" in record]
    return scored, previews, store.pointed("best").name, store.pointed("last").name, state


@pytest.mark.parametrize("step", [6, 12])
@pytest.mark.parametrize("where", ["step", "scoring"])
def test_what_a_stopped_run_owed_is_made_when_it_goes_on(tmp_path, step, where):
    """Asked to stop in a step after which a score is due, or while it scores."""

    def stop_now():
        os.kill(os.getpid(), signal.SIGTERM)

    def run(name, *, stops=False, resume=False):
        method = make(at_step=step - 1, action=stop_now if stops and where == "step" else bool)

        def score(method):
            if stops and where == "scoring" and len(method.seen) == step:
                stop_now()
            return {"psnr": float(method.G[0].bias.detach().sum())}

        scorer = Scorer(score=score, primary="psnr")
        train(
            tmp_path / name, method, scorer=scorer, score_every=3, save_every=100, keep=0,
            resume=resume,
        )  # fmt: skip

    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stops=True)
    assert CheckpointStore(tmp_path / "stopped").steps()[-1] == step
    assert step not in [r["step"] for r in records(tmp_path / "stopped") if "scores" in r]
    run("stopped", resume=True)
    assert looked_at(tmp_path / "stopped") == looked_at(tmp_path / "whole")
    assert final_bytes(tmp_path / "stopped") == final_bytes(tmp_path / "whole")
    before = (tmp_path / "stopped" / "log.jsonl").read_bytes()
    run("stopped", resume=True)  # and nothing is owed twice
    assert (tmp_path / "stopped" / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("averaging", "decays"),
    [
        ({"ema_decay": 0.8}, [0.8] * 5),
        ({"ema_decay": 0.35, "ema_warmup": True}, [2 / 11, 3 / 12, 4 / 13, 0.35, 0.35]),
    ],
)
def test_averaged_weights_stand_beside_the_live_ones(tmp_path, averaging, decays):
    averages = []

    class Watched(Copy):
        def train_step(self, batch, update, progress):
            super().train_step(batch, update, progress)
            averages.append(self.G[0].weight.detach().clone())

    torch.manual_seed(0)
    method = Watched()
    expected = method.G[0].weight.detach().clone()
    train(tmp_path, method, steps=5, averaging=averaging)
    for decay, weight in zip(decays, averages, strict=True):
        expected = decay * expected + (1 - decay) * weight
    _, tensors = read_model(CheckpointStore(tmp_path).path(5) / "model.safetensors")
    torch.testing.assert_close(tensors["ema.G.0.weight"], expected)
    assert torch.equal(tensors["G.0.weight"], method.G[0].weight)


def test_a_run_of_another_method_is_refused(tmp_path):
    train(tmp_path, make(), steps=4)
    with pytest.raises(CheckpointError, match="holds a run of `copy`, not of `paste`"):
        fit(
            make(),
            ListData([random_batch(1, size=(8, 8))]),
            tmp_path,
            fabric=cpu_fabric(),
            schedule=ScheduleConfig(steps=5),
            training=TrainingConfig(),
            header=ModelHeader(method="paste", config={}),
            resume=True,
        )


def test_all_files_of_a_checkpoint_are_as_readable_as_any_new_file(tmp_path):
    train(tmp_path / "run", make(), steps=4)
    (tmp_path / "new").touch()
    expected = (tmp_path / "new").stat().st_mode
    (folder,) = (tmp_path / "run" / "checkpoints").glob("step_*")
    assert {path.stat().st_mode for path in folder.iterdir()} == {expected}


def test_no_file_of_a_run_is_a_pickle(tmp_path):
    train(tmp_path, make(), steps=4)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl", ".png", ""}
