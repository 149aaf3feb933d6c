from __future__ import annotations

import pytest

from patchkin.training import log
from patchkin.training.log import Forecast, RunLog, Window


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


def test_lines_are_plain_in_a_notebook(tmp_path, monkeypatch, capsys):
    """rich would hand each to the notebook as a table of HTML."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    RunLog(tmp_path / "log.jsonl", total_steps=4).say("step 2/4  [GAN] 1")
    assert capsys.readouterr().err == "step 2/4  [GAN] 1\n"


def test_after_twenty_steps_it_says_how_long_it_will_take():
    """The middle one counts: the first steps are slow."""
    forecast = Forecast(1020)
    said = [forecast.add(30.0 if step < 3 else 2.0) for step in range(25)]
    assert [step for step, lines in enumerate(said) if lines] == [19]
    (line,) = said[19]
    assert line.startswith("2 s per step: about 33:20 to the end, ")


def test_more_than_a_week_is_warned_of_and_told_in_days():
    for steps, days, warned in ((300_020, "6 days 22 h", False), (305_020, "7 days 1 h", True)):
        forecast = Forecast(steps)
        (lines,) = filter(None, [forecast.add(2.0) for _ in range(20)])
        assert f"about {days} to the end" in lines[0]
        assert [line.startswith("Warning: that is more than a week.") for line in lines[1:]] == (
            [True] if warned else []
        )


def test_a_run_of_few_steps_has_no_forecast():
    forecast = Forecast(20)
    assert [forecast.add(1.0) for _ in range(20)] == [[]] * 20
