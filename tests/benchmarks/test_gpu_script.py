"""`benchmarks/gpu/run.py` on a CPU, with tiny networks."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "run.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_run"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_run"]


def only(script, monkeypatch, *, methods, goldens=True):
    """Few methods, and no run of the golden tests."""
    monkeypatch.setattr(script, "METHODS", {name: script.METHODS[name] for name in methods})
    monkeypatch.setattr(script, "METHODS_TIMED", methods)
    if goldens:
        monkeypatch.setattr(script, "goldens", lambda record, device: None)


def test_what_does_not_fit_in_the_time_is_listed(script, tmp_path, monkeypatch, capsys):
    only(script, monkeypatch, methods=("cut",))
    assert script.main([str(tmp_path), "--minutes", "0", "--device", "cpu", "--tiny"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["steps"] == found["compiled"] == []
    assert found["left_out"][:3] == ["goldens", "float64 steps of cut", "peak in 32-true"]
    assert found["left_out"][-1] == "compiled steps of cut"
    page = (tmp_path / "gpu.md").read_text()
    assert "## Not done in the time" in page
    assert "- cut, batch 1, bf16-mixed, channels-last" in page
    assert capsys.readouterr().out.strip() == str(tmp_path / "gpu.md")


def test_a_case_that_fails_is_a_row_with_its_reason(script, tmp_path, monkeypatch):
    record = script.Record(tmp_path, script.time.monotonic() + 60, {"device": "none"})
    script.timed(record, script.Case(method="cut", device="cuda", precision="32-true"))
    (row,) = record.steps
    assert row["reason"] == "--device cuda: this machine has none. Use --device cpu."
    assert row["images_per_second"] is None
    monkeypatch.setattr(script, "small", lambda name: 1 / 0)
    script.same_steps(record, "cut", "cpu")
    script.compiled(record, "cut", "cpu")
    assert record.goldens[0]["result"] == "ZeroDivisionError: division by zero"
    assert record.compiled[0]["reason"] == "ZeroDivisionError: division by zero"
    assert "| cut |  |  | ZeroDivisionError: division by zero |" in script.page(record)


def test_differences_are_of_terms_by_their_size(script):
    ours = [{"a": 1.0, "b": 102.0}, {"a": 0.25}]
    theirs = [{"a": 1.0, "b": 100.0}, {"a": 0.0}]
    assert script.largest_difference(ours, theirs) == 0.25


def test_what_is_dropped_by_chance_does_not_count(script):
    record = script.Record(Path("unused"), script.time.monotonic() + 60, {})
    script.same_steps(record, "pix2pix", "cpu")
    assert record.goldens[0]["float64"] == 0.0  # with half of the values dropped: 0.001
    assert 0 < record.goldens[0]["float32"] < 1e-4


@pytest.mark.slow
def test_the_whole_script_at_tiny_size(script, tmp_path, monkeypatch):
    only(script, monkeypatch, methods=("cut", "semantic-relation"))
    arguments = ["--minutes", "9", "--device", "cpu", "--size", "32", "--tiny"]
    assert script.main([str(tmp_path), *arguments]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left_out"] == []
    for row in found["goldens"]:
        assert row["float64"] == 0.0  # the same machine
        assert 0 < row["float32"] < 1e-3
    assert set(found["peaks"]) == {"32-true", "bf16-mixed"}
    assert len(found["steps"]) == 6
    assert all(row["reason"] is None and row["images_per_second"] > 0 for row in found["steps"])
    assert {row["method"] for row in found["compiled"]} == {"cut", "semantic-relation"}
    for row in found["compiled"]:
        assert row["reason"] or row["difference"] < 1e-9
