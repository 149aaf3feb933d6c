"""Results of evaluations, and the file that keeps them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from patchkin._version import __version__
from patchkin.errors import DataError
from patchkin.scoring.scores import Scores, declared
from patchkin.storage.atomic import write_json
from patchkin.storage.locks import alone_at

SCORES_FILE = "scores.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Scores with all they depend on.

    Raises:
        ConfigError: a score that is not declared in `scores`.
    """

    scores: Scores
    warnings: tuple[str, ...]
    protocols: dict[str, Any]
    subject: dict[str, Any]
    """Model, method and step; or the folder of translations."""
    data: dict[str, Any]
    """Root, direction, split, counts."""
    evaluation: dict[str, Any]
    tasks: dict[str, Scores] = field(default_factory=dict)
    """Scores of each pair of domains, where there are several: `scores` holds their means."""
    patchkin: str = __version__
    worst_and_best: dict[str, list[str]] = field(default_factory=dict)
    """Names of inputs that were kept least and best, by the relation of their patches where the
    extractor has feature maps, else by the change."""
    gallery: Image.Image | None = None
    """Those inputs and their translations, as a picture."""

    def __post_init__(self) -> None:
        for scores in (self.scores, *self.tasks.values()):
            declared(scores)


def as_plain(result: Result) -> dict[str, Any]:
    """For JSON: everything but the picture."""
    plain = {f.name: getattr(result, f.name) for f in fields(result) if f.name != "gallery"}
    return dict(json.loads(json.dumps(plain)))


def write_result(result: Result, path: Path) -> None:
    """Add a result to a file of results; one of the same step, split and protocols is replaced.

    Raises:
        StorageError: the file cannot be written.
    """

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return (entry["subject"], entry["data"]["split"], sorted(entry["protocols"]))

    entry = as_plain(result)
    with alone_at(path, f"adds to `{path}`"):
        kept = [other for other in read_results(path) if key(other) != key(entry)]
        write_json(path, [*kept, entry])


def read_results(path: Path) -> list[dict[str, Any]]:
    """The results in a file; none if it is not there.

    Raises:
        DataError: it is not a file of results.
    """
    if not path.is_file():
        return []
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return [entry for entry in results if entry["scores"] is not None]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"`{path}` holds no results: {error}.") from error
