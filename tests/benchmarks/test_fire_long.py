"""The scripts of `benchmarks/fire` about long runs and equal numbers measure what they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from scipy import stats

from benchmarks.test_fire_scripts import FIRE
from benchmarks.test_scaling_scripts import loaded
from cli.conftest import finished_run, toy_root
from patchkin.storage.checkpoint import CheckpointStore

__all__ = ["finished_run", "toy_root"]


@pytest.fixture
def long(monkeypatch):
    return loaded(FIRE / "long.py", monkeypatch)


@pytest.fixture
def same(monkeypatch):
    return loaded(FIRE / "same_numbers.py", monkeypatch)


@pytest.fixture
def tables(same, monkeypatch):
    monkeypatch.setitem(sys.modules, "same_numbers", same)
    return loaded(FIRE / "same_tables.py", monkeypatch)


def samples(values, *, session=0, first=0, every=100):
    return [
        {"session": session, "step": first + every * place, "x": float(value)}
        for place, value in enumerate(values)
    ]


def test_a_slope_is_that_of_all_sessions_behind_their_beginnings(long):
    """Two levels, one growth; what is above it in the first tenth of the run is left out."""
    early = samples([0.0] * 30 + [10 + 0.02 * place for place in range(30, 150)])
    late = samples(
        [0.0] * 30 + [50 + 0.02 * place for place in range(30, 150)], session=1, first=15_000
    )
    growth, error = long.slope(early + late, "x", steps=30_000)
    assert growth == pytest.approx(0.2)  # 0.02 in 100 steps
    assert error == pytest.approx(0, abs=1e-6)


def test_the_error_of_a_slope_is_that_of_scipy_where_neighbours_are_not_alike(long):
    rng = np.random.default_rng(5)
    values = rng.normal(size=4000)
    values[1::2] -= 0.3 * values[::2]  # not the other way round: alike is taken as nothing
    growth, error = long.slope(samples(values), "x", steps=0)
    expected = stats.linregress(np.arange(4000) / 10, values)
    assert growth == pytest.approx(expected.slope, rel=1e-6)
    assert error == pytest.approx(expected.stderr, rel=1e-6)


def test_the_error_of_a_slope_holds_where_neighbours_are_alike(long):
    """Of 200 flat series of a first-order process, one in twenty is told to be further off."""
    rng = np.random.default_rng(3)
    beyond = 0
    for _ in range(200):
        values = np.zeros(300)
        for place in range(1, 300):
            values[place] = 0.8 * values[place - 1] + rng.normal()
        growth, error = long.slope(samples(values), "x", steps=0)
        beyond += abs(growth) > 2 * error
    assert 2 <= beyond <= 24


def test_too_few_samples_tell_nothing(long):
    growth, error = long.slope(samples([1, 2, 3]), "x", steps=100)
    assert np.isnan(growth)
    assert error == float("inf")


def told(long, **changes):
    found = {
        "slopes": dict.fromkeys(long.KINDS, (0.0, 0.0)),
        "report_bytes": 1e6,
        "resume_seconds": {"late": [(30.0, 6.0), (9.0, 5.0)], "early": [(4.0, 5.0), (5.0, 5.0)]},
    }
    return {**found, **changes}


def test_what_is_not_flat_or_not_bounded_is_a_fault(long):
    assert long.faults(told(long)) == []
    slopes = told(long)["slopes"]
    for name, growth in (("main_rss", (0.09, 0.01)), ("main_handles", (float("nan"), np.inf))):
        (fault,) = long.faults(told(long, slopes={**slopes, name: growth}))
        assert fault.startswith(f"{name} is not flat")
    assert long.faults(told(long, slopes={**slopes, "main_rss": (0.09, 0.004)})) == []
    assert long.faults(told(long, report_bytes=3e6)) == ["report.html has 3.0 MB"]
    seconds = {"late": [(30.0, 16.0), (15.5, 15.5)], "early": [(5.0, 5.0), (9.0, 5.0)]}
    assert long.faults(told(long, resume_seconds=seconds)) == [
        "going on takes 10.5 s more near the end",
        "going on takes 10.5 s of the processor more near the end",
    ]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_a_process_is_seen_with_what_it_started(long, tmp_path):
    before = long.sample_of(os.getpid())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert before["main_rss"] == pytest.approx(pages * os.sysconf("SC_PAGESIZE") / 2**20, abs=20)
    assert 0 < before["main_pss"] <= before["main_rss"]
    files = [(tmp_path / f"{number}").open("w") for number in range(3)]
    child = subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE)
    child.stdout.readline()
    after = long.sample_of(os.getpid())
    assert after["main_handles"] == before["main_handles"] + 4  # and the pipe
    assert after["processes"] == before["processes"] + 2
    assert after["workers_rss"] > before["workers_rss"]
    for process in [*long.children(child.pid), child.pid]:
        os.kill(process, 9)
    child.communicate()
    for file in files:
        file.close()


def test_the_last_step_is_that_of_a_whole_line(long, tmp_path):
    log = tmp_path / "log.jsonl"
    assert long.last_step(log) == 0
    log.write_text('{"step": 5}\n{"step": 10}\n{"step": 1')
    assert long.last_step(log) == 10


@pytest.mark.parametrize("script", ["long", "same"])
def test_a_run_is_cut_back_to_an_earlier_checkpoint(script, tmp_path, request):
    cut_back = request.getfixturevalue(script).cut_back
    store = CheckpointStore(tmp_path)
    for step in (3, 6, 9):
        store.path(step).mkdir(parents=True)
    cut_back(tmp_path, 6)
    assert store.steps() == [3, 6]
    assert store.pointed("last") == store.path(6)


@pytest.mark.slow
def test_a_run_of_1500_steps_is_measured_from_end_to_end(tmp_path):
    command = [sys.executable, str(FIRE / "long.py"), str(tmp_path), "--steps", "1500"]
    done = subprocess.run([*command, "--every", "0.5"], capture_output=True, text=True, check=False)
    found = json.loads((tmp_path / "long.json").read_text())
    assert found["log_lines"] == 150 + 4 + 1, done.stderr  # terms, scores, the session
    assert found["previews"] == 4
    assert found["report_bytes"] < 3e6
    assert found["samples"] > 10
    assert min(found["resume_seconds"]["late"])[0] > 0
    assert "| main, pss |" in done.stdout


# The same numbers


def test_two_runs_are_compared(same, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(same, "STEPS", 3)
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    assert same.compared(run_dir, finished_run) == {
        "equal": True, "first_terms": 0, "last_terms": 0, "largest_weight": 0, "near_weights": 1,
    }  # fmt: skip
    file = CheckpointStore(run_dir).path(3) / "model.safetensors"
    weights = load_file(file)
    name = max(weights, key=lambda n: weights[n].numel())
    weights[name].view(-1)[0] += 1e-3
    save_file(weights, file)
    seen = same.compared(run_dir, finished_run)
    assert not seen["equal"]
    assert seen["largest_weight"] == pytest.approx(1e-3, rel=1e-4)
    total = sum(weight.numel() for weight in weights.values())
    assert seen["near_weights"] == pytest.approx(1 - 1 / total)
    assert same.is_near(seen)
    assert not same.is_near({**seen, "largest_weight": 3e-3})
    assert not same.is_near({**seen, "first_terms": 2e-5})
    log = run_dir / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (terms,) = (line["terms"] for line in lines if "terms" in line)
    terms["D.real"] *= 1.5
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert same.compared(run_dir, finished_run)["last_terms"] == pytest.approx(0.5)


def test_the_table_says_what_is_not_as_promised(same, tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "METHODS", {"cut": ()})
    equal = {
        "equal": True, "first_terms": 0.0, "last_terms": 0.0, "largest_weight": 0.0,
        "near_weights": 1.0,
    }  # fmt: skip
    rounded = {**equal, "equal": False, "first_terms": 1e-7, "largest_weight": 1e-4}
    schema = {"comparisons": 4, "share": 0.25, "error": 3e-7}
    found = {
        "environment": {"python": "3.11", "torch": "2.14"},
        **{f"cut: {way.name}": equal if way.exact else rounded for way in same.WAYS},
        "in double": {v: {"2 threads": 1e-9, "2 processes": 0.0} for v in same.VARIANTS},
        "goldens": {"code": 0, "said": "9 passed", "schemas": {"cut_step_cut": schema}},
    }
    (tmp_path / "numbers.json").write_text(json.dumps(found))
    text, wrong = tables.tables([tmp_path])
    assert wrong == []
    assert "| 4 loader workers, as plain | bit-equal | bit-equal |" in text
    assert "| 2 threads, as plain | near | first terms 1.0e-07" in text
    assert "| `cut` | 1e-06 | 2 threads 1.0e-09, 2 processes 0.0e+00 |" in text
    assert "| `cut_step_cut` | 4 | 0.25; 3.0e-07 |" in text
    found["cut: cache"] = rounded
    found["cut: 2 threads"] = {**rounded, "first_terms": 1e-3}
    found["in double"]["munit"] = {"2 threads": 2e-6, "2 processes": 0.0}
    found["goldens"]["code"] = 1
    (tmp_path / "numbers.json").write_text(json.dumps(found))
    assert tables.tables([tmp_path])[1] == [
        f"A: cut, cache: {rounded}",
        f"A: cut, 2 threads: {found['cut: 2 threads']}",
        "A: munit in float64: {'2 threads': 2e-06, '2 processes': 0.0}",
        "A: golden tests: 9 passed",
    ]


def test_views_depend_on_the_way_of_cutting_and_on_nothing_else(same, toy_root):
    found = {name: same.views_digest(toy_root, name) for name in ("crop", "none")}
    assert found["crop"] != found["none"]
    assert same.views_digest(toy_root, "crop") == found["crop"]
