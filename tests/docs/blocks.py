"""The blocks of code of the pages, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")],
    key=lambda path: path.as_posix(),
)
FENCE = re.compile(r"^([ ]*)```+ ?(\w*)[^\n]*\n(.*?)^\1```+ *$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+(?:\n(?!\n)[^`\n]+)?)`")
END_OF_COMMAND = {"|", "&&", "||", ";", ">", ">>", "2>", "then", "fi", "else", "do", "done"}


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Page and line, as a test names them."""
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    page = path.relative_to(ROOT).as_posix()
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], unindented(match[3]))
        for match in FENCE.finditer(text)
    ]


def unindented(text: str) -> str:
    """A block without the indentation that it has inside of a list.

    >>> unindented("  a\\n    b\\n")
    'a\\n  b\\n'
    """
    lines = text.splitlines(keepends=True)
    margins = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    return "".join(line[min(margins, default=0) :] or "\n" for line in lines)


def inline_codes(path: Path) -> list[str]:
    """What stands between single backticks."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in INLINE.findall(text)]


def commands_of(text: str) -> Iterator[list[str]]:
    """The commands of a shell block as words, without comments.

    >>> list(commands_of("cd x && a -b 'c d'  # why\\nlong \\\\\\n  line\\n"))
    [['cd', 'x'], ['a', '-b', 'c d'], ['long', 'line']]
    >>> list(commands_of("a ; b"))
    [['a'], ['b']]
    """
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("#"):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in END_OF_COMMAND:
                words.append(word)
            elif words:
                yield words
                words = []


def patchkin_arguments(words: list[str]) -> list[str] | None:
    """What `patchkin` is called with in a command, with a launcher before it or not.

    >>> patchkin_arguments(["torchrun", "-m", "patchkin", "train"])
    ['train']
    >>> patchkin_arguments(["pip", "install", "patchkin"]) is None
    True
    """
    if words[0] in ("pip", "docker", "eval", "source") or "patchkin" not in words:
        return None
    place = words.index("patchkin")
    launched = place == 0 or words[0] in ("srun", "torchrun", "python", "time")
    return words[place + 1 :] if launched else None
