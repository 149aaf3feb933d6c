"""`benchmarks/photos/study.py`: its commands, and what is said of the records of runs."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from patchkin.cli import main

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "photos" / "study.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("photo_study", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["photo_study"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["photo_study"]


def record(study, row, seed, last, *, best=None, name="facades"):
    """Of a run of 20 steps."""
    return study.Record(
        set=name,
        row=row,
        seed=seed,
        steps=20,
        command="patchkin train",
        versions={},
        hours=0.1,
        best=10 if best else 20,
        validation={},
        test={"20": last} | ({"10": best} if best else {}),
    )


def test_scores_stand_by_last_and_best_on_validation(study):
    page = study.tables(
        [
            record(study, "cut", 0, {"truth/psnr": 10.0, "same_of_8": 40.0}),
            record(
                study,
                "cut",
                1,
                {"truth/psnr": 12.0, "same_of_8": 50.0},
                best={"truth/psnr": 14.0, "same_of_8": 60.0},
            ),
            record(study, "enco", 0, {"truth/psnr": 9.0}),  # of an earlier version
        ]
    )
    assert "| CUT | 2 | 11 ± 1.4 | 12 ± 2.8 |" in page
    assert "| EnCo | 1 | 9 | 9 |" in page
    assert "8 colours" not in page  # not every record has it
    assert "## horse2zebra" not in page


def test_pixels_of_one_colour_are_counted_as_by_loops(study):
    generator = torch.Generator().manual_seed(0)
    y_CHW, truth_CHW = (2 * torch.rand(3, 5, 7, generator=generator) - 1 for _ in range(2))
    truth_CHW[:, 0] = y_CHW[:, 0]
    truth_CHW[0, 1, 0], y_CHW[0, 1, 0] = 1.0, 0.9999  # the end of the range is of the last bin
    for colours, levels in ((8, 2), (64, 4)):
        same = 0
        for row in range(5):
            for column in range(7):
                bins = [
                    [min(int((float(x_CHW[c, row, column]) + 1) / 2 * levels), levels - 1)
                     for c in range(3)]
                    for x_CHW in (y_CHW, truth_CHW)
                ]  # fmt: skip
                same += bins[0] == bins[1]
        assert 7 <= same < 35
        assert study.same_colour(y_CHW, truth_CHW, colours=colours) == pytest.approx(same / 35)


def test_every_command_is_one_that_train_takes(study, capsys, tmp_path):
    options = argparse.Namespace(
        seeds=[0],
        sets=list(study.SETS),
        rows=[row.name for row in study.ROWS],
        steps=30_000,
        output=tmp_path,
        weights=tmp_path / "squeezenet.pth",
    )
    members = list(study.plan(options))
    assert len(members) == 8
    assert len({member.folder for member in members}) == 8
    for member in members:
        assert main([*member.command, "--print-config"]) == 0
        told = capsys.readouterr().out
        assert f"name: {member.row.method}" in told
        assert "ngf: 12" in told
        assert f"direction: {'BtoA' if 'facades' in member.folder.name else 'AtoB'}" in told
