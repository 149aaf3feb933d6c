"""What is known of a shipped model: `model.json` in its folder, checked when it is read.

A value that nobody measured is null. `docs/models.md` and `patchkin models` tell what stands there,
and nothing else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from patchkin.errors import CheckpointError
from patchkin.storage.hub import is_hub_name
from patchkin.storage.strict_json import parsed

RECORD_FILE = "model.json"
_MOST_LETTERS = 2000
_SHA256 = re.compile(r"[0-9a-f]{64}")
Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class MeasuredScore:
    """A score of a model, and the command that gave it."""

    name: str
    """As a result calls it, such as squeezenet-256/frechet."""
    meaning: str
    """In words, with the way that is better."""
    protocol: str
    """How it was measured."""
    value: float
    released: float | None = None
    """Of the released model that it is compared with."""
    command: str


@dataclass(frozen=True, kw_only=True)
class MeasuredSpeed:
    """Times of one image."""

    pixels: int
    """Sides of the image."""
    machine: str
    """In words, with its threads."""
    command: str
    torch_ms: float | None = None
    """Milliseconds in torch, float32."""
    onnxruntime_ms: float | None = None
    onnxruntime_times_as_fast: float | None = None
    """As torch in float32, in one run."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Of one model. Everything but its name may be unknown."""

    name: str
    direction: str | None = None
    """In words: horses to zebras."""
    method: str | None = None
    parameters: int | None = None
    """Of the networks that translate."""
    size: int | None = None
    """Side of the squares that it was trained at, in pixels."""
    macs: int | None = None
    """Multiply-accumulates of an image of this size, as published numbers are counted."""
    macs_256: int | None = None
    """Of an image of 256 pixels."""
    bytes: int | None = None
    """Of its file."""
    sha256: str | None = None
    """Of its file, in hexadecimal."""
    hub: str | None = None
    """OWNER/NAME, or OWNER/NAME@REVISION, where its file is if the package does not bring it."""
    scores: tuple[MeasuredScore, ...] = ()
    compared_with: str | None = None
    """The released model of the column beside the scores."""
    speed: MeasuredSpeed | None = None
    data: str | None = None
    """What it was trained on."""
    data_licence: str | None = None
    limits: tuple[str, ...] = ()
    """What it cannot do, in sentences."""

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """As it stands in its file."""
        return json.dumps(self.to_plain(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_record(path: Path) -> Record:
    """The record in a file; its model has the name of the folder.

    Raises:
        CheckpointError: it cannot be read, or it does not say what a record says.
    """
    try:
        plain = parsed(path.read_bytes())
        record: Record = _built(Record, plain, _RECORD)
        if record.name != path.parent.name:
            raise ValueError(f"it is of `{record.name:.60}`")
    except OSError as error:
        raise CheckpointError(f"`{path}` cannot be read: {error.strerror}.") from error
    except ValueError as error:
        reason = "".join(filter(str.isprintable, str(error)))[:200]
        raise CheckpointError(f"`{path}` is no record of a model: {reason}.") from error
    return record


Check = tuple[Callable[[Any], bool], str]
"""Whether a value is right, and what is expected."""


def _built(kind: type[Kind], plain: Any, checks: Mapping[str, Check]) -> Kind:
    """A dataclass of plain values.

    Raises:
        ValueError: an entry is missing, unknown, or of a wrong kind.
    """
    if not isinstance(plain, dict):
        raise ValueError(f"a {type(plain).__name__} stands in place of entries by name")
    unknown = sorted(plain.keys() - checks.keys())
    if unknown:
        raise ValueError(f"the entry `{unknown[0]:.60}` is not known")
    values: dict[str, Any] = {}
    for name, (holds, expected) in checks.items():
        value = plain.get(name)
        if value is None:
            if name in _NEEDED[kind.__name__]:
                raise ValueError(f"it lacks the entry `{name}`")
            continue
        if not holds(value):
            raise ValueError(f"its `{name}` is not {expected}")
        values[name] = value
    if "scores" in values:
        values["scores"] = tuple(_built(MeasuredScore, each, _SCORE) for each in values["scores"])
    if "speed" in values:
        values["speed"] = _built(MeasuredSpeed, values["speed"], _SPEED)
    if "limits" in values:
        values["limits"] = tuple(values["limits"])
    return kind(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MOST_LETTERS and value.isprintable()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1 << 63 if isinstance(value, int) else math.isfinite(value)


_TEXT: Check = (_is_text, "a line of text")
_COUNT: Check = (_is_count, "a positive whole number")
_NUMBER: Check = (_is_number, "a finite number")
_TIME: Check = (lambda value: _is_number(value) and value > 0, "a positive number")
_LIST: Check = (lambda value: isinstance(value, list), "a list")
_SCORE: Mapping[str, Check] = {
    **dict.fromkeys(("name", "meaning", "protocol", "command"), _TEXT),
    **dict.fromkeys(("value", "released"), _NUMBER),
}
_SPEED: Mapping[str, Check] = {
    "pixels": _COUNT,
    **dict.fromkeys(("machine", "command"), _TEXT),
    **dict.fromkeys(("torch_ms", "onnxruntime_ms", "onnxruntime_times_as_fast"), _TIME),
}
_RECORD: Mapping[str, Check] = {
    **dict.fromkeys(("name", "direction", "method", "compared_with", "data"), _TEXT),
    "data_licence": _TEXT,
    **dict.fromkeys(("parameters", "size", "macs", "macs_256", "bytes"), _COUNT),
    "sha256": (
        lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None,
        "64 digits in hexadecimal",
    ),
    "hub": (lambda value: isinstance(value, str) and is_hub_name(value), "OWNER/NAME"),
    "scores": _LIST,
    "speed": (lambda value: isinstance(value, dict), "entries by name"),
    "limits": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "lines"),
}
_NEEDED = {
    kind.__name__: {field.name for field in fields(kind) if field.default is MISSING}
    for kind in (Record, MeasuredScore, MeasuredSpeed)
}
