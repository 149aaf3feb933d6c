"""What has scores: runs, models, folders of translations; and means over runs of several seeds.

"Best" never stands alone. The best test score over checkpoints is what papers of this field tend to
report and what nobody else can reproduce, because the test set chose it; it is shown beside the
other two so that its advantage can be seen. Scores of which neither less nor more is better
throughout have no best.

A mean is over images of one kind: scores of test and of validation images, of other data, of other
weights or of another measurement are rows of their own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from patchkin.scoring.scores import Scores, best_of

COLUMNS = ("last", "best on validation", "best on test")
"""Which checkpoint of a run. What has one checkpoint only has it as the last."""
TEST, VALIDATION = "test", "validation"


@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images a score is of, and what else it depends on beside the model."""

    split: str
    """`TEST`, `VALIDATION` while training, or what the result calls it."""
    data: str | None = None
    direction: str | None = None
    weights: str | None = None
    """None: those that are used by default."""
    more: tuple[tuple[str, str], ...] = ()
    """What this score depends on beyond, such as the classes asked for: name and value."""

    @property
    def plain(self) -> Images:
        """Without `more`."""
        return replace(self, more=())


Key = tuple[str, Images]
"""A score of images."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A run, a model file or a folder of translations, and its scores."""

    folder: Path
    """Or file."""
    name: str
    """Of the method."""
    kind: str = "run"
    """`run`, `model` or `folder`."""
    seed: int | None = None
    settings: str
    """What is equal for repetitions: the configuration without seed and machine."""
    last_step: int | None
    best_step: int | None = None
    """By validation."""
    own: Images | None = None
    """Test images of the data that a run was trained on, in its direction."""
    program: str = "patchkin"
    """What evaluates it."""
    measured: Mapping[Key, Mapping[int, float]] = field(default_factory=dict)
    """Score and images -> step -> value, in the order in which they were found. What has no steps
    has one, 0."""
    results: Mapping[Key, Mapping[str, Any]] = field(default_factory=dict)
    """The result that tells how a score was measured; none of validation while training."""
    kept_in: Path | None = None
    """The file that results are added to, for what is no run."""

    @property
    def test(self) -> dict[int, Scores]:
        """Step -> scores on the run's own test images; of two measurements the later."""
        return self._by_step(lambda images: images.plain == self.own)

    @property
    def validation(self) -> dict[int, Scores]:
        """Step -> scores on validation images while training."""
        return self._by_step(lambda images: images.split == VALIDATION)

    def _by_step(self, wanted: Any) -> dict[int, Scores]:
        found: dict[int, Scores] = {}
        for (score, images), values in self.measured.items():
            if wanted(images):
                for step, value in values.items():
                    found.setdefault(step, {})[score] = value
        return found

    def until(self, step: int, best_step: int | None) -> Scored:
        """As if it had stopped at a step."""
        measured = {
            key: {at: value for at, value in values.items() if at <= step}
            for key, values in self.measured.items()
        }
        measured = {key: values for key, values in measured.items() if values}
        return replace(self, last_step=step, best_step=best_step, measured=measured)

    def row(self, score: str, images: Images) -> dict[str, float | None]:
        """A score of images in the three columns; None where there is none, or none is the best."""
        values = self.measured.get((score, images), {})
        best_step = self.best_step
        best = None
        if images.split != VALIDATION and self.kind == "run":
            best = best_of(score, values.values())
        return {
            "last": values.get(self.last_step or 0),
            "best on validation": None if best_step is None else values.get(best_step),
            "best on test": best,
        }


@dataclass(frozen=True, kw_only=True)
class Row:
    """A score of a group, of one kind of images."""

    score: str
    images: Images
    values: dict[str, tuple[float, ...]]
    """Column -> of the members that have it."""
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
            texts.append(f"{text_of(values)}{few}")
        return texts


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in nothing but the seed; or one model or folder."""

    runs: tuple[Scored, ...]

    def measured(self) -> list[Key]:
        """Scores and images that some member has, in the order of their first appearance: those of
        test and other held-out images, then those of validation while training.
        """
        found = list(dict.fromkeys(key for run in self.runs for key in run.measured))
        return sorted(found, key=lambda key: key[1].split == VALIDATION)

    def row(self, score: str, images: Images) -> Row:
        """Means over the members that have the score of these images."""
        members = [run for run in self.runs if (score, images) in run.measured]
        cells = [run.row(score, images) for run in members]
        values = {
            column: tuple(value for cell in cells if (value := cell[column]) is not None)
            for column in COLUMNS
        }
        return Row(score=score, images=images, values=values, num_runs=len(members))

    def table(self) -> list[Row]:
        """A row for each of `measured`."""
        return [self.row(*key) for key in self.measured()]


def group_by_settings(runs: Sequence[Scored]) -> list[Group]:
    """Repetitions together, in the order given."""
    groups: dict[tuple[str, str], list[Scored]] = {}
    for run in runs:
        groups.setdefault((run.name, run.settings), []).append(run)
    return [Group(runs=tuple(members)) for members in groups.values()]


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample; NaN where one is infinite."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def text_of(values: Sequence[float]) -> str:
    """A number, or mean and deviation of several.

    >>> text_of([]), text_of([21.0]), text_of([20.0, 24.0])
    ('-', '21', '22 ± 2.8')
    """
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{statistics.mean(values):.4g} ± {deviation(values):.2g}"
