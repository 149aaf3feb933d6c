"""A table as text, CSV, LaTeX, JSON and as a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from patchkin.errors import ConfigError
from patchkin.scoring.comparison.scored import Group
from patchkin.scoring.comparison.table import Cell, Table
from patchkin.scoring.pages import all_embedded, render
from patchkin.storage.strict_json import strict_text

Format: TypeAlias = Literal["text", "csv", "latex", "json", "html"]
SUFFIXES: Mapping[str, Format] = {
    ".txt": "text",
    ".csv": "csv",
    ".tex": "latex",
    ".json": "json",
    ".html": "html",
    ".htm": "html",
}
_HEADINGS = ("score", "better", "images", "checkpoint")
_GAP = "  "


def format_of(path: Path) -> Format:
    """That a file is written in, by its suffix.

    Raises:
        ConfigError: no format has this suffix.

    >>> format_of(Path("t.csv")), format_of(Path("T.TEX"))
    ('csv', 'latex')
    """
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ConfigError(
            f"`{path}`: a table is written as {', '.join(SUFFIXES)}. Choose one of these endings, "
            f"or --format {'|'.join(get_args(Format))}."
        )
    return found


def written(table: Table, format: Format, *, command: str, width: int | None = None) -> str:
    """A table in a format.

    Args:
        table: what is told.
        format: how.
        command: that makes it again.
        width: of lines of text; what does not fit follows in further blocks. None: any.
    """
    writers: Mapping[Format, Callable[[], str]] = {
        "text": lambda: as_text(table, width=width),
        "csv": lambda: as_csv(table),
        "latex": lambda: as_latex(table, command=command),
        "json": lambda: as_json(table, command=command),
        "html": lambda: as_html(table, command=command),
    }
    return writers[format]()


# Text


def as_text(table: Table, *, width: int | None = None) -> str:
    """Columns of equal width, in as many blocks as fit."""
    facts = [column.facts for column in table.columns]
    left = [list(_HEADINGS), *([name, "", "", ""] for name in facts[0])]
    left += [[row.score, row.better, row.images, row.checkpoint] for row in _told_once(table)]
    right = [
        [column.name, *facts[place].values(), *(row.cells[place].text for row in table.rows)]
        for place, column in enumerate(table.columns)
    ]
    left_lines = [_GAP.join(cells) for cells in _aligned(left, "<")]
    columns = [[cells[0] for cells in _aligned([[text] for text in one], ">")] for one in right]
    blocks = []
    for block in _blocks(columns, None if width is None else width - len(left_lines[0])):
        lines = [_GAP.join(parts).rstrip() for parts in zip(left_lines, *block, strict=True)]
        blocks.append("\n".join(lines))
    parts = ["\n\n".join(blocks), *table.footnotes]
    if table.of_data:
        parts.insert(0, table.of_data)
    return "\n".join(parts) + "\n"


def _told_once(table: Table) -> list[Any]:
    """Rows whose score and images are not repeated under themselves."""
    rows, before = [], None
    for row in table.rows:
        again = before is not None and (row.score, row.images) == (before.score, before.images)
        rows.append(_Again(row.checkpoint) if again else row)
        before = row
    return rows


class _Again:
    score = better = images = ""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint


def _aligned(rows: Sequence[Sequence[str]], side: str) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [f"{text:{side}{width}}" for text, width in zip(row, widths, strict=True)] for row in rows
    ]


def _blocks(columns: Sequence[list[str]], width: int | None) -> list[list[list[str]]]:
    """Columns, as many side by side as fit, and at least one."""
    blocks: list[list[list[str]]] = [[]]
    used = 0
    for column in columns:
        needed = len(_GAP) + len(column[0])
        if blocks[-1] and width is not None and used + needed > width:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += needed
    return blocks


# CSV


def as_csv(table: Table) -> str:
    """One row of names, then the rows of the table, with all digits. Beside each column stand how
    many values each number is of and, of means, their deviation; behind all numbers what the text
    says above them: method, seeds, last step. An empty cell is no number; the last column says
    which of them can be filled, and how.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names, facts = [], {}
    for column in table.columns:
        deviation = [f"{column.name}: deviation"] if _is_mean(column.group) else []
        names += [column.name, *deviation, f"{column.name}: n"]
        for fact, value in column.facts.items():
            if fact != "n":  # each number has its own
                facts[f"{column.name}: {fact}"] = "" if value == "-" else value
    writer.writerow([*_HEADINGS[:2], "unit", *_HEADINGS[2:], *names, *facts, "not evaluated"])
    for row in table.rows:
        cells: list[Any] = []
        for column, cell in zip(table.columns, row.cells, strict=True):
            deviation = [_exact(cell.deviation)] if _is_mean(column.group) else []
            cells += [_exact(cell.mean), *deviation, len(cell.values)]
        empty = [
            f"{column.name}: run {table.notes[note]}"
            for column, cell in zip(table.columns, row.cells, strict=True)
            for note in cell.notes
        ]
        told = [row.score, row.better.replace("-", ""), row.unit, row.images, row.checkpoint]
        writer.writerow([*told, *cells, *facts.values(), "; ".join(empty)])
    return buffer.getvalue()


