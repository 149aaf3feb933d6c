"""Runs side by side: last, best on validation, best on test, means over seeds.

"Best" never stands alone. The best test score over checkpoints is what papers of this field tend to
report and what nobody else can reproduce, because the test set chose it; it is shown beside the
other two so that its advantage can be seen. Scores of which neither less nor more is better
throughout have no best.

A mean is over images of one kind: scores of test and of validation images, of other data or of
other weights, are rows of their own.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchkin.config import read_yaml
from patchkin.errors import ConfigError
from patchkin.scoring.own_data import names_of_own_data
from patchkin.scoring.pages import embedded, render
from patchkin.scoring.report import read_log
from patchkin.scoring.results import SCORES_FILE, read_results
from patchkin.scoring.scores import best_of
from patchkin.storage.atomic import write_text

COLUMNS = ("last", "best on validation", "best on test")
TEST, VALIDATION = "test", "validation"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder says about its scores."""

    folder: Path
    name: str
    """Of the method."""
    seed: int
    settings: str
    """The configuration without seed and machine, as a key: equal for repetitions."""
    last_step: int
    best_step: int | None
    """By validation."""
    validation: dict[int, dict[str, float]]
    """Step -> scores."""
    test: dict[int, dict[str, float]]
    """Of the run's own data, in its direction, with the weights that are used by default."""
    others: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    """Of other data, splits, directions and weights, by what they are of."""

    def images_of(self, score: str) -> str | None:
        """Which images a score in the table is of: those of the test split if there are some."""
        for images in (TEST, VALIDATION):
            if any(score in scores for scores in self._of(images).values()):
                return images
        return None

    def _of(self, images: str) -> dict[int, dict[str, float]]:
        known = {TEST: self.test, VALIDATION: self.validation}
        return known[images] if images in known else self.others.get(images, {})

    def row(self, score: str, images: str | None = None) -> dict[str, float | None]:
        """A score in the three columns; None where nothing was evaluated, or none is the best.

        Args:
            score: its name.
            images: `TEST`, `VALIDATION` or a key of `others`; those of `images_of` by default.
        """
        images = images or self.images_of(score) or VALIDATION
        scores = self._of(images)
        values = {step: found[score] for step, found in scores.items() if score in found}
        best_step = self.best_step
        return {
            "last": values.get(self.last_step),
            "best on validation": None if best_step is None else values.get(best_step),
            "best on test": None if images == VALIDATION else best_of(score, values.values()),
        }

    def scores(self) -> list[str]:
        """Names of all scores, in the order of their first appearance."""
        found = [*self.test.values(), *self.validation.values()]
        return list(dict.fromkeys(name for scores in found for name in scores))

    def has(self, score: str, images: str) -> bool:
        """Whether there is a score of these images."""
        return any(score in scores for scores in self._of(images).values())


@dataclass(frozen=True, kw_only=True)
class Row:
    """A score of a group, of one kind of images."""

    score: str
    images: str
    """`TEST`, `VALIDATION`, or what else was scored."""
    values: dict[str, tuple[float, ...]]
    """Column -> of the runs that have it."""
    num_runs: int
    """That have the score of these images."""

    @property
    def cells(self) -> list[str]:
        """One text per column: mean and standard deviation where there are several. What fewer
        runs have than have the score says of how many it is the mean.
        """
        texts = []
        for values in self.values.values():
            few = f" (n={len(values)})" if 0 < len(values) < self.num_runs else ""
            texts.append(f"{_text(values)}{few}")
        return texts

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        columns = {
            name: {
                "mean": statistics.mean(values) if values else None,
                "deviation": _deviation(values) if len(values) > 1 else None,
                "n": len(values),
            }
            for name, values in self.values.items()
        }
        return {"score": self.score, "images": self.images, "n": self.num_runs, **columns}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in nothing but the seed."""

    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        """Method, folder of the first run, seeds."""
        first = self.runs[0]
        seeds = ", ".join(str(run.seed) for run in self.runs)
        return f"{first.name} ({first.folder.name}; seed{'s'[: len(self.runs) - 1]} {seeds})"

    def table(self) -> list[Row]:
        """Rows of scores. Each is a mean over one kind of images: where some runs have a score of
        test images and others of validation images only, there are two rows.
        """
        names = list(dict.fromkeys(name for run in self.runs for name in run.scores()))
        rows = []
        for name in names:
            kinds = {run.images_of(name) for run in self.runs}
            rows += [self._row(name, kind) for kind in (TEST, VALIDATION) if kind in kinds]
        for kind in dict.fromkeys(kind for run in self.runs for kind in run.others):
            found = [scores for run in self.runs for scores in run.others.get(kind, {}).values()]
            names = list(dict.fromkeys(name for scores in found for name in scores))
            rows += [self._row(name, kind) for name in names]
        return rows

    def _row(self, score: str, images: str) -> Row:
        members = [run for run in self.runs if run.has(score, images)]
        cells = [run.row(score, images) for run in members]
        values = {
            column: tuple(value for cell in cells if (value := cell[column]) is not None)
            for column in COLUMNS
        }
        return Row(score=score, images=images, values=values, num_runs=len(members))


def read_run(folder: Path) -> Run:
    """The scores in a run folder.

    Raises:
        ConfigError: the folder holds no run.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"`{folder}` holds no run: it has no config.yaml.")
    config = read_yaml(folder / "config.yaml")
    records = read_log(folder)
    scored = [record for record in records if "scores" in record]
    by_kind: dict[str, dict[int, dict[str, float]]] = {}
    results = read_results(folder / SCORES_FILE)
    kind_of = _Kinds(folder, config, [result["key"] for result in results])
    for result in results:
        step = result["subject"].get("step")
        if step is not None:
            by_step = by_kind.setdefault(kind_of(result["key"]), {})
            by_step.setdefault(step, {}).update(result["scores"])
    return Run(
        folder=folder,
        name=config["name"],
        seed=config["training"]["seed"],
        settings=_settings(config),
        last_step=max((record["step"] for record in records), default=0),
        best_step=max((r["step"] for r in scored if r.get("best")), default=None),
        validation={record["step"]: record["scores"] for record in scored},
        test=by_kind.pop(TEST, {}),
        others=by_kind,
    )


