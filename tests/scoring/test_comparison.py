"""Last, best on validation and best on test, side by side."""

from __future__ import annotations

import json
import math

import pytest
import yaml

from patchkin.errors import ConfigError
from patchkin.methods import METHODS
from patchkin.scoring.comparison.reading import read_run
from patchkin.scoring.comparison.scored import group_by_settings
from patchkin.scoring.comparison.table import make_table


def make_run(folder, *, seed=0, validation, test=None, rate=1.0):
    """A run folder with scores at steps; the best on validation has the highest psnr."""
    folder.mkdir(parents=True)
    config = {
        "name": "cut",
        "method": {"rate": rate},
        "data": {"root": "toy"},
        "schedule": {},
        "training": {"seed": seed},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines, best = [], None
    for step, psnr in validation.items():
        is_best = best is None or psnr > best
        best = psnr if is_best else best
        lines.append(json.dumps({"step": step, "scores": {"psnr": psnr}, "best": is_best}))
    lines.append(json.dumps({"step": max(validation), "terms": {}}))
    (folder / "log.jsonl").write_text("\n".join(lines))
    if test is not None:
        results = [
            {
                "scores": scores,
                "subject": {"step": step},
                "data": {"split": "test"},
                "protocols": {"p": {}},
            }
            for step, scores in test.items()
        ]
        (folder / "scores.json").write_text(json.dumps(results))
    return folder


def row_of(run, score, split="test"):
    """Of the first images of a split that have the score."""
    images = next(of for name, of in run.measured if name == score and of.split == split)
    return run.row(score, images)


def told(*runs):
    """Rows of the one table: score, images, checkpoint and cells."""
    table = make_table(group_by_settings(runs), METHODS)
    return [
        (row.score, row.images, row.checkpoint, [cell.text for cell in row.cells])
        for row in table.rows
    ]


def test_the_three_columns_are_what_they_say(tmp_path):
    run = read_run(
        make_run(
            tmp_path / "a",
            validation={10: 20.0, 20: 25.0, 30: 22.0},
            test={10: {"p/frechet": 50.0}, 20: {"p/frechet": 40.0}, 30: {"p/frechet": 45.0}},
        )
    )
    assert row_of(run, "p/frechet") == {
        "last": 45.0,
        "best on validation": 40.0,
        "best on test": 40.0,
    }
    validation = {"last": 22.0, "best on validation": 25.0, "best on test": None}
    assert row_of(run, "psnr", "validation") == validation


def test_the_best_test_score_is_not_the_one_validation_chose(tmp_path):
    run = read_run(
        make_run(
            tmp_path / "a",
            validation={10: 25.0, 20: 20.0},
            test={
                10: {"p/frechet": 50.0, "p/class_top1": 10.0},
                20: {"p/frechet": 30.0, "p/class_top1": 5.0},
            },
        )
    )
    assert row_of(run, "p/frechet") == {
        "last": 30.0,
        "best on validation": 50.0,
        "best on test": 30.0,
    }
    assert row_of(run, "p/class_top1")["best on test"] == 10.0  # a rate is the better the higher


@pytest.mark.parametrize(
    ("score", "best"),
    [
        ("segmentation-correct/classAcc_over_all", 40.0),
        ("segmentation-released/mIoU_fraction", 40.0),
        ("collapse_outputs", 40.0),
        ("relation_change", 30.0),
        ("counterpart/detail_inside", None),
        ("change_inside", None),
    ],
)
def test_the_best_on_test_is_the_better_one(tmp_path, score, best):
    """What papers call higher is better is not ranked the other way round."""
    test = {10: {score: 30.0}, 20: {score: 40.0}, 30: {score: 35.0}}
    run = read_run(make_run(tmp_path / "a", validation={10: 1.0, 20: 0.5, 30: 0.5}, test=test))
    assert row_of(run, score) == {"last": 35.0, "best on validation": 30.0, "best on test": best}
    (row,) = [row for row in group_by_settings([run])[0].table() if row.score == score]
    assert row.cells == ["35", "30", "-" if best is None else f"{best:g}"]


def test_repetitions_are_averaged_and_other_settings_are_not(tmp_path):
    runs = [
        read_run(make_run(tmp_path / "s0", seed=0, validation={10: 20.0})),
        read_run(make_run(tmp_path / "s1", seed=1, validation={10: 24.0})),
        read_run(make_run(tmp_path / "other", validation={10: 30.0}, rate=2.0)),
    ]
    groups = group_by_settings(runs)
    assert [len(group.runs) for group in groups] == [2, 1]
    (row,) = groups[0].table()
    assert (row.score, row.images.split, row.num_runs) == ("psnr", "validation", 2)
    assert row.cells == ["22 ± 2.8", "22 ± 2.8", "-"]
    table = make_table(groups, METHODS)
    assert [column.name for column in table.columns] == ["s0 and 1 more", "other"]
    assert table.columns[0].facts == {"method": "cut", "n": "2", "seeds": "0, 1", "last step": "10"}
    assert [cell.text for cell in table.rows[0].cells] == ["22 ± 2.8 (n=2)", "30"]


def test_a_mean_is_never_of_test_and_validation_images(tmp_path):
    """One of three runs was not evaluated: its 90 of validation images stays out of that mean."""
    runs = [
        read_run(make_run(tmp_path / "s0", seed=0, validation={10: 80.0}, test={10: {"psnr": 20}})),
        read_run(make_run(tmp_path / "s1", seed=1, validation={10: 82.0}, test={10: {"psnr": 24}})),
        read_run(make_run(tmp_path / "s2", seed=2, validation={10: 90.0})),
    ]
    test, validation = group_by_settings(runs)[0].table()
    assert (test.score, test.images.split, test.num_runs) == ("psnr", "test", 2)
    assert test.values["last"] == (20, 24)
    assert test.cells[0] == "22 ± 2.8"
    assert (validation.images.split, validation.num_runs) == ("validation", 3)
    assert validation.values["last"] == (80, 82, 90)
    (cell,) = make_table(group_by_settings(runs), METHODS).rows[0].cells
    assert (cell.mean, cell.deviation, cell.values) == (22, pytest.approx(8**0.5), (20, 24))
    assert cell.text == "22 ± 2.8 (n=2) [1]"
    rows = [(images, checkpoint) for _, images, checkpoint, _ in told(*runs)]
    assert rows[::3] == [("test", "last"), ("validation", "last")]


def test_infinite_scores_have_no_deviation(tmp_path):
    runs = [
        read_run(make_run(tmp_path / str(seed), seed=seed, validation={10: value}))
        for seed, value in enumerate((math.inf, 20.0))
    ]
    (row,) = group_by_settings(runs)[0].table()
    assert row.cells[0] == "inf ± nan"
    (cell,) = make_table(group_by_settings(runs), METHODS).rows[0].cells
    assert cell.mean == math.inf


def test_a_column_that_few_runs_have_says_of_how_many_it_is_the_mean(tmp_path):
    runs = [
        read_run(make_run(tmp_path / "s0", seed=0, validation={10: 1.0, 20: 0.5},
                          test={10: {"psnr": 20}, 20: {"psnr": 21}})),
        read_run(make_run(tmp_path / "s1", seed=1, validation={10: 1.0, 20: 0.5},
                          test={20: {"psnr": 25}})),
    ]  # fmt: skip
    row = group_by_settings(runs)[0].table()[0]
    assert row.cells == ["23 ± 2.8", "20 (n=1)", "23 ± 2.8"]
    cells = [cell for *_, (cell,) in told(*runs)]
    assert cells == ["23 ± 2.8 (n=2)", "20 (n=1) [1]", "23 ± 2.8 (n=2)"]


@pytest.mark.parametrize(
    ("change", "images"),
    [
        ({"data": {"split": "val, also used for selection"}}, "val, also used for selection"),
        ({"data": {"split": "test", "root": "/other"}}, "test, data /other"),
        ({"data": {"split": "test", "direction": "BtoA"}}, "test, BtoA"),
        ({"subject": {"step": 10, "weights": "averaged"}}, "test, averaged weights"),
    ],
)
def test_what_is_of_something_else_is_a_row_of_its_own(tmp_path, change, images):
    folder = make_run(tmp_path / "a", validation={10: 1.0}, test={10: {"psnr": 20}})
    entries = json.loads((folder / "scores.json").read_text())
    entries.append({**entries[0], **change, "scores": {"psnr": 30}})
    (folder / "scores.json").write_text(json.dumps(entries))
    rows = [(of, cells) for _, of, which, cells in told(read_run(folder)) if which == "last"]
    assert rows == [("test", ["20"]), (images, ["30"])]


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        read_run(tmp_path)
