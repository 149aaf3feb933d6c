"""Examples of docstrings as blocks of code, for the pages of the API."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*\n?(?:^(?!$).*\n?)*", re.MULTILINE)


class Examples(griffe.Extension):  # type: ignore[misc]
    """Puts fences around what begins with `>>>`, which Markdown would take for a quotation."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)

    on_instance = on_object


def fenced(text: str) -> str:
    if "```" in text:
        return text
    return EXAMPLE.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", text)