class _Kinds:
    """What the images and weights of results are, in words; `TEST` where all is as the run has it.

    What an earlier version did not record was as the run has it.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]
    ) -> None:
        data = config.get("data") or {}
        self._data = names_of_own_data(folder)
        self._direction = data.get("direction", "AtoB")
        averaged = (config.get("schedule") or {}).get("ema_decay", 0) > 0
        self._weights = "averaged" if averaged else "live"
        self._tells_samples = len({key["samples"] for key in keys}) > 1
        self._tells_precision = len({key.get("precision") for key in keys}) > 1

    def __call__(self, key: Mapping[str, Any]) -> str:
        parts = [str(key["split"])]
        if key["data"] is not None and key["data"] not in self._data:
            parts.append(f"data {key['data']}")
        if key["direction"] not in (None, self._direction, "all pairs"):
            parts.append(str(key["direction"]))
        if key["weights"] not in (None, self._weights):
            parts.append(f"{key['weights']} weights")
        if key.get("precision") and self._tells_precision:
            parts.append(str(key["precision"]))
        if key["samples"] and self._tells_samples:
            parts.append(f"{key['samples']} outputs per input")
        return ", ".join(parts)


def group_by_settings(runs: Sequence[Run]) -> list[Group]:
    """Repetitions together, in the order given."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.name, run.settings), []).append(run)
    return [Group(runs=tuple(members)) for members in groups.values()]


def to_plain_groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """For JSON: every number of every run."""
    return [
        {
            "title": group.title,
            "runs": [
                {
                    "folder": str(run.folder),
                    "seed": run.seed,
                    "last_step": run.last_step,
                    "best_step": run.best_step,
                    "scores": {
                        name: {**run.row(name), "images": run.images_of(name)}
                        for name in run.scores()
                    },
                }
                for run in group.runs
            ],
            "rows": [row.plain() for row in group.table()],
        }
        for group in groups
    ]


def write_page(groups: Sequence[Group], path: Path, *, command: str) -> None:
    """Write the tables and the last preview of each run as an HTML page.

    Args:
        groups: of `group_by_settings`.
        path: of the page.
        command: that makes it again.

    Raises:
        StorageError: the page cannot be written.
    """
    page = render(
        "compare.html",
        columns=COLUMNS,
        groups=[
            {"title": group.title, "rows": group.table(), "previews": _previews(group)}
            for group in groups
        ],
        command=command,
    )
    write_text(path, page)


def _previews(group: Group) -> list[tuple[str, str]]:
    """The last preview of each run."""
    found = []
    for member in group.runs:
        files = sorted((member.folder / "previews").glob("step_*.png"))
        if files:
            caption = f"{member.folder}, {files[-1].stem.replace('_', ' ')}"
            found.append((caption, embedded(files[-1].read_bytes())))
    return found


def _settings(config: dict[str, Any]) -> str:
    parts = {part: config[part] for part in ("method", "data", "schedule")}
    return json.dumps(parts, sort_keys=True)


def _deviation(values: Sequence[float]) -> float:
    """Of a sample; NaN where one is infinite."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def _text(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{statistics.mean(values):.4g} ± {_deviation(values):.2g}"