def _is_mean(group: Group) -> bool:
    return len(group.runs) > 1


def _exact(value: float | None) -> str:
    return "" if value is None else repr(float(value))


# LaTeX

_LATEX = {
    **{sign: f"\\{sign}" for sign in "_%&#${}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}
_ARROWS = {"lower": r" $\downarrow$", "higher": r" $\uparrow$", "-": ""}


def latex(text: str) -> str:
    r"""A text for LaTeX.

    >>> print(latex("class_top1 50%"))
    class\_top1 50\%
    """
    return "".join(_LATEX.get(sign, sign) for sign in text)


def as_latex(table: Table, *, command: str) -> str:
    """A `tabular` that needs no package; an arrow says which way a score is better."""
    lines = [f"% {command}"]
    lines += [f"% {table.of_data}"] if table.of_data else []
    for column in table.columns:
        facts = ", ".join(f"{name} {value}" for name, value in column.facts.items())
        lines.append(f"% {column.name}: {facts}")
    lines += [f"\\begin{{tabular}}{{lll{'r' * len(table.columns)}}}", r"\hline"]
    headings = ["score", "images", "checkpoint", *(column.name for column in table.columns)]
    lines += [" & ".join(map(latex, headings)) + r" \\", r"\hline"]
    for row, told in zip(table.rows, _told_once(table), strict=True):
        score = latex(told.score) + (_ARROWS[row.better] if told.score else "")
        cells = [score, latex(told.images), latex(told.checkpoint)]
        cells += [_latex_cell(cell) for cell in row.cells]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\hline", r"\end{tabular}", *(f"% {note}" for note in table.footnotes)]
    return "\n".join(line.replace("\n", " ") for line in lines) + "\n"


def _latex_cell(cell: Cell) -> str:
    text = cell.text
    if text == "-":
        return "--"
    text = latex(text).replace("inf", r"$\infty$")
    return f"$-${text[1:]}" if text.startswith("-") else text


# JSON


def plain_table(table: Table) -> dict[str, Any]:
    """For JSON: every number of every run."""
    return {
        "of": table.of_data,
        "columns": [
            {
                "name": column.name,
                "method": column.group.runs[0].name,
                "n": len(column.group.runs),
                "members": [
                    {
                        "path": str(run.folder),
                        "kind": run.kind,
                        "seed": run.seed,
                        "last_step": run.last_step,
                        "best_step": run.best_step,
                    }
                    for run in column.group.runs
                ],
            }
            for column in table.columns
        ],
        "rows": [
            {
                **{"score": row.score, "better": row.better.strip("-") or None},
                **{"unit": row.unit, "images": row.images, "checkpoint": row.checkpoint},
                "cells": [
                    {
                        "mean": cell.mean,
                        "deviation": cell.deviation,
                        "n": len(cell.values),
                        "values": list(cell.values),
                        "not_evaluated": [table.notes[note] for note in cell.notes],
                    }
                    for cell in row.cells
                ],
            }
            for row in table.rows
        ],
    }


def as_json(table: Table, *, command: str) -> str:
    """`plain_table`, with the command that makes it again."""
    return strict_text({"command": command, **plain_table(table)}, indent=1) + "\n"


# A page


def as_html(table: Table, *, command: str) -> str:
    """A self-contained page: the table, what its scores mean, and the last preview of each run."""
    return render(
        "compare.html",
        table=table,
        rows=list(zip(table.rows, _told_once(table), strict=True)),
        facts=list(table.columns[0].facts) if table.columns else [],
        scores=list(dict.fromkeys(row.score for row in table.rows)),
        previews=_previews(table),
        command=command,
    )


def _previews(table: Table) -> list[tuple[str, str]]:
    """The last preview of each run."""
    captions, pictures = [], []
    for member in (run for column in table.columns for run in column.group.runs):
        files = sorted((member.folder / "previews").glob("step_*.png"))
        if files:
            captions.append(f"{member.folder}, {files[-1].stem.replace('_', ' ')}")
            pictures.append(files[-1].read_bytes())
    return list(zip(captions, all_embedded(pictures)[0], strict=True))
