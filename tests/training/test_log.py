from __future__ import annotations

import pytest

from patchkin.training import log
from patchkin.training.log import RunLog, Window


def test_the_wait_for_the_loader_is_shown(tmp_path, monkeypatch, capsys):
    """Three of ten seconds."""
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(log.time, "perf_counter", lambda: next(clock))
    window = Window()
    for waited in (2.0, 1.0):
        window.add({"G": 1.0}, images=4, waited=waited)
    record = {"step": 2, **window.summary()}
    assert record["loader_wait"] == pytest.approx(0.3)
    RunLog(tmp_path / "log.jsonl", total_steps=4).show_terms(record)
    assert capsys.readouterr().err == "step 2/4  0.80 img/s, wait 30%  0:10 left  G 1\n"
