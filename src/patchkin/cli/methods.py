"""`patchkin methods`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from patchkin.cli.parsing import parse
from patchkin.method import Method


@dataclass(frozen=True, kw_only=True)
class MethodsOptions:
    """Options of `methods`."""

    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """List the methods with their presets."""
    options = parse(
        MethodsOptions, arguments, prog="patchkin methods", about="The methods and their presets."
    )
    rows = {
        name: {
            "paper": kind.paper,
            "presets": {preset: value.summary for preset, value in kind.presets.items()},
        }
        for name, kind in methods.items()
    }
    if options.json:
        print(json.dumps(rows))
        return 0
    table = Table("method", "paper", "preset", "what it is", box=None, pad_edge=False)
    for name, kind in methods.items():
        for place, (preset, value) in enumerate(kind.presets.items()):
            first = place == 0
            table.add_row(name if first else "", kind.paper if first else "", preset, value.summary)
    Console().print(table)
    return 0
