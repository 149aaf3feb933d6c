"""The files that a run learns from, as they were when it began.

A resumed run sees the same images in the same order only if the files are the same. Their names and
sizes are kept, and the hashes of a few, because an image may be replaced by one of the same size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from patchkin.data.config import DataConfig
from patchkin.errors import CheckpointError
from patchkin.images.pages import file_of

Kind = TypeVar("Kind")
SAMPLED_FILES = 16
"""Of each domain, spread evenly over its names; these are read whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainRecord:
    """The files of one domain: names (`name_of`) and bytes."""

    train: dict[str, int]
    val: dict[str, int]
    """In a folder of their own, or held out of the training images."""
    hashes: dict[str, str]
    """SHA-256 of some of both."""

    @property
    def sizes(self) -> dict[str, int]:
        """Of all files."""
        return {**self.train, **self.val}


DataRecord = Mapping[str, DomainRecord]
"""By domain: a and b, or the names of several."""


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """What a run takes of a domain."""

    train: Sequence[Path]
    val: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """Between the files of a run then and now."""

    first: str
    """What is said of the first file that differs."""
    new: int
    missing: int
    changed: int

    def __str__(self) -> str:
        counts = f"{self.new} new, {self.missing} missing, {self.changed} changed"
        return f"{self.first} ({counts})"


def name_of(path: Path, config: DataConfig) -> str:
    """A file's name below the folder of the data, the same wherever that folder is.

    >>> name_of(Path("sets/h2z/trainA/1.png"), DataConfig(root="sets/h2z"))
    'trainA/1.png'
    """
    for folder in (config.root, config.source, config.target):
        if folder is not None and path.is_relative_to(folder) and path != Path(folder):
            return path.relative_to(folder).as_posix()
    return Path(*path.parts[-2:]).as_posix()  # of the built-in set, which is in a cache


def record_files(files: Mapping[str, SplitFiles], config: DataConfig) -> DataRecord:
    """What is kept of the files of every domain.

    Raises:
        OSError: a file is not there any more.
    """
    return {domain: _domain_record(splits, config) for domain, splits in files.items()}


def _domain_record(files: SplitFiles, config: DataConfig) -> DomainRecord:
    train, val = (
        {name_of(path, config): file_of(path).stat().st_size for path in paths}
        for paths in (files.train, files.val)
    )
    paths = {name_of(path, config): path for path in (*files.train, *files.val)}
    names = sorted(paths)
    sampled = names[:: max(1, -(-len(names) // SAMPLED_FILES))]
    hashes = {
        name: hashlib.sha256(file_of(paths[name]).read_bytes()).hexdigest() for name in sampled
    }
    return DomainRecord(train=train, val=val, hashes=hashes)


def difference(before: DataRecord, now: DataRecord) -> Difference | None:
    """What has become of the files; None if they are the same.

    >>> def record(**sizes):
    ...     return {"a": DomainRecord(train=sizes, val={}, hashes={})}
    >>> print(difference(record(x=1, y=2), record(x=1, z=3)))
    `y` is missing (1 new, 1 missing, 0 changed)
    """
    said: list[str] = []
    new = missing = changed = 0
    for domain in sorted(before.keys() | now.keys()):
        nothing = DomainRecord(train={}, val={}, hashes={})
        old, current = before.get(domain, nothing), now.get(domain, nothing)
        for name in sorted(old.sizes.keys() | current.sizes.keys()):
            if name not in old.sizes:
                new += 1
                said.append(f"`{name}` is new")
            elif name not in current.sizes:
                missing += 1
                said.append(f"`{name}` is missing")
            elif old.sizes[name] != current.sizes[name]:
                changed += 1
                sizes = f"{current.sizes[name]} bytes, not {old.sizes[name]}"
                said.append(f"`{name}` has {sizes}")
            elif _differ(old.hashes.get(name), current.hashes.get(name)):
                changed += 1
                said.append(f"`{name}` has other content")
    return Difference(said[0], new, missing, changed) if said else None


def _differ(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def as_recorded(
    files: Sequence[Path], val: Collection[str], config: DataConfig
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Training and held-out files, each in the old order: held out is what was, and nothing else.

    Args:
        files: of one domain, without those of a validation folder.
        val: names of the validation images of the run.
        config: where the files are.
    """
    names = {path: name_of(path, config) in val for path in files}
    return (
        tuple(path for path, held_out in names.items() if not held_out),
        tuple(path for path, held_out in names.items() if held_out),
    )


def to_json(record: DataRecord) -> dict[str, Any]:
    """As it stands in `data.json`."""
    return {
        domain: {"train": part.train, "val": part.val, "hashes": part.hashes}
        for domain, part in record.items()
    }


def from_json(plain: Any) -> DataRecord:
    """The inverse of `to_json`.

    Raises:
        CheckpointError: it is none.
    """
    try:
        return {
            domain: DomainRecord(
                train=_by_name(part["train"], int),
                val=_by_name(part["val"], int),
                hashes=_by_name(part["hashes"], str),
            )
            for domain, part in plain.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"its list of files cannot be read ({error})") from error


def _by_name(plain: Any, kind: type[Kind]) -> dict[str, Kind]:
    """What stands there for each name.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(plain, dict) or not all(isinstance(each, kind) for each in plain.values()):
        raise TypeError(f"in place of a {kind.__name__} for each name is something else")
    return plain
