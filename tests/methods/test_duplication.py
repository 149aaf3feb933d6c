"""What two methods share is written once: no two files have a dozen equal lines in a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import patchkin.methods

LONGEST = 11
"""Equal lines in a row that two files may have: imports, signatures, the order of steps."""


def repeated(texts: Mapping[str, str], longest: int) -> Iterator[str]:
    """Where two texts have more than `longest` equal lines in a row; blank lines do not count."""
    seen: dict[tuple[str, ...], tuple[str, int]] = {}
    for name, text in texts.items():
        numbered = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1)]
        lines = [(n, line) for n, line in numbered if line]
        for start in range(len(lines) - longest):
            run = lines[start : start + longest + 1]
            other, number = seen.setdefault(tuple(line for _, line in run), (name, run[0][0]))
            if other != name:
                yield f"{other}:{number} and {name}:{run[0][0]}: {run[0][1]}"


def test_no_two_methods_share_a_dozen_lines():
    folder = Path(patchkin.methods.__file__).parent
    files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    assert len(files) >= 16
    assert list(repeated({path.name: path.read_text() for path in files}, LONGEST)) == []


def test_equal_lines_are_found_whatever_their_indentation():
    one, other = "a\n\nb\nc\nd\n", "x\n  a\n  b\n\n  c\ny\n"
    assert list(repeated({"one": one, "other": other}, 2)) == ["one:1 and other:2: a"]
    assert list(repeated({"one": one, "other": other}, 3)) == []
    assert list(repeated({"one": one + one}, 2)) == []
