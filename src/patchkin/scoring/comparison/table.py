"""One table: scores down, runs across. What is not evaluated is said, with the command to do it.

A row is a score of one kind of images and of one choice of checkpoint. Its images are told by what
differs in the table: the data only where runs were trained or scored on several.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from patchkin.method import Method, StyledMethod
from patchkin.scoring.comparison.command import evaluation_command, of_two_folders
from patchkin.scoring.comparison.scored import (
    COLUMNS,
    TEST,
    VALIDATION,
    Group,
    Images,
    Key,
    Scored,
    deviation,
    text_of,
)
from patchkin.scoring.scores import SCORES


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number of a table, or why there is none."""

    values: tuple[float, ...] = ()
    """Of the members of a group that have it."""
    num_runs: int = 1
    """Members of the group."""
    notes: tuple[int, ...] = ()
    """Places in `Table.notes` of the commands that would fill it."""

    @property
    def mean(self) -> float | None:
        """Of the values; None without any."""
        return statistics.mean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Of several values."""
        return deviation(self.values) if len(self.values) > 1 else None

    @property
    def number(self) -> str:
        """`22 ± 2.8 (n=2)`; `-` without one."""
        n = f" (n={len(self.values)})" if self.values and self.num_runs > 1 else ""
        return f"{text_of(self.values)}{n}"

    @property
    def text(self) -> str:
        """`22 ± 2.8 (n=2)`; `not evaluated [1]`; `-` where nothing can be."""
        marks = f" [{', '.join(str(note + 1) for note in self.notes)}]" if self.notes else ""
        return f"{'not evaluated' if marks and not self.values else self.number}{marks}"


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A score, which images it is of, which checkpoint, and a cell for each column."""

    score: str
    images: str
    checkpoint: str
    cells: tuple[Cell, ...]

    @property
    def better(self) -> str:
        """`lower`, `higher`, or `-` where neither is."""
        score = SCORES.get(self.score.rpartition("/")[2])
        return (score and score.better) or "-"

    @property
    def unit(self) -> str:
        """And range; empty if the score is not declared."""
        score = SCORES.get(self.score.rpartition("/")[2])
        return "" if score is None else score.unit


@dataclass(frozen=True, kw_only=True)
class Column:
    """A group of runs, a model, or a folder."""

    name: str
    group: Group

    @property
    def facts(self) -> dict[str, str]:
        """What stands above its scores."""
        first, members = self.group.runs[0], self.group.runs
        seeds = [str(run.seed) for run in members if run.seed is not None]
        steps = dict.fromkeys(str(run.last_step) for run in members if run.last_step is not None)
        return {
            "method": first.name,
            "n": str(len(members)),
            "seeds": ", ".join(seeds) or "-",
            "last step": ", ".join(steps) or "-",
        }


