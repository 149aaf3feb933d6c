"""Runs side by side: last, best on validation, best on test, means over seeds.

"Best" never stands alone. The best test score over checkpoints is what papers of this field tend to
report and what nobody else can reproduce, because the test set chose it; it is shown beside the
other two so that its advantage can be seen. Scores of which neither less nor more is better
throughout have no best.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchkin.config import read_yaml
from patchkin.errors import ConfigError
from patchkin.scoring.pages import embedded, render
from patchkin.scoring.report import read_log
from patchkin.scoring.results import SCORES_FILE, read_results
from patchkin.scoring.scores import best_of
from patchkin.storage.atomic import write_text

COLUMNS = ("last", "best on validation", "best on test")


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

    def row(self, score: str) -> dict[str, float | None]:
        """A score in the three columns; None where nothing was evaluated, or none is the best."""
        source = self.test if any(score in scores for scores in self.test.values()) else None
        scores = source if source is not None else self.validation
        values = {step: found[score] for step, found in scores.items() if score in found}
        best_step = self.best_step
        return {
            "last": values.get(self.last_step),
            "best on validation": None if best_step is None else values.get(best_step),
            "best on test": best_of(score, values.values()) if source is not None else None,
        }

    def scores(self) -> list[str]:
        """Names of all scores, in the order of their first appearance."""
        found = [*self.test.values(), *self.validation.values()]
        return list(dict.fromkeys(name for scores in found for name in scores))


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

    def table(self) -> list[tuple[str, list[str]]]:
        """Score -> one text per column, mean and standard deviation where there are several."""
        names = list(dict.fromkeys(name for run in self.runs for name in run.scores()))
        rows = []
        for name in names:
            cells = [run.row(name) for run in self.runs]
            rows.append((name, [_text([cell[column] for cell in cells]) for column in COLUMNS]))
        return rows


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
    test: dict[int, dict[str, float]] = {}
    for result in read_results(folder / SCORES_FILE):
        if result["data"]["split"] == "test" and result["subject"].get("step") is not None:
            test.setdefault(result["subject"]["step"], {}).update(result["scores"])
    return Run(
        folder=folder,
        name=config["name"],
        seed=config["training"]["seed"],
        settings=_settings(config),
        last_step=max((record["step"] for record in records), default=0),
        best_step=max((r["step"] for r in scored if r.get("best")), default=None),
        validation={record["step"]: record["scores"] for record in scored},
        test=test,
    )


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
                    "scores": {name: run.row(name) for name in run.scores()},
                }
                for run in group.runs
            ],
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


def _text(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if len(known) == 1:
        return f"{known[0]:.4g}"
    return f"{statistics.mean(known):.4g} ± {statistics.stdev(known):.2g}"
