"""`patchkin compare RUN...`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Column, Table

from patchkin.cli.parsing import parse
from patchkin.cli.printing import print_json
from patchkin.config import flag, shown
from patchkin.errors import ConfigError
from patchkin.method import Method
from patchkin.scoring.comparison import (
    COLUMNS,
    Group,
    group_by_settings,
    read_run,
    to_plain_groups,
    write_page,
)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of `compare`."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], shown("RUN...")]
    """Run folders. Those that differ in nothing but the seed are averaged."""
    output: Annotated[Path, flag("-o")] = Path("comparison.html")
    """The page to write."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], _: Mapping[str, type[Method]]) -> int:
    """Compare as the arguments say."""
    options = parse(
        CompareOptions,
        arguments,
        prog="patchkin compare",
        about="One table and one page over runs: last, best on validation, best on test.",
    )
    if not options.runs:
        raise ConfigError("Nothing to compare: give run folders.")
    groups = group_by_settings([read_run(folder) for folder in options.runs])
    command = f"patchkin compare {' '.join(map(str, options.runs))}"
    write_page(groups, options.output, command=command)
    if options.json:
        print_json({"groups": to_plain_groups(groups), "page": str(options.output)})
        return 0
    for group in groups:
        table = Table(*_columns(group), title=group.title, title_justify="left", box=None)
        for row in group.table():
            table.add_row(row.score, row.images, str(row.num_runs), *row.cells)
        Console().print(table)
    print(f"page: {options.output}", file=sys.stderr)
    return 0


def _columns(group: Group) -> list[Column]:
    """Names of scores are never cut short, however narrow the terminal."""
    longest = max((len(row.score) for row in group.table()), default=0)
    return [Column("score", min_width=longest), *map(Column, ("images", "n", *COLUMNS))]
