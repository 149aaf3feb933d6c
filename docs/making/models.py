"""The page of the models that patchkin knows by name: `python docs/making/models.py`.

Every figure comes from the records (`model.json` beside each model); a value that is not there was
not measured. `benchmarks/shipping/ship.py` writes them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from patchkin.cli.models import NOT_MEASURED, NOT_TOLD, milliseconds
from patchkin.storage.hub import PREFIX
from patchkin.storage.shipped import (
    CARD_FILE,
    FOLDER,
    PREVIEW,
    find_record,
    known_names,
    named_so,
    shipped_names,
)
from patchkin.storage.shipped.records import MeasuredSpeed, Record

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "models.md"
BEGINNING = """\
# Models by name

<!-- made by: python docs/making/models.py -->

`patchkin models` prints this table, `patchkin models NAME` what is known of one model, with its
file on this machine; `--json` is for programs. How a name is found, what is fetched, and how a
model is made one of these: [Models that come with patchkin](shipped-model.md).

"""


def page(records: Sequence[Record]) -> str:
    """In Markdown."""
    return BEGINNING + "\n".join(_lines(records)) + "\n"


def _lines(records: Sequence[Record]) -> Iterator[str]:
    yield "| model | turns | parameters | MACs at 256 pixels | file | where |"
    yield "|---|---|---|---|---|---|"
    for record in records:
        yield (
            f"| [{record.name}](#{record.name}) | {record.direction or NOT_TOLD} "
            f"| {_count(record.parameters)} | {_count(record.macs_256)} "
            f"| {_count(record.bytes, ' bytes')} | {_where(record)} |"
        )
    for record in records:
        yield ""
        yield from _section(record)


def _section(record: Record) -> Iterator[str]:
    yield f"## {record.name}\n"
    yield "```sh"
    short = record.name.removesuffix(PREVIEW)
    name = short if named_so(short) == record.name else record.name
    yield f"patchkin translate {name} image.png -o out"
    yield "```\n"
    if record.name.endswith(PREVIEW) and record.compared_with:
        yield f"A preview: to the eye not as good as {record.compared_with}; its card says why.\n"
    yield "| | |\n|---|---|"
    rows = {
        "turns": record.direction or NOT_TOLD,
        "method": f"`{record.method}`" if record.method else NOT_TOLD,
        "parameters": _count(record.parameters),
        "trained at": _count(record.size, " pixels"),
        "MACs": f"{_count(record.macs)} at this size, {_count(record.macs_256)} at 256 pixels",
        "file": f"{_count(record.bytes, ' bytes')}, {_where(record)}",
        "SHA-256": f"`{record.sha256}`" if record.sha256 else NOT_TOLD,
        "data": record.data or NOT_TOLD,
        "licence of the data": record.data_licence or NOT_TOLD,
    }
    yield from (f"| {title} | {_cell(value)} |" for title, value in rows.items())
    yield ""
    yield from _scores(record)
    yield ""
    yield from _speed(record.speed)
    if record.limits:
        yield f"\nLimits: {' '.join(record.limits)}"
    card = FOLDER / record.name / CARD_FILE
    if card.is_file() and card.is_relative_to(ROOT):
        yield f"\nHow it was made: [its card](../{card.relative_to(ROOT).as_posix()})."


def _scores(record: Record) -> Iterator[str]:
    if not record.scores:
        yield f"Scores: {NOT_MEASURED}."
        return
    other = record.compared_with
    yield f"| score | protocol | this model |{f' {_cell(other)} |' if other else ''}"
    yield "|---|---|---|" + "---|" * bool(other)
    for score in record.scores:
        row = f"| {_cell(score.meaning)} | {_cell(score.protocol)} | {score.value:.4g} |"
        beside = NOT_MEASURED if score.released is None else f"{score.released:.4g}"
        yield row + f" {beside} |" * bool(other)
    yield "\nby\n\n```sh"
    yield from dict.fromkeys(score.command for score in record.scores)
    yield "```"


def _speed(speed: MeasuredSpeed | None) -> Iterator[str]:
    if speed is None:
        yield f"Speed: {NOT_MEASURED}."
        return
    ratio = speed.onnxruntime_times_as_fast
    yield f"Speed of an image of {speed.pixels} x {speed.pixels} pixels on {speed.machine}:\n"
    yield "| torch | ONNX Runtime | ONNX Runtime, times as fast as torch |\n|---|---|---|"
    yield (
        f"| {milliseconds(speed.torch_ms)} | {milliseconds(speed.onnxruntime_ms)} "
        f"| {NOT_MEASURED if ratio is None else f'{ratio:.2f}'} |"
    )
    yield f"\nby\n\n```sh\n{speed.command}\n```"


def _where(record: Record) -> str:
    return "in the package" if record.name in shipped_names() else f"`{PREFIX}{record.hub}`"


def _count(value: int | None, unit: str = "") -> str:
    return NOT_MEASURED if value is None else f"{value:,}{unit}"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def main() -> int:
    argparse.ArgumentParser(description="Write docs/models.md from the records.").parse_args()
    PAGE.write_text(page([find_record(name) for name in known_names()]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
