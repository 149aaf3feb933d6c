"""What a run logs, as small drawings (SVG) that are as wide as there is room.

They take the colour of the text around them, so that they are read on light and on dark pages.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 300, 96
"""Of a drawing, in its own units."""
MOST_POINTS = 400
"""Of a curve: more are no wider than a screen."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 2, 2, 6, 6


def curves(records: Sequence[Mapping[str, Any]], kind: str) -> str:
    """One drawing for everything that is logged under a kind, as HTML.

    Args:
        records: of `log.jsonl`.
        kind: `terms` or `scores`.

    >>> curves([{"step": 1, "terms": {"G": 2.0}}], "scores")
    ''
    """
    logged = [record for record in records if isinstance(record.get(kind), Mapping)]
    names = list(dict.fromkeys(name for record in logged for name in record[kind]))
    drawings = []
    for name in names:
        points = [(r["step"], r[kind][name]) for r in logged if _is_number(r[kind].get(name))]
        if points:
            drawings.append(_drawing(name, points))
    return f'<div class="curves">{"".join(drawings)}</div>' if drawings else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e308  # not NaN either


def _drawing(name: str, points: Sequence[tuple[int, float]]) -> str:
    thinned = thin(points)
    values = [value for _, value in thinned]
    low, high = min(values), max(values)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in _places(thinned, low, high))
    last_x, last_y = _places(thinned, low, high)[-1]
    title = html.escape(name)
    told = f"{title}: {points[-1][1]:.4g} at step {points[-1][0]}, {low:.4g} to {high:.4g}"
    return (
        f'<figure class="curve"><figcaption><span>{title}</span>'
        f"<b>{points[-1][1]:.4g}</b></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{told}"><polyline points="{path}" fill="none" stroke="currentColor" '
        f'stroke-width="1.5" vector-effect="non-scaling-stroke"/>'
        f'<circle cx="{last_x:.1f}" cy="{last_y:.1f}" r="2.5" fill="currentColor"/></svg>'
        f"<small><span>{points[0][0]}</span><span>{low:.3g} to {high:.3g}</span>"
        f"<span>step {points[-1][0]}</span></small></figure>"
    )


def _places(
    points: Sequence[tuple[int, float]], low: float, high: float
) -> list[tuple[float, float]]:
    first, last = points[0][0], points[-1][0]
    across, down = (last - first) or 1, high - low
    wide, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    return [
        (
            _LEFT + wide * (step - first) / across,
            _TOP + tall * ((high - value) / down if down else 0.5),
        )
        for step, value in points
    ]


def thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Points evenly out of many; the last is always one.

    >>> len(thin([(step, 0.0) for step in range(100_000)])), thin([(1, 2.0), (5, 3.0)])
    (400, [(1, 2.0), (5, 3.0)])
    """
    if len(points) <= MOST_POINTS:
        return list(points)
    last = len(points) - 1
    return [points[round(n * last / (MOST_POINTS - 1))] for n in range(MOST_POINTS)]
