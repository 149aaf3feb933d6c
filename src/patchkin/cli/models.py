"""`patchkin models`. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from patchkin.cli.parsing import parse
from patchkin.cli.printing import print_json
from patchkin.config import shown
from patchkin.storage.hub import PREFIX
from patchkin.storage.shipped import (
    CARD_FILE,
    FOLDER,
    PREVIEW,
    file_of,
    find_record,
    known_names,
    shipped_names,
)
from patchkin.storage.shipped.records import MeasuredSpeed, Record

NOT_MEASURED, NOT_TOLD = "not measured", "not told"


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """Options of `models`."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], shown("MODEL...")] = ()
    """Models of which to tell all that is known; a table of all models if none is named."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], _: object) -> int:
    """A table of the models that are known by name, or what is known of some."""
    options = parse(
        ModelsOptions,
        arguments,
        prog="patchkin models",
        about="Models that are known by name, and what is known of them.",
    )
    records = [find_record(name) for name in options.names or known_names()]
    if options.json:
        print_json({each.name: {**each.to_plain(), "path": path_of(each)} for each in records})
        return 0
    console = Console()
    if not options.names:
        console.print(_table(records))
        console.print("\nScores, speed, data and limits: patchkin models NAME", highlight=False)
        return 0
    for record in records:
        for line in facts(record):
            print(line)
    return 0


def path_of(record: Record) -> str | None:
    """The file of a model on this machine; None if it is still to be fetched.

    Raises:
        CheckpointError: as `file_of`.
    """
    file = file_of(record)
    return None if file is None else str(file)


def _table(records: Sequence[Record]) -> Table:
    """One line per model in 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("turns")
    for title in ("weights", "MACs at 256", "file"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("is", no_wrap=True)
    for record in records:
        table.add_row(
            record.name,
            escape(record.direction or NOT_TOLD),
            millions(record.parameters),
            "-" if record.macs_256 is None else f"{record.macs_256 / 1e9:.1f} G",
            "-" if record.bytes is None else f"{record.bytes / 1e6:.2f} MB",
            "here" if record.name in shipped_names() else "on the Hub",
        )
    return table


def millions(count: int | None) -> str:
    """A count in millions.

    >>> millions(377_379), millions(None)
    ('0.38 M', '-')
    """
    return "-" if count is None else f"{count / 1e6:.2f} M"


def facts(record: Record) -> Iterator[str]:
    """What is known of a model, a line each; what is not known is said, too."""
    path = path_of(record)
    yield f"{record.name}: {record.direction or NOT_TOLD}"
    if record.name.endswith(PREVIEW) and record.compared_with:
        yield f"a preview:   to the eye not as good as {record.compared_with}"
    yield f"method:      {record.method or NOT_TOLD}"
    yield f"parameters:  {_count(record.parameters)}"
    yield f"trained at:  {_count(record.size, ' pixels')}"
    yield f"MACs:        {_count(record.macs)} at this size"
    yield f"             {_count(record.macs_256)} at 256 pixels"
    yield f"file:        {path or f'fetched when it is used, from {PREFIX}{record.hub}'}"
    yield f"size:        {_count(record.bytes, ' bytes')}"
    yield f"SHA-256:     {record.sha256 or NOT_TOLD}"
    yield f"data:        {record.data or NOT_TOLD}"
    yield f"its licence: {record.data_licence or NOT_TOLD}"
    yield from _scores(record)
    yield from _speed(record.speed)
    if record.limits:
        yield "limits:"
        yield from (f"  {line}" for line in record.limits)
    card = FOLDER / record.name / CARD_FILE
    if card.is_file():
        yield f"card:        {card}"


def _count(value: int | None, unit: str = "") -> str:
    return NOT_MEASURED if value is None else f"{value:,}{unit}"


def _scores(record: Record) -> Iterator[str]:
    if not record.scores:
        yield f"scores:      {NOT_MEASURED}"
        return
    beside = f" ({record.compared_with} in brackets)" if record.compared_with else ""
    yield f"scores{beside}:"
    for score in record.scores:
        other = "" if score.released is None else f" ({score.released:.4g})"
        yield f"  {score.value:.4g}{other}  {score.meaning} [{score.protocol}]"
    for command in dict.fromkeys(score.command for score in record.scores):
        yield f"  by: {command}"


def _speed(speed: MeasuredSpeed | None) -> Iterator[str]:
    if speed is None:
        yield f"speed:       {NOT_MEASURED}"
        return
    yield f"speed of an image of {speed.pixels} x {speed.pixels} pixels, {speed.machine}:"
    yield f"  torch: {milliseconds(speed.torch_ms)}"
    ratio = speed.onnxruntime_times_as_fast
    faster = "" if ratio is None else f", {ratio:.2f} times as fast as torch"
    yield f"  ONNX Runtime: {milliseconds(speed.onnxruntime_ms)}{faster}"
    yield f"  by: {speed.command}"


def milliseconds(value: float | None) -> str:
    """A time.

    >>> milliseconds(12.345), milliseconds(None)
    ('12.3 ms', 'ms not measured')
    """
    return f"ms {NOT_MEASURED}" if value is None else f"{value:.1f} ms"
