"""JSON that every reader reads: no NaN and no Infinity, which Python writes and the standard lacks.

Such a number becomes null, and beside it stands what it was: `not_finite` at the top of the object,
a mapping from its place (a JSON Pointer, RFC 6901) to the word for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

NOT_FINITE = "not_finite"
"""Where an object says which of its nulls are no finite numbers."""
MOST_LEVELS = 100
"""Of what is within each other in JSON that is read. Ours has at most ten; whoever goes through it
after this, by calls within calls, does not come to the end of Python's stack."""
_WORDS = {math.inf: "Infinity", -math.inf: "-Infinity"}
_NAN = "NaN"


def strict(plain: Mapping[str, Any]) -> dict[str, Any]:
    """An object for JSON without NaN and infinities; the same if it has none.

    >>> strict({"psnr": float("inf"), "steps": [1.5, float("nan")]})
    {'psnr': None, 'steps': [1.5, None], 'not_finite': {'/psnr': 'Infinity', '/steps/1': 'NaN'}}
    """
    found: dict[str, str] = {}
    cleaned = _cleaned(dict(plain), "", found)
    return {**cleaned, NOT_FINITE: found} if found else cleaned


def restored(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `strict`.

    >>> restored({"psnr": None, "not_finite": {"/psnr": "Infinity"}})
    {'psnr': inf}
    """
    whole: dict[str, Any] = json.loads(json.dumps(plain))
    for pointer, word in whole.pop(NOT_FINITE, {}).items():
        *above, last = (_unescaped(part) for part in pointer.split("/")[1:])
        holder: Any = whole
        for part in above:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        holder[int(last) if isinstance(holder, list) else last] = float(word)
    return whole


def strict_text(plain: Mapping[str, Any], *, indent: int | None = None) -> str:
    """`strict` as text.

    Raises:
        TypeError: something in it has no JSON.
    """
    return json.dumps(strict(plain), indent=indent, allow_nan=False)


def parsed(text: str | bytes) -> Any:
    """What JSON says that somebody else may have written.

    Raises:
        ValueError: it is none, it is not UTF-8, or it is nested deeper than `MOST_LEVELS`.

    >>> parsed("[" * 102 + "]" * 102)
    Traceback (most recent call last):
    ValueError: it is nested too deeply
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _inside(value: Any) -> list[Any]:
    """The objects and lists within an object or a list."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in held if isinstance(each, (dict, list))]


def _cleaned(value: Any, place: str, found: dict[str, str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        found[place] = _WORDS.get(value, _NAN)
        return None
    if isinstance(value, Mapping):
        return {
            key: _cleaned(inner, f"{place}/{_escaped(str(key))}", found)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_cleaned(inner, f"{place}/{index}", found) for index, inner in enumerate(value)]
    return value


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")
