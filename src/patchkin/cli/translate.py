"""`patchkin translate MODEL INPUT... --output DIR`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from patchkin.cli.parsing import parse
from patchkin.config import flag
from patchkin.devices import Device, Precision
from patchkin.errors import ConfigError
from patchkin.method import Direction, Method
from patchkin.translator import Outcome, Translator, plan


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """Options of `translate`."""

    model: tyro.conf.Positional[str]
    """A run folder, a checkpoint folder, or a .safetensors file."""
    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders (searched recursively), or quoted glob patterns."""
    output: Annotated[Path, flag("-o")]
    """Folder for the translations. Names and the structure of folders are kept."""
    overwrite: bool = False
    """Translate again what is already there. Otherwise it is skipped."""
    batch_size: int = 1
    """Images of one size translated at once."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of a run folder: the last, or the best on validation."""
    weights: Literal["averaged", "live"] = "averaged"
    """Averaged weights if the run kept them, or the live ones."""
    direction: Direction = "AtoB"
    """BtoA takes the way back, for methods that have one."""
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "32-true"
    """Of the network."""
    json: bool = False
    """Print one JSON object with what was written, skipped and failed."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """Translate as the arguments say; 2 if a file failed."""
    options = parse(
        TranslateOptions,
        arguments,
        prog="patchkin translate",
        about="Translate images of any size with a trained model.",
    )
    if not options.inputs:
        raise ConfigError("Nothing to translate: give files or folders after the model.")
    if options.batch_size < 1:
        raise ConfigError(f"`--batch-size` must be at least 1; got {options.batch_size}.")
    translator = Translator.load(
        options.model,
        methods=methods,
        which=options.which,
        weights=options.weights,
        direction=options.direction,
        device=options.device,
        precision=options.precision,
    )
    jobs = plan(options.inputs, options.output)
    with Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task("translating", total=len(jobs))
        outcome = translator.files(
            jobs,
            overwrite=options.overwrite,
            batch_size=options.batch_size,
            on_file=lambda _: bar.advance(task),
        )
    _tell(outcome, options.output, as_json=options.json)
    return 2 if outcome.failed else 0


def _tell(outcome: Outcome, output: Path, *, as_json: bool) -> None:
    if as_json:
        summary = {
            "output": str(output),
            "written": [str(path) for path in outcome.written],
            "skipped": [str(path) for path in outcome.skipped],
            "failed": {str(path): reason for path, reason in outcome.failed},
        }
        print(json.dumps(summary))
    skipped = f", {len(outcome.skipped)} already there" if outcome.skipped else ""
    print(f"{len(outcome.written)} translated into {output}{skipped}", file=sys.stderr)
    for _, reason in outcome.failed:
        print(f"patchkin: error: {reason}", file=sys.stderr)
