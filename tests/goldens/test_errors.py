"""What is told of the errors of golden tests is what the tests compare."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from goldens.errors import VARIABLE, note_most, watched, written
from goldens.fixtures import assert_close_to_maximum
from goldens.replay import assert_after_adam, assert_gradients

ROW = torch.tensor([1.0, -4.0, 2.0], dtype=torch.float64)


def test_the_largest_of_several_comparisons_is_told():
    close, approx = torch.testing.assert_close, pytest.approx
    with watched() as found:
        torch.testing.assert_close(ROW + 1e-6, ROW, rtol=0, atol=4e-6)
        assert found.share == pytest.approx(0.25, rel=1e-6)
        assert found.error == pytest.approx(1e-6 / 4, rel=1e-6)  # the largest number is 4
    with watched() as found:
        assert pytest.approx(10.0, rel=1e-6) == 10.0 + 3e-6
        assert np.float64(10.0 + 4e-6) == pytest.approx(10.0, rel=1e-6)
        assert_close_to_maximum(ROW + 2e-5, ROW, relative=1e-5)
    assert found.comparisons == 3
    assert found.share == approx(0.5)
    assert found.error == approx(5e-6)
    assert (torch.testing.assert_close, pytest.approx) == (close, approx)


def test_tolerances_may_be_of_each_number_and_by_default():
    with watched() as found:
        torch.testing.assert_close(ROW * (1 + 1e-7), ROW, rtol=2e-7, atol=0)
    assert found.share == pytest.approx(0.5, rel=1e-6)
    with watched() as found:
        torch.testing.assert_close(ROW + 1e-7, ROW)  # 1e-7 and 1e-7 of each: 1 allows least
    assert found.share == pytest.approx(0.5, rel=1e-6)


def test_what_is_nothing_but_for_rounding_has_no_relative_error():
    with watched() as found:
        torch.testing.assert_close(torch.tensor(1e-12), torch.tensor(3e-12), rtol=0, atol=1e-9)
        assert pytest.approx([1.0, 2.0]) == [1.0, 2.0]  # of several numbers: not looked at
        torch.testing.assert_close(torch.zeros(0), torch.zeros(0))
    assert (found.comparisons, found.error) == (1, 0.0)
    assert found.share == pytest.approx(2e-3)


def test_what_must_be_equal_takes_nothing_or_fails():
    with watched() as found:
        torch.testing.assert_close(ROW, ROW, rtol=0, atol=0)
        assert found.share == 0
        with pytest.raises(AssertionError):
            torch.testing.assert_close(ROW + 1, ROW, rtol=0, atol=0)
    assert found.share == float("inf")


def test_comparisons_of_gradients_and_of_weights_after_adam_are_told():
    with watched() as found:
        assert_gradients({"G.w": ROW * 1.0005}, {"G.w": ROW}, relative=1e-3, floor=0.0)
    assert found.share == pytest.approx(0.5, rel=1e-6)
    weights = torch.zeros(2000)
    moved = weights.clone()
    moved[0], moved[1] = 1e-3, 5e-6  # one of 2000 may be far off
    with watched() as found:
        assert_after_adam({"a": moved}, {"a": weights}, skip=set(), rate=1e-3, steps=1, close=1e-5)
    assert found.share == 0.0  # the 1998th of 2000
    with watched() as found:
        note_most(torch.tensor([0.0, 3.0, 1.0, 2.0]), share=0.75, allowed=4.0)
    assert found.share == 0.5


def test_a_line_is_written_where_a_file_is_named(tmp_path, monkeypatch, request):
    class Request:
        class node:  # noqa: N801
            nodeid = "test_x.py::test_y"

            class callspec:  # noqa: N801
                params = {"path": tmp_path / "cut_step_cut_final.npz", "dtype": torch.float64}

    target = tmp_path / "errors.jsonl"
    monkeypatch.delenv(VARIABLE, raising=False)
    with written(Request):
        assert pytest.approx(1.0) == 1.0
    assert not target.exists()
    monkeypatch.setenv(VARIABLE, str(target))
    with written(Request):
        assert pytest.approx(1.0, rel=1e-9) == 1.0 + 5e-10
    with written(request):  # of this test, which has no golden
        pass
    (line,) = map(json.loads, target.read_text().splitlines())
    assert line["schema"] == "cut_step_cut"
    assert line["test"] == "test_x.py::test_y"
    assert line["comparisons"] == 1
    assert line["share"] == pytest.approx(0.5, rel=1e-6)
