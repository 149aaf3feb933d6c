"""What is promised names tests and scripts; they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("tests", "benchmarks", ".")


def named_files(page: Path) -> list[tuple[str, list[str]]]:
    """Files and folders that the cells of tables name, and functions in parentheses behind them."""
    cells = [
        cell
        for line in page.read_text().splitlines()
        if line[:2] == "| "
        for cell in line.split("|")
    ]
    found = []
    for cell in cells:
        for match in re.finditer(
            r"`?([\w/]+(?:/|\.py))`?(?= |,|:|$)( \((?:`test_\w+`,? ?)+\))?", cell.strip()
        ):
            found.append((match[1], re.findall(r"test_\w+", match[2] or "")))
    return found


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/promises.md"])
def test_every_test_that_is_named_is_there(name):
    named = named_files(ROOT / name)
    assert len(named) >= 10
    for path, functions in named:
        there = [ROOT / place / path for place in PLACES if (ROOT / place / path).exists()]
        assert there, f"{name}: {path}"
        for function in functions:
            assert f"def {function}(" in there[0].read_text(), f"{name}: {path}: {function}"
