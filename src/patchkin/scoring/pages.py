"""Self-contained HTML pages, made from the templates beside this file."""

from __future__ import annotations

import base64
from typing import Any

from patchkin.scoring.scores import describe


def render(template: str, **content: Any) -> str:
    """A page.

    Args:
        template: name of a file in `templates`. What it shows is escaped; `score | describe` says
            what a score is.
        content: what the template asks for.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("patchkin.scoring"), autoescape=True, trim_blocks=True
    )
    environment.filters["describe"] = describe
    return environment.get_template(template).render(**content)


def embedded(content: bytes) -> str:
    """A file in base64, as pages hold their pictures."""
    return base64.b64encode(content).decode()