@dataclass(frozen=True, kw_only=True)
class Table:
    """Scores of several runs, models and folders."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    """Commands that fill what is empty."""
    of_data: str
    """The data and direction that all of it is of, as far as they are the same."""

    def note(self, place: int) -> str:
        """`[1] not evaluated: run patchkin evaluate ...`."""
        return f"[{place + 1}] not evaluated: run {self.notes[place]}"

    @property
    def footnotes(self) -> list[str]:
        """All of them."""
        return [self.note(place) for place in range(len(self.notes))]


def make_table(groups: Sequence[Group], methods: Mapping[str, type[Method]]) -> Table:
    """One table of all groups.

    Args:
        groups: of `group_by_settings`.
        methods: to know which of them have styles.
    """
    names = _names(groups)
    columns = tuple(
        Column(name=name, group=group) for name, group in zip(names, groups, strict=True)
    )
    filling = _Filling(groups, methods)
    common = _Common(groups)
    rows: list[TableRow] = []
    keys = _keys(groups)
    for key in keys:
        of_score = [images for score, images in keys if score == key[0]]
        images = common.told(key[1], of_score)
        of_groups = [group.row(*key) for group in groups]
        for choice in COLUMNS:
            if choice == COLUMNS[0] or any(row.values[choice] for row in of_groups):
                cells = tuple(filling.cell(group, key, choice) for group in groups)
                rows.append(TableRow(score=key[0], images=images, checkpoint=choice, cells=cells))
    if not any(images.split != VALIDATION for _, images in keys):
        cells_of_none = tuple(filling.nothing(group) for group in groups)
        rows.append(
            TableRow(score="scores of test images", images=TEST, checkpoint=COLUMNS[0],
                     cells=cells_of_none)
        )  # fmt: skip
    return Table(
        columns=columns, rows=tuple(rows), notes=tuple(filling.commands), of_data=common.text
    )


def _keys(groups: Sequence[Group]) -> list[Key]:
    """In the order of their first appearance, all images of a score together. Validation while
    training is left out where everything that has it was evaluated.
    """
    found = dict.fromkeys(key for group in groups for key in group.measured())
    scores = dict.fromkeys(score for score, _ in found)
    ordered = [key for score in scores for key in found if key[0] == score]
    return [key for key in ordered if not _is_superseded(key, groups)]


def _is_superseded(key: Key, groups: Sequence[Group]) -> bool:
    score, images = key
    if images.split != VALIDATION:
        return False
    having = [run for group in groups for run in group.runs if key in run.measured]
    return all(any(score in scores for scores in run.test.values()) for run in having)


def _names(groups: Sequence[Group]) -> list[str]:
    """Short names of columns, no two alike."""
    first = [group.runs[0] for group in groups]
    short = [_short(run) for run in first]
    again = Counter(short)
    names = [
        name if again[name] == 1 else str(run.folder)
        for name, run in zip(short, first, strict=True)
    ]
    twice = Counter(names)
    seen: Counter[str] = Counter()
    for place, name in enumerate(names):
        seen[name] += 1
        if twice[name] > 1:
            told = first[place].last_step
            names[place] = f"{name}, step {told} ({seen[name]})"
    return [
        name if len(group.runs) == 1 else f"{name} and {len(group.runs) - 1} more"
        for name, group in zip(names, groups, strict=True)
    ]


def _short(subject: Scored) -> str:
    path = subject.folder
    name = path.name or str(path.resolve().name)
    return path.resolve().parent.name if name == "model.safetensors" else name


class _Common:
    """What all rows of a table have in common, which is said once and not in each."""

    def __init__(self, groups: Sequence[Group]) -> None:
        runs = [run for group in groups for run in group.runs]
        images = [image for run in runs for _, image in run.measured]
        own = [run.own for run in runs if run.own is not None] or images
        self._data = _only({image.data for image in own})
        self._direction = _only({image.direction for image in own})
        parts = [f"data {self._data}" if self._data else "", self._direction or ""]
        self.text = ", ".join(filter(None, parts))

    def told(self, images: Images, of_score: Sequence[Images]) -> str:
        """The images of a row.

        Args:
            images: of it.
            of_score: of all rows of its score.
        """
        parts = [images.split]
        if images.data != self._data:
            parts.append(f"data {images.data or 'not recorded'}")
        if images.direction != self._direction and images.direction is not None:
            parts.append(images.direction)
        if images.weights is not None:
            parts.append(f"{images.weights} weights")
        alike = [replace(other, more=()) for other in of_score]
        others = [
            dict(other.more)
            for other, plain in zip(of_score, alike, strict=True)
            if plain == images.plain
        ]
        for name, value in images.more:
            if any(other.get(name) != value for other in others):
                parts.append(value)
        return ", ".join(parts)


def _only(values: set[str | None]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


class _Filling:
    """Cells, and the commands that would fill the empty ones."""

    def __init__(self, groups: Sequence[Group], methods: Mapping[str, type[Method]]) -> None:
        self._methods = methods
        self._results = {
            key: result for group in groups for run in group.runs
            for key, result in run.results.items()
        }  # fmt: skip
        self.commands: list[str] = []

    def cell(self, group: Group, key: Key, choice: str) -> Cell:
        """A cell of a row."""
        row = group.row(*key)
        values = row.values[choice]
        notes = [
            self._note(evaluation_command(run, key[1], self._results[key], best=best))
            for run, best in self._lacking(group, key, choice)
        ]
        return Cell(
            values=values, num_runs=len(group.runs), notes=tuple(sorted(dict.fromkeys(notes)))
        )

    def nothing(self, group: Group) -> Cell:
        """A cell of a table in which nothing was evaluated."""
        notes = [self._note(evaluation_command(run, None, None)) for run in group.runs]
        return Cell(num_runs=len(group.runs), notes=tuple(dict.fromkeys(notes)))

    def _lacking(self, group: Group, key: Key, choice: str) -> list[tuple[Scored, bool]]:
        """The members that could have the score and do not; whether at their best step."""
        if key not in self._results:
            return []
        result, best = self._results[key], choice == COLUMNS[1]
        found = []
        for run in group.runs:
            has = run.row(*key)[COLUMNS[1] if best else COLUMNS[0]] is not None
            wanted = choice == COLUMNS[0] or (best and run.best_step is not None)
            if wanted and not has and self._can_have(run, result):
                found.append((run, best and run.best_step != run.last_step))
        return found

    def _can_have(self, run: Scored, result: Mapping[str, Any]) -> bool:
        """Whether the evaluation that gave a result is one of this subject too."""
        if run.kind == "folder":
            return not result["key"]["samples"] and result["key"]["direction"] != "all pairs"
        if of_two_folders(result):
            return False
        kind = self._methods.get(run.name)
        if kind is None:  # a method of one's own
            return not result["key"]["samples"]
        several_domains = result["key"]["direction"] == "all pairs"
        styled = issubclass(kind, StyledMethod)
        return styled if result["key"]["samples"] or several_domains else True

    def _note(self, command: str) -> int:
        if command not in self.commands:
            self.commands.append(command)
        return self.commands.index(command)
