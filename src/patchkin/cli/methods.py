"""`patchkin methods`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from patchkin.cli.parsing import parse
from patchkin.cli.printing import print_json
from patchkin.data.domains import DomainBatch
from patchkin.data.paired import PairedBatch
from patchkin.errors import ConfigError, nearest
from patchkin.method import Method
from patchkin.storage.shipped import shipped_sentence


@dataclass(frozen=True, kw_only=True)
class MethodsOptions:
    """Options of `methods`."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Methods whose presets to show; a table of all methods if none is named."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """A table of the methods, or the presets of some."""
    options = parse(
        MethodsOptions, arguments, prog="patchkin methods", about="The methods and their presets."
    )
    for name in options.names:
        if name not in methods:
            raise ConfigError(f"Unknown method `{name}`. {nearest(name, methods)}")
    rows = {name: describe(methods[name]) for name in options.names or methods}
    if options.json:
        print_json(rows)
        return 0
    console = Console()
    if not options.names:
        console.print(_table(rows))
        console.print("\nPresets of a method: patchkin methods NAME", highlight=False)
        console.print(shipped_sentence(), highlight=False)
    for name in options.names:
        _show(console, name, rows[name])
    return 0


def describe(kind: type[Method]) -> dict[str, Any]:
    """What the table says of a method, with the networks of its first preset."""
    with torch.device("meta"):  # shapes without numbers
        method = kind(next(iter(kind.presets.values())).method)
    learning = method.networks(method.adam())
    return {
        "paper": kind.paper,
        "sides": _sides(kind),
        "data": "paired" if issubclass(kind.batch_type, PairedBatch) else "unpaired",
        "networks": len(learning),
        "parameters": sum(p.numel() for network in learning for p in network.parameters()),
        "released code": kind.differs,
        "presets": {preset: value.summary for preset, value in kind.presets.items()},
    }


def _sides(kind: type[Method]) -> str:
    if issubclass(kind.batch_type, DomainBatch):
        return "any domain"
    return "two-sided" if len(kind.directions) > 1 else "one-sided"


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in ("method", "paper", "sides", "data"):
        table.add_column(header, no_wrap=header != "paper")
    table.add_column("networks", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("the released code")
    for name, row in rows.items():
        table.add_row(
            name,
            row["paper"],
            row["sides"],
            row["data"],
            str(row["networks"]),
            f"{row['parameters'] / 1e6:.1f} M",
            row["released code"],
        )
    return table


def _show(console: Console, name: str, row: Mapping[str, Any]) -> None:
    console.print(f"{name}: {row['paper']}", highlight=False)
    console.print(
        f"{row['sides']}, {row['data']} data, {row['networks']} networks that "
        f"learn, {row['parameters']:,} parameters",
        highlight=False,
    )
    if row["released code"]:
        console.print(f"the released code: {row['released code']}", highlight=False)
    table = Table("preset", "what it is", box=None, pad_edge=False)
    for preset, summary in row["presets"].items():
        table.add_row(preset, summary)
    console.print(table)
