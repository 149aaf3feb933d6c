"""`benchmarks/toy/long.py`: what is said of the records of runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

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
