"""`patchkin compare RUN|MODEL|FOLDER|scores.json...`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from patchkin.cli.parsing import parse
from patchkin.config import flag, shown
from patchkin.errors import ConfigError
from patchkin.method import Method
from patchkin.scoring.comparison.formats import Format, as_text, format_of, written
from patchkin.scoring.comparison.reading import read_all
from patchkin.scoring.comparison.scored import group_by_settings
from patchkin.scoring.comparison.table import make_table
from patchkin.scoring.results import SCORES_FILE
from patchkin.storage.atomic import write_text


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of `compare`."""

    subjects: Annotated[tyro.conf.Positional[tuple[str, ...]], shown("RUN|MODEL|FOLDER|FILE...")]
    """Run folders (those that differ in nothing but the seed are one column of means); model files,
    imported checkpoints and shipped models; folders of translations; and scores.json files, whose
    other models become columns too."""
    format: Format | None = None
    """How the table is told; without it by the ending of --output: .txt, .csv, .tex, .json, .html.
    text without either."""
    output: Annotated[Path | None, flag("-o")] = None
    """File to write it to. Standard output has the table as text then."""
    json: bool = False
    """Print one JSON object: --format json, or besides --output."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """Compare as the arguments say."""
    options = parse(
        CompareOptions,
        arguments,
        prog="patchkin compare",
        about="One table: runs, models and folders of translations across, scores down.",
    )
    if not options.subjects:
        raise ConfigError("Nothing to compare: give run folders, models or scores.json files.")
    target = options.output
    told = options.format or (format_of(target) if target is not None else "text")
    if target is not None:
        _check(target, options.subjects)
    groups = group_by_settings(read_all(options.subjects))
    table = make_table(groups, methods)
    command = shlex.join(["patchkin", "compare", *options.subjects])
    if target is not None:
        write_text(target, written(table, told, command=command))
    if options.json or (target is None and told != "text"):
        shown_as: Format = "json" if options.json else told
        sys.stdout.write(written(table, shown_as, command=command))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        sys.stdout.write(as_text(table, width=width))
    if target is not None:
        print(f"written: {target} ({told})", file=sys.stderr)
    return 0


def _check(target: Path, subjects: Sequence[str]) -> None:
    """Refuse to write a table over what it is made of."""
    inputs = {os.path.realpath(subject) for subject in subjects}
    if target.name == SCORES_FILE or os.path.realpath(target) in inputs:
        raise ConfigError(f"`{target}` holds results; write the table to another file: --output.")
    if target.is_dir():
        raise ConfigError(f"`{target}` is a folder; name a file: --output {target / 'table.html'}.")
