"""What a model file says of itself, checked: it may come from anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from patchkin.errors import CheckpointError
from patchkin.storage.strict_json import parsed
from patchkin.storage.tensor_files import printable

MOST_PIXELS = 65_536
"""Longest side that a model can have been trained at; an image of such sides takes 51 GB."""
_MOST_LETTERS = 100
_JSON_KINDS = {
    list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false",
    type(None): "null",
}  # fmt: skip
_KNOWN = ("method", "config", "step", "size", "encoding", "version")


def checked_header(text: str, path: Path, *, newest: int) -> dict[str, Any]:
    """The entries of a model's header, as `ModelHeader` takes them.

    Args:
        text: as it stands in the file.
        path: of the file, for the message.
        newest: version of the header that is known here.

    Raises:
        CheckpointError: it is no JSON, or an entry is missing, unknown, or of a wrong type.
    """

    def refused(what: str) -> CheckpointError:
        return CheckpointError(f"`{path}` cannot be read as a model: its header {printable(what)}.")

    try:
        header = parsed(text)
    except ValueError as error:
        raise refused(f"is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise refused(f"is {_JSON_KINDS[type(header)]} in place of entries by name")
    version = header.get("version", 0)
    if not _is_whole(version):
        raise refused(f"has the version {version!r:.40}")
    if version > newest:
        raise CheckpointError(f"`{path}` was written by a newer patchkin; update patchkin.")
    unknown = sorted(header.keys() - set(_KNOWN))
    if unknown:
        raise refused(f"has the entry `{unknown[0]}`, which is not known")
    missing = [name for name in ("method", "config") if name not in header]
    if missing:
        raise refused(f"lacks the entry `{missing[0]}`")
    if isinstance(header.get("size"), list):
        header["size"] = tuple(header["size"])
    checks = {
        "method": (_is_name, "a name"),
        "config": (_is_mapping, "settings by name"),
        "step": (_is_whole, "a whole number"),
        "size": (_is_size, f"one or two whole numbers from 1 to {MOST_PIXELS}"),
        "encoding": (_is_encoding, "entries by name, with names and sizes of domains"),
    }
    for name, (holds, expected) in checks.items():
        if name in header and not holds(header[name]):
            raise refused(f"has the {name} {_short(header[name])}; expected is {expected}")
    return header


def _short(value: object) -> str:
    """The beginning of a value that may be of any length and depth."""
    if isinstance(value, (str, int, float)) and not _is_huge(value):
        return repr(value)[:60]
    return f"of the type {type(value).__name__}"


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and abs(value) >= 1 << 64  # Python writes out no huge number


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MOST_LETTERS and value.isprintable()


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_PIXELS


def _is_size(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(map(_is_side, value))
    return _is_side(value)


def _is_encoding(value: object) -> bool:
    """Value ranges are checked where they are read (`images.declared_ranges`)."""
    if not isinstance(value, dict):
        return False
    domains = value.get("domains", [])
    sizes = value.get("typical_sizes") or [None, None]
    return (
        isinstance(domains, list)
        and all(map(_is_name, domains))
        and isinstance(sizes, list)
        and len(sizes) == 2
        and all(size is None or (isinstance(size, list) and len(size) == 2) for size in sizes)
        and all(_is_whole(side) and side > 0 for size in sizes if size for side in size)
    )
