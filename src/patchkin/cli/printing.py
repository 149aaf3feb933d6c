"""What the verbs share in printing: the only place of the command line that writes JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from patchkin.storage.strict_json import strict_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def print_json(plain: Mapping[str, Any]) -> None:
    """One object on one line of standard output. NaN and infinities are null, and told beside it
    (`storage.strict_json`).
    """
    print(strict_text(plain))


@contextmanager
def progress_bar(console: Console | None = None, *, silent: bool = False) -> Iterator[Progress]:
    """A bar on a terminal's standard error; anywhere else, and if `silent`, nothing is shown."""
    from rich.console import Console
    from rich.progress import Progress

    hidden = silent or not sys.stderr.isatty()
    bar = Progress(console=console or Console(stderr=True), transient=True, disable=hidden)
    if hidden:  # never started: rich 14.2 and before end a hidden bar with an empty line
        yield bar
        return
    with bar:
        yield bar
