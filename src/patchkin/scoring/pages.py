"""Self-contained HTML pages, made from the templates beside this file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from patchkin.images.faults import DECODING_ERRORS
from patchkin.scoring.scores import SCORES, describe

PICTURES_BYTES = 1_600_000
"""What the pictures of a page may have together: in base64, with curves and text, a page stays
below 3 MB, which opens at once and can be sent by mail."""
_QUALITIES = (90, 80, 65)
_SMALLEST_PIXELS = 64


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


def embedded(content: bytes, kind: str = "png") -> str:
    """A picture as an address that holds it.

    >>> embedded(b"abc")
    'data:image/png;base64,YWJj'
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def all_embedded(pictures: Sequence[bytes], room: int = PICTURES_BYTES) -> tuple[list[str], bool]:
    """Pictures as a page holds them, and whether some had to be made smaller.

    Those that fit stay the bytes that they are. The room is shared equally, and what small ones
    leave of their share is for the others, which become JPEG, and smaller, until they fit. Of one
    that cannot be read nothing is left.

    Args:
        pictures: PNG files.
        room: bytes, for all together.
    """
    shown: dict[int, str] = {}
    for left, place in enumerate(sorted(range(len(pictures)), key=lambda i: len(pictures[i]))):
        share = room // (len(pictures) - left)
        content, kind = pictures[place], "png"
        if len(content) > share:
            try:
                content, kind = _smaller(content, share), "jpeg"
            except DECODING_ERRORS:
                content = b""
        shown[place] = embedded(content, kind)
        room -= len(content)
    smaller = any(address.startswith("data:image/jpeg") for address in shown.values())
    return [shown[place] for place in range(len(pictures))], smaller


def _smaller(content: bytes, most_bytes: int) -> bytes:
    """A picture as JPEG of at most so many bytes, unless that would leave nothing to look at."""
    with Image.open(io.BytesIO(content)) as image:
        picture = image.convert("RGB")
    while True:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=quality)
            if buffer.tell() <= most_bytes:
                return buffer.getvalue()
        if min(picture.size) <= _SMALLEST_PIXELS:
            return buffer.getvalue()
        picture = picture.resize(
            (max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)),
            Image.Resampling.LANCZOS,
        )
