"""Self-contained HTML pages, made from the templates beside this file."""

from __future__ import annotations

import base64
from typing import Any

from patchkin.scoring.scores import SCORES, describe


def render(template: str, **content: Any) -> str:
    """A page.

    Args:
        template: name of a file in `templates`. What it shows is escaped; `score | describe` says
            what a score is, `score | way` which way it is better.
        content: what the template asks for.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("patchkin.scoring"), autoescape=True, trim_blocks=True
    )
    environment.filters["describe"] = describe
    environment.filters["way"] = _way
    return environment.get_template(template).render(**content)


def _way(name: str) -> str:
    """Which way a score is better, short.

    >>> _way("squeezenet-256/frechet"), _way("psnr"), _way("change")
    ('lower', 'higher', '-')
    """
    score = SCORES.get(name.rpartition("/")[2])
    return "-" if score is None or score.better is None else score.better


def embedded(content: bytes) -> str:
    """A file in base64, as pages hold their pictures."""
    return base64.b64encode(content).decode()
