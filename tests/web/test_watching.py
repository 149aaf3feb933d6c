"""What the tab of runs sends of a run that grows."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import gradio as gr
import pytest

from cli.conftest import command, finished_run, toy_root
from patchkin.web.models import Models
from patchkin.web.shown import Shown
from patchkin.web.visitors import Visitors
from patchkin.web.watching import RunsTab

__all__ = ["command", "finished_run", "toy_root"]


@pytest.fixture
def watched(finished_run, tmp_path):
    """What a look sends, for what was sent before; and the folder of the run."""
    run = tmp_path / "runs" / "mine"
    shutil.copytree(finished_run, run)
    shown = Shown(
        models=Models([str(finished_run)], device="cpu"),
        examples=(),
        visitors=Visitors(tmp_path / "visitors"),
        tile=64,
        max_files=2,
        runs=tmp_path / "runs",
    )
    tab = object.__new__(RunsTab)  # without a page, whose event loops gradio leaves open
    tab._shown, tab._folder = shown, shown.runs
    request = SimpleNamespace(session_hash="somebody")
    return lambda seen: tab._look("mine", seen, request), run


def _skipped(sent):
    return all(part == gr.skip() for part in sent)


def test_news_is_sent_twice_for_what_comes_while_the_tab_is_drawn_is_lost(watched):
    look, run = watched
    first = look(("", 0))
    again = look(first[-1])
    assert "mine" in first[-1][0]
    assert (first[-1][1], again[-1][1]) == (1, 2)
    assert first[1] == again[1]
    assert "Step" in first[1]
    assert _skipped(look(again[-1]))

    with (run / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 1234567, "terms": {"D": 1.0}}\n')
    grown = look(again[-1])
    assert "1,234,567" in grown[1]
    assert grown[-1][1] == 1
    assert _skipped(look(look(grown[-1])[-1]))


def test_a_folder_without_runs_is_looked_at_again_and_again(watched):
    look, run = watched
    shutil.rmtree(run)
    sent = look(("", 0))
    assert "There is no run in runs yet." in sent[1]
    assert sent[-1] == ("", 0)
    assert not _skipped(look(sent[-1]))
