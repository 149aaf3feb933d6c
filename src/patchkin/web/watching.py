"""The tab of runs: how they go while they train, and side by side."""

from __future__ import annotations

import html
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from patchkin.config import read_yaml
from patchkin.errors import PatchkinError
from patchkin.methods import known_methods
from patchkin.scoring.comparison.formats import as_html
from patchkin.scoring.comparison.reading import read_all
from patchkin.scoring.comparison.scored import group_by_settings
from patchkin.scoring.comparison.table import make_table
from patchkin.scoring.report import as_written, read_log
from patchkin.web.curves import curves
from patchkin.web.pictures import show
from patchkin.web.shown import Shown, message

SECONDS = 2.0
"""Between two looks at a run."""
_DEPTH = 3
"""Folders below the given one that are searched for runs."""
_MOST_PREVIEWS = 6
_MOST_COMPARED = 12
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}


class RunsTab:
    """The components of the tab, and what they do."""

    def __init__(self, shown: Shown) -> None:
        """To be made inside of `gr.Blocks`, where runs are to be shown."""
        assert shown.runs is not None
        self._shown, self._folder = shown, shown.runs
        names = found_runs(self._folder)
        self.seen = gr.State("")
        with gr.Row():
            self.run = gr.Dropdown(
                names, value=names[0] if names else None, label="Run", elem_id="run"
            )
        self.facts = gr.HTML("", elem_id="facts")
        self.scores = gr.HTML("", elem_id="score-curves")
        self.terms = gr.HTML("", elem_id="term-curves")
        self.previews = gr.Gallery(
            label="Previews",
            show_label=False,
            columns=1,
            height="auto",
            object_fit="contain",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="previews",
            visible=False,
        )
        self.compare = gr.Button("Compare all runs of the folder", elem_id="compare")
        self.comparison = gr.HTML("", elem_id="comparison")
        self.timer = gr.Timer(SECONDS, active=False)
        self._connect()

    def look_while(self, this: gr.Tab, other: gr.Tab) -> None:
        """Look at the runs while this tab is in front, and not at all while the other one is."""
        light: dict[str, Any] = {"queue": False, **_PRIVATE}
        this.select(lambda: gr.Timer(active=True), None, self.timer, **light)
        this.select(self._look, self._sees, self._shows, show_progress="hidden", **light)
        other.select(lambda: gr.Timer(active=False), None, self.timer, **light)

    def _connect(self) -> None:
        self._sees = [self.run, self.seen]
        self._shows = [self.run, self.facts, self.scores, self.terms, self.previews, self.seen]
        quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, **_PRIVATE}
        self.timer.tick(self._look, self._sees, self._shows, **quiet)
        self.run.change(self._look, self._sees, self._shows, **quiet)
        self.compare.click(self._compared, None, self.comparison, **_PRIVATE)

    def _look(self, run: str | None, seen: str, request: gr.Request) -> list[Any]:
        """What is new of a run; nothing where nothing is."""
        names = found_runs(self._folder)
        run = run if run in names else next(iter(names), None)
        if run is None:
            line = f"There is no run in {self._folder.name} yet."
            return [gr.Dropdown(choices=[]), message(line), "", "", gr.Gallery(visible=False), ""]
        folder = self._folder / run
        now = f"{names} {_fingerprint(folder)}"
        if now == seen:
            return [gr.skip()] * 6
        records = read_log(folder)
        previews = self._previews(folder, request)
        return [
            gr.Dropdown(choices=names, value=run),
            _told(folder, records),
            _headed("Scores on validation images", curves(records, "scores")),
            _headed("Terms of the loss", curves(records, "terms")),
            gr.Gallery(value=previews, visible=bool(previews)),
            now,
        ]

    def _previews(self, folder: Path, request: gr.Request) -> list[tuple[str, str]]:
        files = sorted((folder / "previews").glob("step_*.png"))[-_MOST_PREVIEWS:]
        room = self._shown.visitors.of(request.session_hash).folder / "previews" / folder.name
        room.mkdir(parents=True, exist_ok=True)
        shown = []
        for file in reversed(files):
            step = int(file.stem.removeprefix("step_"))
            try:
                target = room / f"{step}.png"
                shown.append((str(target if target.is_file() else show(file, target)), f"{step}"))
            except PatchkinError:  # it is being written, or was removed
                continue
        return [(picture, f"step {step}") for picture, step in shown]

    def _compared(self) -> str:
        names = found_runs(self._folder)[:_MOST_COMPARED]
        if not names:
            return message("There is no run to compare.")
        try:
            groups = group_by_settings(read_all([str(self._folder / name) for name in names]))
            table = make_table(groups, self._shown.methods or known_methods())
        except (PatchkinError, OSError) as error:
            return message(str(error), bad=True)
        page = as_html(table, command=f"patchkin compare {self._folder.name}/*")
        return (
            f'<iframe class="comparison" title="Comparison" sandbox="allow-same-origin" '
            f'srcdoc="{html.escape(page)}"></iframe>'
        )


def found_runs(folder: Path) -> list[str]:
    """Names of the runs below a folder, those that grew last first."""
    found: list[tuple[float, str]] = []
    for path, folders, files in os.walk(folder):
        here = Path(path)
        if "config.yaml" in files:
            found.append((_changed(here), here.relative_to(folder).as_posix()))
            folders.clear()
        elif len(here.relative_to(folder).parts) >= _DEPTH:
            folders.clear()
    return [name for _, name in sorted(found, key=lambda run: (-run[0], run[1]))]


def _changed(run: Path) -> float:
    log = run / "log.jsonl"
    try:
        return round((log if log.exists() else run / "config.yaml").stat().st_mtime, -1)
    except OSError:
        return 0.0


def _fingerprint(run: Path) -> str:
    """Another one as soon as the log or the previews grew."""
    log, previews = run / "log.jsonl", run / "previews"
    size = log.stat().st_size if log.is_file() else 0
    number = sum(1 for _ in previews.glob("*.png")) if previews.is_dir() else 0
    return f"{run} {size} {number}"


def _told(run: Path, records: Sequence[Mapping[str, Any]]) -> str:
    try:
        with as_written(run):
            return facts(run, records)
    except PatchkinError as error:
        return message(str(error), bad=True)


def facts(run: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """Method, step of how many, speed, and when it was heard of last; as HTML."""
    config = read_yaml(run / "config.yaml")
    schedule, log = config.get("schedule") or {}, run / "log.jsonl"
    step = max((record["step"] for record in records if "step" in record), default=0)
    total = schedule.get("steps")
    told = {
        "Method": str(config.get("name")),
        "Step": f"{step:,} of {total:,}" if isinstance(total, int) else f"{step:,}",
    }
    speed = next((r["seconds_per_step"] for r in reversed(records) if "seconds_per_step" in r), 0)
    if speed:
        told["Speed"] = f"{speed:.3g} s a step"
        if isinstance(total, int) and step < total:
            told["Left"] = _duration((total - step) * speed)
    if log.is_file():
        told["Last heard of"] = time.strftime(
            "%d %b, %H:%M:%S", time.localtime(log.stat().st_mtime)
        )
    cells = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in told.items()
    )
    return f'<dl class="facts">{cells}</dl>'


def _duration(seconds: float) -> str:
    """For people.

    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _headed(heading: str, drawings: str) -> str:
    return f"<h3>{heading}</h3>{drawings}" if drawings else ""
