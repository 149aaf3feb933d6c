"""Results of evaluations, and the file that keeps them: one entry for each `result_key`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from patchkin._version import __version__
from patchkin.errors import DataError
from patchkin.scoring.own_data import full_name
from patchkin.scoring.scores import Scores, declared
from patchkin.storage.atomic import write_json
from patchkin.storage.locks import alone_at
from patchkin.storage.strict_json import parsed, restored, strict, strict_text

SCORES_FILE = "scores.json"
_ASKED = ("classes", "masks", "truth", "lpips", "judge", "metrics")
"""Settings of an evaluation that add scores."""
_PARTS = ("subject", "data", "evaluation", "protocols", "key")
logger = logging.getLogger(__name__)


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
    """Model, its SHA-256, method, step and weights; or the folder of translations."""
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
    """For JSON: everything but the picture; see `storage.strict_json` for infinite scores."""
    plain = {f.name: getattr(result, f.name) for f in fields(result) if f.name != "gallery"}
    entry = dict(json.loads(strict_text(plain)))
    return {"key": result_key(entry), **entry}


def write_result(result: Result, path: Path) -> None:
    """Add a result to a file of results; one with the same `result_key` is replaced.

    Results of earlier versions, which have no key, get the one that they tell; a warning says so.

    Raises:
        StorageError: the file cannot be written.
        DataError: it is there and holds no results.
    """
    entry = as_plain(result)
    with alone_at(path, f"adds to `{path}`"):
        known = _entries(path)
        old = sum("key" not in other for other in known)
        if old:
            logger.warning(
                "`%s`: %d result%s of an earlier version %s; which weights they are of was not "
                "recorded",
                path,
                old,
                *(("s", "are kept") if old > 1 else ("", "is kept")),
            )
        kept = [other for other in map(_converted, known) if other["key"] != entry["key"]]
        write_json(path, [*map(strict, kept), entry])


def read_results(path: Path) -> list[dict[str, Any]]:
    """The results in a file, with their keys; none if it is not there.

    Raises:
        DataError: it is not a file of results.
    """
    with _told(path):
        entries = [_checked(restored(_converted(entry))) for entry in _entries(path)]
    return [{"subject": {}, **entry} for entry in entries]


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with _told(path):
        results = parsed(path.read_text(encoding="utf-8"))
        return [_checked(entry) for entry in results if entry["scores"] is not None]


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"`{path}` holds no results: {error}.") from error


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry whose scores are numbers, and whose parts have names.

    Raises:
        TypeError: they are something else.
    """
    for name in ("scores", *_PARTS):
        if not isinstance(entry.get(name, {}), dict):
            raise TypeError(f"`{name}` of an entry is no object")
    if not all(is_number(score) or score is None for score in entry["scores"].values()):
        raise TypeError("a score is no number")
    key, subject = entry.get("key", {}), entry.get("subject", {})
    texts = [key.get(name) for name in ("data", "direction", "split", "weights")]
    texts += [subject.get(name) for name in ("folder", "model", "method", "sha256")]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise TypeError("an entry names its model or its images otherwise than by texts")
    if not isinstance(subject.get("step") or 0, int):
        raise TypeError("a step is no whole number")
    parts = [key.get("checkpoint", {}), key.get("asked", {}), *entry.get("protocols", {}).values()]
    if not all(isinstance(part, dict) for part in parts):
        raise TypeError("a part of an entry is no object")
    return entry


def is_number(value: object) -> bool:
    """Whether JSON says a number that a float can be.

    >>> is_number(1), is_number(1.5), is_number(True), is_number(10**400), is_number("1")
    (True, True, False, False, False)
    """
    if isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _converted(entry: dict[str, Any]) -> dict[str, Any]:
    return entry if "key" in entry else {**entry, "key": result_key(entry)}


def result_key(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a result is of. Two with one key are the same measurement, the later one counts.

    Args:
        entry: of `as_plain`; what one of an earlier version does not tell is None.

    >>> key = result_key({"scores": {}, "data": {"split": "test"}, "subject": {"step": 3}})
    >>> key["split"], key["checkpoint"], key["weights"]
    ('test', {'step': 3, 'sha256': None}, None)
    """
    data, subject = entry.get("data", {}), entry.get("subject", {})
    evaluation = entry.get("evaluation", {})
    root = data.get("root")
    checkpoint: dict[str, Any] = {"step": subject.get("step"), "sha256": subject.get("sha256")}
    if "folder" in subject:
        checkpoint = {"folder": full_name(subject["folder"]), "made_by": subject.get("made_by")}
    return {
        "data": None if root is None else full_name(root),
        "direction": data.get("direction"),
        "split": data.get("split"),
        "protocol": {
            name: protocol.get("extractor_sha256", "")
            for name, protocol in sorted(entry.get("protocols", {}).items())
        },
        "checkpoint": checkpoint,
        "weights": subject.get("weights"),
        "precision": subject.get("precision"),
        "asked": {name: evaluation[name] for name in _ASKED if evaluation.get(name)},
        "samples": data.get("counts", {}).get("outputs_per_input"),
        "value_ranges": data.get("value_ranges"),
    }


def digest_of(plain: Any) -> str:
    """A short name for plain data, the same for the same.

    >>> digest_of({"a": 1})
    'f9d86028'
    """
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


def headings(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells results apart, for the columns of a table: split and step, and what else differs.

    >>> def entry(step: int, weights: str) -> dict[str, Any]:
    ...     return {"data": {"split": "test"}, "subject": {"step": step, "weights": weights}}
    >>> headings([entry(1, "live"), entry(2, "live")])
    ['test, step 1', 'test, step 2']
    >>> headings([entry(1, "averaged"), entry(1, "live")])
    ['test, step 1, averaged weights', 'test, step 1, live weights']
    """
    keys = [result_key(entry) for entry in entries]
    differing = [name for name in _TOLD if len({json.dumps(key[name]) for key in keys}) > 1]
    texts = []
    for key in keys:
        parts = [str(key["split"]), f"step {key['checkpoint'].get('step')}"]
        parts += [_TOLD[name](key[name]) for name in differing]
        texts.append(", ".join(parts))
    return texts


_TOLD: Mapping[str, Callable[[Any], str]] = {
    "data": lambda data: f"data {data or 'not recorded'}",
    "direction": lambda direction: str(direction or "direction not recorded"),
    "weights": lambda weights: f"{weights} weights" if weights else "weights not recorded",
    "precision": lambda precision: str(precision or "precision not recorded"),
}
