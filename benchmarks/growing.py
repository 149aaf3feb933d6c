"""Studies that grow: a run that ends leaves a record in the repository, and is not run again."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies import INTERRUPTED, Member, Row, check_same_steps, stop_on_termination, train_all

from patchkin.scoring.report import read_log
from patchkin.storage.atomic import write_json, write_text


def study_parser(
    about: str, *, rows: Sequence[Row], seeds: Sequence[int], steps: int, records: Path
) -> argparse.ArgumentParser:
    """What every such study can be told, with its defaults."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("output", type=Path)
    names = [row.name for row in rows]
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--hours", type=float, help="then what runs is interrupted")
    parser.add_argument("--records", type=Path, default=records)
    parser.add_argument("--tables", action="store_true", help="train nothing")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    return parser


def planned(
    options: argparse.Namespace,
    rows: Sequence[Row],
    sets: Sequence[str],
    shared: Callable[[str], Sequence[str]],
) -> Iterator[Member]:
    """All runs, seed by seed, and within a seed set by set.

    Args:
        options: of `study_parser`.
        rows: of the study; `options.rows` names those that are asked for.
        sets: names of what is trained on.
        shared: flags of all rows on one of them.
    """
    asked = [row for name in options.rows for row in rows if row.name == name]
    for seed in options.seeds:
        for name in sets:
            for row in asked:
                yield Member(
                    row=row,
                    seed=seed,
                    folder=options.output / f"{name}_{row.name}_seed{seed}",
                    command=("train", row.method, *shared(name), "--seed", str(seed), *row.flags),
                    steps=options.steps,
                )


def conduct(
    options: argparse.Namespace,
    members: Sequence[Member],
    *,
    prepare: Callable[[], None],
    recorded: Callable[[Member], dict[str, Any]],
    tables: Callable[[], str],
) -> int:
    """List the commands, or train what has no record and write OUTPUT/tables.md.

    Args:
        options: of `study_parser`.
        members: all runs, in order.
        prepare: makes the data, before the first run.
        recorded: what is kept of a run that ended.
        tables: the page about all records.

    Returns:
        The exit code.
    """
    if options.list:
        for member in members:
            print("patchkin", shlex.join([*member.command, "--run-dir", str(member.folder)]))
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.tables:
        try:
            stop_on_termination()
            prepare()
            _train(options, members, recorded)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on", file=sys.stderr)
            return INTERRUPTED
    write_text(options.output / "tables.md", tables())
    print(options.output / "tables.md")
    return 0


def _train(
    options: argparse.Namespace,
    members: Sequence[Member],
    recorded: Callable[[Member], dict[str, Any]],
) -> None:
    """Run what has no record yet."""
    todo = [m for m in members if not (options.records / f"{m.folder.name}.json").exists()]
    check_same_steps(todo)
    options.records.mkdir(parents=True, exist_ok=True)
    train_all(
        todo,
        jobs=options.jobs,
        deadline=None if options.hours is None else time.monotonic() + 3600 * options.hours,
        on_complete=lambda member: write_json(
            options.records / f"{member.folder.name}.json", recorded(member)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What the log of a run says."""

    scores: dict[int, dict[str, float]]
    """Step, without 0 -> of the validation images."""
    best: int
    """The step with the best of them."""
    hours: float

    @classmethod
    def of(cls, folder: Path) -> Ran:
        """A run that has ended."""
        log = read_log(folder)
        scored = [line for line in log if "scores" in line and line["step"] > 0]
        terms = [line for line in log if "terms" in line]
        places = [0, *(line["step"] for line in terms)]
        seconds = sum(
            (end - start) * line["seconds_per_step"]
            for start, end, line in zip(places, places[1:], terms, strict=False)
        )
        return cls(
            scores={line["step"]: line["scores"] for line in scored},
            best=max(line["step"] for line in scored if line.get("best")),
            hours=round(seconds / 3600, 3),
        )
