"""`patchkin methods`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from patchkin.cli.parsing import parse
from patchkin.cli.printing import print_json
from patchkin.config import shown
from patchkin.data.domains import DomainBatch
from patchkin.data.paired import PairedBatch
from patchkin.errors import ConfigError, nearest
from patchkin.method import Method
from patchkin.storage.shipped import shipped_sentence

_WAYS = {"one-sided": "A to B", "two-sided": "both ways", "any domain": "any domain"}


@dataclass(frozen=True, kw_only=True)
class MethodsOptions:
    """Options of `methods`."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], shown("METHOD...")] = ()
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
        console.print(
            "\nPresets, and what the released code does otherwise: patchkin methods NAME",
            highlight=False,
        )
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
        "tiling": method.tiling,
        "tiling faults": method.tiling_faults(),
        "presets": {preset: value.summary for preset, value in kind.presets.items()},
    }


def _sides(kind: type[Method]) -> str:
    if issubclass(kind.batch_type, DomainBatch):
        return "any domain"
    return "two-sided" if len(kind.directions) > 1 else "one-sided"


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """One line per method in 80 columns; `patchkin methods NAME` tells the rest."""
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("translates", no_wrap=True)
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("paper", no_wrap=True)
    for name, row in rows.items():
        way = _WAYS[row["sides"]] + (", pairs" if row["data"] == "paired" else "")
        table.add_row(name, way, f"{row['parameters'] / 1e6:.1f} M", cited(row["paper"]))
    return table


def cited(paper: str) -> str:
    """Authors, venue and year as in a running text.

    >>> cited("Park, Efros, Zhang, Zhu, ECCV 2020 (arXiv 2007.15651)")
    'Park et al., ECCV 2020'
    >>> cited("Benaim, Wolf, NIPS 2017 (arXiv 1706.00826)")
    'Benaim and Wolf, NIPS 2017'
    >>> cited("Lee et al., ECCV 2018 (arXiv 1808.00948), IJCV 2020 (arXiv 1905.01270)")
    'Lee et al., ECCV 2018'
    """
    *authors, venue = re.sub(r" \(.*", "", paper).split(", ")
    first = authors[0] if authors else venue
    if len(authors) == 2:
        first = " and ".join(authors)
    elif len(authors) > 2:
        first = f"{first} et al."
    return f"{first}, {venue}" if authors else first


def _show(console: Console, name: str, row: Mapping[str, Any]) -> None:
    console.print(f"{name}: {row['paper']}", highlight=False)
    console.print(
        f"{row['sides']}, {row['data']} data, {row['networks']} networks that "
        f"learn, {row['parameters']:,} parameters",
        highlight=False,
    )
    faults = "; ".join(row["tiling faults"])
    console.print(
        f"large images in parts: {row['tiling']}{f', {faults}' if faults else ''}", highlight=False
    )
    if row["released code"]:
        console.print(f"the released code: {row['released code']}", highlight=False)
    table = Table("preset", "what it is", box=None, pad_edge=False)
    for preset, summary in row["presets"].items():
        table.add_row(preset, summary)
    console.print(table)
