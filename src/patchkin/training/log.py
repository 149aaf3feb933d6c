"""What a run tells: `log.jsonl` for programs, progress for people."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from patchkin.storage.atomic import append_line, write_text
from patchkin.storage.strict_json import parsed
from patchkin.training.loggers import Loggers, OpenLogger


class RunLog:
    """Appends to `log.jsonl` and shows progress on standard error."""

    def __init__(
        self,
        path: Path,
        *,
        total_steps: int,
        quiet: bool = False,
        loggers: Mapping[str, OpenLogger] | None = None,
    ) -> None:
        self._beside = Loggers({} if quiet else loggers or {}, path, say=self.say)
        self._path = path
        self._total_steps = total_steps
        self._quiet = quiet
        # In a notebook too: rich would make a table of HTML of every line there.
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, force_jupyter=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def shown(self, start_step: int) -> Iterator[None]:
        """A progress bar on a terminal; plain lines anywhere else."""
        if self._quiet or not sys.stderr.isatty():
            yield
            return
        columns = (
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            _TimeLeft(),
            TextColumn("{task.fields[terms]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as self._bar:
            self._task = self._bar.add_task(
                "", total=self._total_steps, completed=start_step, rate="", terms=""
            )
            yield
        self._bar = None

    def truncate_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run will do again.

        Raises:
            StorageError: the file cannot be written; it is as it was.
        """
        if self._quiet or not self._path.is_file():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if parsed(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the torn last line of a killed run
        write_text(self._path, "".join(kept))

    def write(self, record: Mapping[str, Any]) -> None:
        """One line of `log.jsonl`.

        Raises:
            StorageError: it cannot be written; the lines before it are whole.
        """
        if self._quiet:
            return
        self._beside.begin()
        append_line(self._path, json.dumps(record))
        self._beside.write(record)

    def image(self, step: int, file: Path) -> None:
        """A preview that was written, for other loggers."""
        if not self._quiet:
            self._beside.begin()
            self._beside.image(step, file)

    def close(self) -> None:
        """Let other loggers end."""
        self._beside.close()

    def write_once(self, record: Mapping[str, Any]) -> None:
        """`write`, unless it stands there: what follows a line may fail and be done again.

        Raises:
            StorageError: as `write`.
        """
        line = json.dumps(record)
        known = self._path.read_text(encoding="utf-8") if self._path.is_file() else ""
        if line not in known.splitlines():
            self.write(record)

    def say(self, message: str) -> None:
        """A line for people, on standard error."""
        if not self._quiet:
            self._console.print(message, markup=False)

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step)

    def show_terms(self, record: Mapping[str, Any]) -> None:
        """The terms of a log record, its rate, and how much of the time the loader let it wait."""
        terms = "  ".join(f"{name} {value:.4g}" for name, value in record["terms"].items())
        rate = f"{record['images_per_second']:.2f} img/s, wait {record['loader_wait']:.0%}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, rate=rate, terms=terms)
            return
        left = (self._total_steps - record["step"]) * record["seconds_per_step"]
        self.say(
            f"step {record['step']}/{self._total_steps}  {rate}  {duration(left)} left  {terms}"
        )


class Window:
    """Means of the terms since the last line of the log, and the time they took.

    Of a term that not every step has, the mean over those that have it.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._images = 0
        self._waited = 0.0
        self._began = time.perf_counter()
        self.steps = 0

    def add(self, terms: Mapping[str, float], *, images: int, waited: float) -> None:
        """One step: its terms, its images, and the seconds the loader let it wait."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._images += images
        self._waited += waited
        self.steps += 1

    def summary(self) -> dict[str, Any]:
        """The record of a log line, without its step."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        return {
            "terms": {name: total / self._counts[name] for name, total in self._sums.items()},
            "images_per_second": self._images / seconds,
            "seconds_per_step": seconds / self.steps,
            "loader_wait": self._waited / seconds,
        }


FORECAST_STEPS = 20
WEEK_SECONDS = 7 * 24 * 3600


class Forecast:
    """How long a run will take, from the middle one of its first steps.

    Args:
        steps: that are left to do.
    """

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._seconds: list[float] = []

    def add(self, seconds: float) -> list[str]:
        """Count a step; once there are enough of them, what to say."""
        self._left -= 1
        if len(self._seconds) >= FORECAST_STEPS:
            return []
        self._seconds.append(seconds)
        if len(self._seconds) < FORECAST_STEPS or self._left <= 0:
            return []
        each = sorted(self._seconds)[FORECAST_STEPS // 2]
        left = each * self._left
        end = datetime.datetime.now() + datetime.timedelta(seconds=left)
        said = [f"{each:.3g} s per step: about {duration(left)} to the end, {end:%a %d %b %H:%M}"]
        if left > WEEK_SECONDS:
            said.append(
                "Warning: that is more than a week. A GPU, a smaller --size, or fewer --steps or "
                "--epochs take less; `patchkin bench` tells what a step costs by method and size."
            )
        return said


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(59), duration(5 * 3600 + 61), duration(13 * 86400 + 7300)
    ('0:59', '5:01:01', '13 days 2 h')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, within = divmod(hours, 24)
    if days:
        return f"{days} day{'s' if days > 1 else ''} {within} h"
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class _TimeLeft(ProgressColumn):
    """The time to the end, in days where it has some."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None else duration(left), style="progress.remaining")
