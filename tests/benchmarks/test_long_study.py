"""`benchmarks/toy/long.py`: what is said of the records of runs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from cli.conftest import TINY
from patchkin.cli import main

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "toy" / "long.py"


@pytest.fixture(scope="module")
def long():
    spec = importlib.util.spec_from_file_location("long_study", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["long_study"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["long_study"]


def record(long, row, seed, *, last, best=(5.0, 5.0), means=None):
    """Of a run of 20 steps whose best validation score was at step 10."""
    return long.Record(
        world="meadow",
        row=row,
        seed=seed,
        steps=20,
        command=f"patchkin train {row}",
        versions={},
        hours=0.1,
        best=10,
        validation={},
        means={step: {"tone_inside": value} for step, value in (means or {"20": 5.0}).items()},
        test={"20": {"tone_inside": last}, "10": {"tone_inside": list(best)}},
    )


def test_an_interval_is_that_of_loops_over_the_same_draws(long):
    chance = np.random.default_rng(3)
    difference_SN = chance.normal(size=(3, 5))
    difference_SN[1, 2] = difference_SN[0, 4] = np.nan
    draws = np.random.default_rng(0)
    seeds = draws.multinomial(3, np.full(3, 1 / 3), size=40)
    images = draws.multinomial(5, np.full(5, 1 / 5), size=40)
    means = []
    for of_seed, of_image in zip(seeds, images, strict=True):
        drawn = [
            difference_SN[s, n]
            for s in range(3)
            for n in range(5)
            for _ in range(of_seed[s] * of_image[n])
        ]
        means.append(np.nanmean(drawn))
    mean, low, high = long.interval(difference_SN, draws=40)
    assert mean == pytest.approx(np.nanmean(difference_SN))
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))


def test_scores_stand_by_last_best_on_validation_and_best_on_test(long):
    records = [
        record(long, "cut", 0, last=[4.0, 6.0], best=[3.0, 5.0], means={"15": 2.5, "20": 5.0}),
        record(long, "cut", 1, last=[8.0, 6.0], best=[3.0, 7.0], means={"15": 3.5, "20": 7.0}),
    ]
    page = long.tables(records)
    assert "| CUT | 2 | 6 ± 1.4 | 4.5 ± 0.71 | 3 ± 0.71 |" in page
    assert "## farm" not in page


def test_differences_are_of_the_same_seeds_and_bold_where_zero_is_left_out(long):
    records = [
        record(long, "cut", 0, last=[4.0, 6.0]),
        record(long, "cut", 1, last=[4.0, 6.0]),
        record(long, "released", 0, last=[3.0, 5.0]),
        record(long, "released", 2, last=[9.0, 9.0]),
        record(long, "paper", 0, last=[5.0, 5.0]),
    ]
    page = long.tables(records)
    assert "| semantic relation (released) against CUT | 1 | **-1 [-1, -1]** |" in page
    assert "| semantic relation (paper) against CUT | 1 | +0 [-1, +1] |" in page
    assert "DCLGAN against CUT" not in page


def test_every_row_and_claim_is_one_that_there_is(long):
    names = {row.name for row in long.ROWS}
    assert len(names) == len(long.ROWS) == 14
    assert {name for ours, theirs, _ in long.CLAIMS for name in (ours, theirs)} == names


def test_what_a_log_says_of_a_run_that_was_interrupted_once(long, tmp_path):
    lines = [
        {"step": 0, "scores": {"tone_inside": 90.0}, "best": True},
        {"step": 100, "terms": {}, "seconds_per_step": 0.36},
        {"step": 100, "scores": {"tone_inside": 50.0}, "best": True},
        {"step": 150, "terms": {}, "seconds_per_step": 0.72},
        {"step": 200, "scores": {"tone_inside": 40.0}, "best": True},
        {"step": 300, "terms": {}, "seconds_per_step": 0.24},
        {"step": 300, "scores": {"tone_inside": 60.0}},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(text, encoding="utf-8")
    ran = long.Ran.of(tmp_path)
    assert (ran.best, ran.hours) == (200, round((36 + 36 + 36) / 3600, 3))
    assert ran.scores == {step: {"tone_inside": s} for step, s in ((100, 50), (200, 40), (300, 60))}


def test_only_runs_without_a_record_are_done_and_their_records_kept(long, tmp_path, monkeypatch):
    growing = sys.modules["growing"]
    done = []

    def train_all(members, *, jobs, deadline, on_complete):
        assert (jobs, deadline) == (2, None)
        for member in members:
            done.append(member.folder.name)
            on_complete(member)

    monkeypatch.setattr(growing, "train_all", train_all)
    monkeypatch.setattr(growing, "stop_on_termination", lambda: None)
    parser = growing.study_parser("", rows=long.ROWS, seeds=(0,), steps=20, records=tmp_path / "r")
    options = parser.parse_args([str(tmp_path / "o"), "--jobs", "2", "--rows", "cut", "enco"])
    options.worlds = ["farm"]
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "farm_cut_seed0.json").write_text("{}", encoding="utf-8")
    code = growing.conduct(
        options,
        list(long.plan(options)),
        prepare=lambda: done.append("data"),
        recorded=lambda member: {"row": member.row.name},
        tables=lambda: "a page",
    )
    assert (code, done) == (0, ["data", "farm_enco_seed0"])
    assert json.loads((tmp_path / "r" / "farm_enco_seed0.json").read_text()) == {"row": "enco"}
    assert (tmp_path / "o" / "tables.md").read_text(encoding="utf-8") == "a page"


@pytest.mark.parametrize("world", ["farm", "meadow"])
def test_scores_of_images_are_those_of_an_evaluation(long, world, tmp_path, capsys):
    """Of a run of two steps, against `patchkin evaluate` of the same run."""
    data, run = tmp_path / world, tmp_path / "run"
    long.WORLDS[world](data, size=64, train=4, test=3, val=2)
    arguments = ["--data", str(data), "--run-dir", str(run), *TINY, "--steps", "2"]
    assert main(["train", "cut", *arguments]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json", "--protocol", "--device", "cpu"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    expected = {name.split("/")[-1]: value for name, value in result["scores"].items()}
    found = long.image_scores(run, 2, data)
    assert set(found) == {name for name in long.SCORES if world == "farm" or name in expected}
    for name, values in found.items():
        assert len(values) == 3
        assert long.mean_seen(long.per_image(values)) == pytest.approx(expected[name], rel=5e-4)
