"""Which translations are there already, and which are another model's or of another source.

What the record of a folder (`patchkin.translation.record`) says of a file that is there:

    made by the same model, in the same way, of the same source      it is kept
    made by another model, in another way, or of another content     it is made anew
    begun by a process that was killed                               it is made anew
    not known, or edited since                                       nothing is done at all

unless everything is to be overwritten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from patchkin.errors import CheckpointError, DataError
from patchkin.translation.files import Job
from patchkin.translation.record import Made, Maker, Records, sha256_of

if TYPE_CHECKING:
    from patchkin.translation.resizing import Resizing


class FromFile(Protocol):
    """What is known of a model that was loaded from a file."""

    @property
    def file(self) -> Path | None:
        """The file."""

    @property
    def method_name(self) -> str:
        """Of its method."""

    @property
    def step(self) -> int | None:
        """Of its training."""

    @property
    def weights(self) -> str:
        """Averaged or live."""

    @property
    def direction(self) -> str:
        """Of its translations."""

    @property
    def precision(self) -> str:
        """Of its networks."""

    @property
    def resizing(self) -> Resizing | None:
        """Of large images."""


def maker_of(translator: FromFile, model: str, **options: Any) -> Maker:
    """Who makes translations with a model.

    Args:
        translator: loaded from a file.
        model: what the user called it.
        options: that change pixels, beside those of the translator; None are left out.

    Raises:
        CheckpointError: its file cannot be read any more.
    """
    assert translator.file is not None
    resizing = translator.resizing
    given = {
        "direction": translator.direction,
        "precision": translator.precision,
        "resize": None if resizing is None else resizing.side,
        "enlarge": None if resizing is None else resizing.enlarging,
        **options,
    }
    try:
        sha256 = sha256_of(translator.file)
    except OSError as error:
        raise CheckpointError(f"`{translator.file}` cannot be read: {error}.") from error
    return Maker(
        model=model,
        sha256=sha256,
        method=translator.method_name,
        step=translator.step,
        weights=translator.weights,
        options={name: value for name, value in given.items() if value is not None},
    )


@dataclass
class Sorted:
    """Jobs to do, and those that need not be done."""

    todo: list[Job] = field(default_factory=list)
    kept: list[Job] = field(default_factory=list)
    remade: dict[Path, str] = field(default_factory=dict)
    """Targets among `todo` that are there, with the reason why they are made anew."""


def own_target(job: Job) -> list[Path]:
    """The files of most jobs."""
    return [job.target]


def sort_jobs(
    jobs: Sequence[Job],
    maker: Maker,
    *,
    overwrite: bool = False,
    targets_of: Callable[[Job], Sequence[Path]] = own_target,
) -> Sorted:
    """What is to be done.

    Args:
        jobs: of this process, or of all.
        maker: of the translations.
        overwrite: do all, whatever is there.
        targets_of: the files of a job.

    Raises:
        DataError: a file is there that is no translation of patchkin, or was changed since.
    """
    chosen = Sorted()
    records = Records()
    unknown: list[Path] = []
    for job in jobs:
        targets = targets_of(job)
        states = {target: records.state(target) for target in targets}
        there = [target for target in targets if states[target] != "absent"]
        if overwrite:
            chosen.remade |= dict.fromkeys(there, "--overwrite")
            chosen.todo.append(job)
            continue
        unknown += [target for target in there if states[target] == "unknown"]
        reasons = {target: _why_anew(job, maker, records.made(target)) for target in there}
        if len(there) == len(targets) and not any(reasons.values()):
            chosen.kept.append(job)
        else:
            chosen.remade |= {target: why for target, why in reasons.items() if why}
            chosen.todo.append(job)
    if unknown:
        number = f"{len(unknown)} files are" if len(unknown) > 1 else "A file is"
        raise DataError(
            f"{number} there already and not known as translations by patchkin, or changed since "
            f"(first: `{unknown[0]}`). Choose another --output, or replace them with --overwrite."
        )
    return chosen


def _why_anew(job: Job, maker: Maker, made: Made | None) -> str:
    """Why a translation is not what would be made now; empty if it is."""
    if made is None:
        return "interrupted"
    if made.maker.sha256 != maker.sha256:
        return f"made by {made.maker}"
    if made.maker.key != maker.key or made.style != job.style:
        return "made with other options"
    return "" if made.source.is_that_of(job.source) else "its source has changed"


def in_words(remade: dict[Path, str]) -> str:
    """How many were made anew for which reason; empty for none, or where all were asked for.

    >>> in_words({Path("a"): "interrupted", Path("b"): "made by `x`", Path("c"): "made by `x`"})
    '3 made anew: 2 made by `x`, 1 interrupted'
    """
    counts = Counter(why for why in remade.values() if why != "--overwrite").most_common()
    if not counts:
        return ""
    reasons = ", ".join(f"{number} {why}" for why, number in counts)
    return f"{sum(number for _, number in counts)} made anew: {reasons}"
