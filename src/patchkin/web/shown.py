"""What a server shows, for the parts of the page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from patchkin.method import Method
from patchkin.web.examples import Example
from patchkin.web.models import Models
from patchkin.web.visitors import Visitors

ONE_AT_A_TIME = "model"
"""Name of the queue of all that computes."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Of one server."""

    models: Models
    examples: Sequence[Example]
    visitors: Visitors
    tile: int
    """Side of the parts of large images."""
    max_files: int
    """Of one job."""
    runs: Path | None = None
    """Folder of runs to watch."""
    methods: Mapping[str, type[Method]] | None = None


def message(line: str, *more: str, bad: bool = False) -> str:
    """What is said above the pictures, as HTML; nothing in it is taken for a tag.

    >>> message("a <b>")
    '<p role="status" class="said">a &lt;b&gt;</p>'
    """
    kind = "said bad" if bad else "said"
    lines = [f'<p role="status" class="{kind}">{html.escape(line)}</p>']
    lines += [f'<p class="said more">{html.escape(text)}</p>' for text in more]
    return "".join(lines)
