"""The scripts of studies: what they resume, how they split time, and what their tables say."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from methods.test_contract import build
from patchkin.config import to_plain, to_yaml
from patchkin.data.toy import mask_file, write_toy
from patchkin.images import read_image, to_tensor
from patchkin.storage.checkpoint import ModelHeader, write_tensors

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FRECHET = "squeezenet-224/frechet"


@pytest.fixture
def studies(monkeypatch):
    return loaded(monkeypatch, BENCHMARKS, "studies")


@pytest.fixture
def horses(monkeypatch, studies):
    return loaded(monkeypatch, BENCHMARKS / "horse2zebra", "run")


@pytest.fixture
def stability(monkeypatch, studies):
    return loaded(monkeypatch, BENCHMARKS / "toy", "stability")


@pytest.fixture
def averages(monkeypatch, studies):
    return loaded(monkeypatch, BENCHMARKS / "toy", "averages")


def loaded(monkeypatch, folder, name):
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the scripts add to it
    return importlib.import_module(name)


def make_run(folder, *, checkpoints, validation, test, steps=40, seed=0, named=(FRECHET,)):
    """A run folder with scores: step -> value, of the Frechet distance or of all that are named.

    On test images a name gets the prefix that `evaluate` gives it.
    """
    for step in checkpoints:
        path = folder / "checkpoints" / f"step_{step:08d}"
        path.mkdir(parents=True)
        for name in ("model.safetensors", "optimizers.safetensors"):
            (path / name).touch()
    config = {"name": "cut", "method": {}, "data": {}, "schedule": {"steps": steps}}
    config["training"] = {"seed": seed}
    (folder / "config.yaml").write_text(to_yaml(config))
    best, lines = float("inf"), [{"step": 10, "terms": {}, "seconds_per_step": 0.5}]
    for step, value in validation.items():
        is_best, best = value < best, min(value, best)
        lines.append({"step": step, "scores": dict.fromkeys(named, value), "best": is_best})
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tested = [name if name == FRECHET else f"counterpart/{name}" for name in named]
    results = [
        {"subject": {"step": s}, "data": {"split": "test"}, "scores": dict.fromkeys(tested, v)}
        for s, v in test.items()
    ]
    (folder / "scores.json").write_text(json.dumps(results))


def member(studies, folder, *, row=None, seed=0, steps=40):
    row = row or studies.CUT
    return studies.Member(row=row, seed=seed, folder=folder, command=("train", "cut"), steps=steps)


def test_a_table_stops_where_all_runs_came(studies, tmp_path):
    make_run(
        tmp_path / "a",
        checkpoints=[10, 20, 30, 40],
        validation={10: 3.0, 20: 5.0, 30: 2.0, 40: 1.0},
        test={10: 9.0, 20: 7.0, 30: 5.0, 40: 4.0},
    )
    make_run(
        tmp_path / "b",
        checkpoints=[10, 20],
        validation={10: 4.0, 20: 3.5},
        test={10: 6.0, 20: 8.0},
        seed=1,
    )
    members = [
        member(studies, tmp_path / "a"),
        member(studies, tmp_path / "b", seed=1),
        member(studies, tmp_path / "never begun", seed=2),
    ]
    assert studies.common_step(members) == 20
    runs = studies.runs_by_row(members, 20)
    table = studies.score_table(FRECHET, "distance", runs, [studies.CUT], fixed={"input": 12.0})
    # last: 7, 8; best on validation by step 20: step 10 (9) and step 20 (8); on test: 7, 6
    assert table.splitlines() == [
        "| distance | seeds | last | best on validation | best on test |",
        "|---|---|---|---|---|",
        "| (input) | | 12 | | |",
        "| CUT | 0, 1 | 7.5 ± 0.71 | 8.5 ± 0.71 | 6.5 ± 0.71 |",
    ]


def test_a_score_without_a_better_end_has_no_best_on_test(studies, tmp_path):
    make_run(
        tmp_path / "a",
        checkpoints=[40],
        validation={40: 1.0},
        test={40: 4.0},
        named=("detail_inside",),
    )
    runs = studies.runs_by_row([member(studies, tmp_path / "a")], 40)
    table = studies.score_table("counterpart/detail_inside", "detail", runs, [studies.CUT])
    assert table.splitlines()[-1] == "| CUT | 0 | 4 | 4 | - |"


def test_a_complete_run_loses_what_it_needs_no_more(studies, tmp_path):
    make_run(tmp_path / "a", checkpoints=[10, 13, 40], validation={10: 1.0, 40: 2.0}, test={})
    studies.make_small(member(studies, tmp_path / "a"))
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.safetensors"))
    assert left == [f"a/checkpoints/step_000000{s}/model.safetensors" for s in (10, 40)]


def test_an_unfinished_run_keeps_what_it_goes_on_from(studies, tmp_path):
    make_run(tmp_path / "a", checkpoints=[10, 13, 20], validation={10: 1.0, 20: 2.0}, test={})
    studies.make_small(member(studies, tmp_path / "a"))
    kept = sorted(p.parent.name for p in tmp_path.rglob("optimizers.safetensors"))
    assert kept == ["step_00000013", "step_00000020"]
    assert len(list(tmp_path.rglob("model.safetensors"))) == 3


def test_runs_begin_resume_and_refuse_other_steps(studies, tmp_path):
    fresh = member(studies, tmp_path / "a")
    assert fresh.arguments() == ["train", "cut", "--run-dir", str(tmp_path / "a"), "--overwrite"]
    make_run(tmp_path / "a", checkpoints=[10], validation={10: 1.0}, test={})
    assert fresh.arguments() == ["train", "--resume", str(tmp_path / "a")]
    studies.check_same_steps([fresh])
    with pytest.raises(SystemExit, match="was begun with --steps 40, not 50"):
        studies.check_same_steps([member(studies, tmp_path / "a", steps=50)])


def test_table_3_has_the_rows_of_the_paper(studies):
    """InfoNCE and DCE, each alone, with SRC, and with SRC and hard negatives; DCE with mining."""
    from patchkin.cli.train import default_options

    parts = []
    for row in studies.TABLE_3[1:]:
        config = flagged(default_options, row)
        parts.append((config.contrast, config.relation_weight > 0, config.hard_negatives))
    assert studies.TABLE_3[0].method == "cut"
    assert parts == [
        ("nce", True, False),
        ("nce", True, True),
        ("dce", False, False),
        ("dce", True, False),
        ("dce", False, True),
        ("dce", True, True),
    ]


def test_runs_of_other_calls_stay_in_the_stability_table(stability, tmp_path):
    def made(name, seed, validation, test, steps=40):
        make_run(
            tmp_path / f"{name}_seed{seed}",
            checkpoints=list(validation),
            validation=validation,
            test=test,
            steps=steps,
            seed=seed,
            named=stability.SCORES,
        )

    made("base", 0, {10: 9.0, 20: 3.0, 30: 5.0, 40: 4.0}, {20: 3.5, 40: 5.0})
    made("base", 10, {20: 8.0, 40: 6.0}, {20: 9.0, 40: 7.0})
    made("base", 2, {40: 1.0}, {}, steps=40)  # not scored on test images yet
    made("r1", 0, {20: 9.0, 40: 7.0}, {20: 8.0, 40: 8.0})
    made("geometry+r1", 1, {40: 2.0}, {40: 2.0})
    made("no_ema", 0, {40: 2.0, 80: 2.0}, {40: 2.0, 80: 2.0}, steps=80)
    made("else", 0, {40: 2.0}, {40: 2.0})

    runs = stability.complete_runs(tmp_path, 40)

    assert [(run.row.name, run.seed) for run in runs] == [
        *[("base", 0), ("base", 10), ("r1", 0), ("geometry+r1", 1)]
    ]
    stability.write_results(tmp_path, runs)
    rows = [line.split(" | ") for line in (tmp_path / "stability.md").read_text().splitlines()]
    gaps = {row[0]: row[2:] for row in rows[:7] if len(row) > 8}
    mean_and_deviation = ["4.5 ± 2.1", "5 ± 1.4", "0.5 ± 0.71", "0.5 ± 0.71"]
    assert gaps["| base"] == [
        *["0, 10", "20, 40", *mean_and_deviation],
        *["5.25 ± 2.5", "6 ± 1.4", "0.75 ± 1.1", "0 ± 0 |"],
    ]
    assert gaps["| r1"] == ["0", "40", "7", "7", "0", "0", "8", "8", "0", "3 |"]
    assert gaps["| geometry+r1"][-1] == "- |"  # no base run of its seed
    assert (tmp_path / "stability.png").is_file()


def test_averaged_and_live_weights_of_a_checkpoint_are_scored(averages, tmp_path):
    data, model = tmp_path / "data", tmp_path / "model.safetensors"
    write_toy(data, train=1, test=2)
    methods = {"averaged": build("cut").eval(), "live": build("cut").eval()}
    with torch.no_grad():  # same seed, so they would be alike
        methods["averaged"].G.get_parameter("model.1.weight").mul_(1.5)
    tensors = dict(methods["live"].state_dict())
    for name, tensor in methods["averaged"].state_dict(prefix="ema.").items():
        if name.startswith("ema.G."):
            tensors[name] = tensor
    header = ModelHeader(method="cut", config=to_plain(methods["live"].config), size=32)
    write_tensors(model, tensors, header.to_metadata())

    found = {weights: averages.scores_of(model, weights, data) for weights in methods}

    for weights, method in methods.items():
        changes = []
        for path in (data / "testA").iterdir():
            x_CHW, outside = to_tensor(read_image(path, 3)), np.array(Image.open(mask_file(path)))
            with torch.no_grad():
                change_CHW = (method.translate(x_CHW[None])[0] - x_CHW).abs()
            changes.append(change_CHW.numpy()[:, outside == 0].mean() * 127.5)
        assert found[weights]["change_outside"] == pytest.approx(np.mean(changes), rel=1e-4)
    assert found["averaged"] != found["live"]


def test_averaged_weights_win_where_less_change_or_more_overlap(averages):
    first = ({"tone_inside": 10.0, "stripe_iou": 0.5, "change_outside": 4.0},) * 2
    second = (
        {"tone_inside": 12.0, "stripe_iou": 0.6, "change_outside": 4.0},
        {"tone_inside": 15.0, "stripe_iou": 0.4, "change_outside": 2.0},
    )
    assert averages.table({20: [second], 10: [first, second]}).splitlines()[2:] == [
        "| 10 | tone_inside | 11 | 12.5 | -1.5 ± 2.1 | 1 of 2 |",
        "| 10 | stripe_iou | 0.55 | 0.45 | +0.1 ± 0.14 | 1 of 2 |",
        "| 10 | change_outside | 4 | 3 | +1 ± 1.4 | 0 of 2 |",
        "| 20 | tone_inside | 12 | 15 | -3 | 1 of 1 |",
        "| 20 | stripe_iou | 0.6 | 0.4 | +0.2 | 1 of 1 |",
        "| 20 | change_outside | 4 | 2 | +2 | 0 of 1 |",
    ]


def flagged(default_options, row):
    from patchkin.cli.parsing import parse
    from patchkin.cli.train import TrainOptions
    from patchkin.methods import METHODS

    kind = METHODS[row.method]
    options = TrainOptions[kind.config_type]
    return parse(options, row.flags, prog="train", default=default_options(kind, [])).method


def test_time_is_shared_and_what_is_left_goes_to_the_unfinished(horses, tmp_path, monkeypatch):
    """Of 3 runs in 300 s the first needs 40 s, the others 500 s: they share the 260 s."""
    clock = {"now": 1000.0}
    needed = {"a": 40.0, "b": 500.0, "c": 500.0}

    class Fake:
        def __init__(self, name):
            self.name = name

        @property
        def complete(self):
            return needed[self.name] <= 0

    def train_all(members, *, deadline):
        (one,) = members
        seconds = min(needed[one.name], deadline - clock["now"])
        needed[one.name] -= seconds
        clock["now"] += seconds
        log.append((one.name, round(seconds, 6)))

    log: list[tuple[str, float]] = []
    monkeypatch.setattr(horses, "train_all", train_all)
    monkeypatch.setattr(horses, "make_small", lambda _: None)
    monkeypatch.setattr(horses.time, "monotonic", lambda: clock["now"])
    horses.train_within([Fake("a"), Fake("b"), Fake("c")], deadline=1300.0)
    assert log == [("a", 40.0), ("b", 130.0), ("c", 130.0)]
    log.clear()
    horses.train_within([Fake("b"), Fake("c")], deadline=clock["now"] + 40)
    assert log == [("c", 40.0)]  # 20 s each would not be worth two starts


def test_the_fastest_flags_that_work_are_taken_and_fix_the_steps(horses, tmp_path, monkeypatch):
    seconds = {(): 0.4, ("--compile",): 0.1, ("--cuda-graphs",): None}

    def returncode_of(arguments, log):
        speedup = tuple(flag for flag in arguments if flag in ("--compile", "--cuda-graphs"))
        value = seconds[speedup]
        dclgan = 2 if "dclgan" in arguments else 1
        lines = [] if value is None else [9.0, value * dclgan, value * dclgan]
        folder = Path(arguments[arguments.index("--run-dir") + 1])
        records = [{"step": i, "seconds_per_step": s} for i, s in enumerate(lines)]
        (folder / "log.jsonl").write_text("\n".join(map(json.dumps, records)))
        return 2 if value is None else 0

    monkeypatch.setattr(horses, "returncode_of", returncode_of)
    options = Namespace(
        output=tmp_path, steps="auto", hours=1.0, seeds=[0, 1], profile="gpu", train=[]
    )
    rows = [horses.RELEASED, horses.PAPER, horses.DCLGAN]
    plan = horses.read_or_make_plan(options, horses.PROFILES["gpu"], rows, tmp_path)
    assert plan.speedup == ["--compile"]
    assert plan.seconds_per_step == {"released": 0.1, "paper": 0.1, "dclgan": 0.2}
    # 85 % of an hour over 2 seeds of 0.4 s for the three rows: 3825 steps, in tenths
    assert (plan.steps, plan.score_every) == (3820, 382)
    again = Namespace(**{**vars(options), "hours": 9.0})
    assert horses.read_or_make_plan(again, horses.PROFILES["gpu"], rows, tmp_path) == plan
    other = Namespace(**{**vars(options), "steps": "500"})
    with pytest.raises(SystemExit, match="has steps 3820, this call 500"):
        horses.read_or_make_plan(other, horses.PROFILES["gpu"], rows, tmp_path)


def write_model(path, method):
    header = ModelHeader(method=method.name, config=to_plain(method.config), step=9, size=32)
    write_tensors(path, method.state_dict(), header.to_metadata())


def test_test_images_are_resized_and_validation_images_held_out(horses, tmp_path):
    write_toy(tmp_path / "toy", size=64, train=6, test=3)
    data = horses.prepared_data(tmp_path / "toy", tmp_path / "data", 32)
    names = {d: sorted(p.name for p in (data / d).iterdir()) for d in ("trainA", "valA")}
    assert names["valA"] == ["0000.png", "0002.png", "0004.png"]  # every second of 6
    assert names["trainA"] == ["0001.png", "0003.png", "0005.png"]
    assert read_image(data / "testA" / "0000.png", 3).pixels.size == (32, 32)
    assert read_image(data / "trainA" / "0001.png", 3).pixels.size == (64, 64)


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path):
    write_toy(tmp_path / "toy", size=64, train=12, test=3)
    output = tmp_path / "study"
    command = [
        *(sys.executable, str(BENCHMARKS / "horse2zebra/run.py"), str(tmp_path / "toy")),
        *(str(output), "--profile", "tiny", "--steps", "24", "--hours", "0.2", "--seeds", "0"),
    ]
    first = subprocess.Popen(command, start_new_session=True)
    until = time.monotonic() + 120
    checkpoint = output / "cut_seed0/checkpoints/step_00000012"
    while not checkpoint.is_dir() and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert checkpoint.is_dir()
    assert not (output / "cut_seed0/checkpoints/step_00000024").is_dir()
    subprocess.run(command, check=True)
    assert "Resuming" in (output / "cut_seed0/train.log").read_text()
    for name in ("cut", "released"):
        steps = sorted(p.name for p in (output / f"{name}_seed0/checkpoints").glob("step_*"))
        assert steps == ["step_00000012", "step_00000024"]
    page = (output / "page.md").read_text()
    assert "Scores on testA at step 24 of 24" in page
    assert page.count("patchkin train") == 2
    assert read_image(output / "grid_seed0.png", 3).pixels.size[0] == 3 * 32 + 2 * 2
    assert (output / "comparison.html").is_file()
    subprocess.run([*command, "--rows", "released"], check=True)
    assert (output / "page.md").read_text() == page  # of both rows still
