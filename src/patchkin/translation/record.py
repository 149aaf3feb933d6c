"""What made each file of a folder of translations.

    FOLDER/.patchkin/MAKER-MACHINE-PART.jsonl

lies in every folder that translations are written into. The first line of a journal tells the
maker: the model by its hash, the weights of it that were used, and the options that change pixels.
Then come, for each translation, a line before it is written and one when it is there:

    {"begins": "a.png"}
    {"made": "a.png", "file": {...}, "source": {...}, "style": "..."}

with size, time of change and SHA-256 of the file and of its source. Lines are only added, and every
process of a command has a journal of its own, so that any number of them may share a folder. What
made a file is what the file's content says: copied or touched files keep their maker, edited ones
have none.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from patchkin._version import __version__
from patchkin.errors import DataError
from patchkin.images.pages import file_of
from patchkin.storage.atomic import append_line, storage_errors
from patchkin.storage.strict_json import parsed

RECORD_FOLDER = ".patchkin"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Maker:
    """A model and how it was used."""

    model: str
    """Where it was, for people."""
    sha256: str
    """Of its file."""
    method: str
    step: int | None = None
    """Of its training."""
    weights: str = "live"
    """Averaged or live."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that pixels depend on: direction, precision, size of translation."""
    patchkin: str = __version__

    @cached_property
    def key(self) -> str:
        """Equal for makers whose translations are equal, wherever the model was.

        >>> maker = Maker(model="runs/a", sha256="12", method="cut", options={"direction": "AtoB"})
        >>> maker.key == Maker(model="b", sha256="12", method="cut", options=maker.options).key
        True
        """
        decides = [self.sha256, self.weights, dict(self.options)]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        return f"`{self.model}` ({self.method}{step}, {self.weights} weights)"


@dataclass(frozen=True, slots=True)
class Content:
    """What a file held when it was seen."""

    path: str
    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Content:
        """Of a file that is there.

        Raises:
            OSError: it cannot be read.
        """
        status = path.stat()
        return cls(str(path.absolute()), status.st_size, status.st_mtime_ns, sha256_of(path))

    def is_that_of(self, path: Path) -> bool:
        """Whether a file holds the same; it is read only if its size is the same and its path or
        time of change is not.
        """
        try:
            status = path.stat()
            if status.st_size != self.size:
                return False
            untouched = status.st_mtime_ns == self.mtime_ns
            if untouched and str(path.absolute()) == self.path:
                return True
            return sha256_of(path) == self.sha256
        except OSError:
            return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One translation."""

    maker: Maker
    file: Content
    source: Content
    style: str = ""
    """What it was translated into, where there is a choice."""


State = Literal["absent", "made", "interrupted", "unknown"]


class Records:
    """The records of all folders that are asked about, as they were when asked first; those of a
    folder with a file that they do not know are read again if they have grown.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, _Folder] = {}

    def made(self, file: Path) -> Made | None:
        """Who made what a file holds; None if that is not known."""
        entries = self._folder(file).made.get(file.name, [])
        return next((made for made in reversed(entries) if made.file.is_that_of(file)), None)

    def state(self, file: Path) -> State:
        """What is known of a file.

        Interrupted: it was being made when a process was killed.
        """
        found = self._state(file)
        if found == "unknown" and _sizes(file.parent) != self._folder(file).sizes:
            del self._folders[file.parent]  # another process has made it in the meantime
            found = self._state(file)
        return found

    def _state(self, file: Path) -> State:
        if not os.path.lexists(file):
            return "absent"
        if self.made(file) is not None:
            return "made"
        return "interrupted" if file.name in self._folder(file).begun else "unknown"

    def _folder(self, file: Path) -> _Folder:
        folder = file.parent
        if folder not in self._folders:
            self._folders[folder] = _read(folder)
        return self._folders[folder]


@dataclass
class _Folder:
    made: dict[str, list[Made]] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    """Not followed by a line that it is made."""
    sizes: Mapping[Path, int] = field(default_factory=dict)
    """Of the journals, before they were read."""


def _read(folder: Path) -> _Folder:
    """What all journals of a folder say; lines that were cut short are passed over."""
    known = _Folder(sizes=_sizes(folder))
    for journal in sorted(known.sizes):
        maker: Maker | None = None
        begun: set[str] = set()
        for line in _lines(journal):
            try:
                entry = parsed(line)
                if "maker" in entry and entry["patchkin"] > _FORMAT:
                    break  # of a newer patchkin: what follows may mean something else
                if "maker" in entry:
                    maker = _maker(**entry["maker"])
                elif "begins" in entry:
                    begun.add(entry["begins"])
                elif maker is not None:
                    begun.discard(entry["made"])
                    known.made.setdefault(entry["made"], []).append(_made(maker, entry, folder))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        known.begun |= begun
    return known


def _sizes(folder: Path) -> dict[Path, int]:
    """Bytes of all journals of a folder."""
    journals = (folder / RECORD_FOLDER).glob("*.jsonl")
    return {journal: journal.stat().st_size for journal in journals}


def _made(maker: Maker, entry: Mapping[str, Any], folder: Path) -> Made:
    file = {**entry["file"], "path": str((folder / entry["made"]).absolute())}  # it may have moved
    return Made(
        maker=maker,
        file=Content(**file),
        source=Content(**entry["source"]),
        style=entry["style"],
    )


def _maker(**plain: Any) -> Maker:
    """Of a journal.

    Raises:
        TypeError: it is none.
    """
    maker = Maker(**plain)
    texts = (maker.model, maker.sha256, maker.method, maker.weights, maker.patchkin)
    is_whole = maker.step is None or isinstance(maker.step, int)
    if not all(isinstance(text, str) for text in texts) or not is_whole:
        raise TypeError("a maker is told by texts and a step")
    if not isinstance(maker.options, dict):
        raise TypeError("the options of a maker are told by name")
    return maker


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


class Recorder:
    """Writes the record of one process.

    Args:
        maker: of all its translations.
        part: that it does of all files; no two processes have the same.
    """

    def __init__(self, maker: Maker, *, part: str = "1of1") -> None:
        self.maker = maker
        machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
        self._name = f"{maker.key[:12]}-{machine}-{part}.jsonl"
        self._opened: set[Path] = set()
        self._sources: dict[Path, Content] = {}

    def reads(self, source: Path) -> None:
        """To be said before a source is read: what it holds then is recorded.

        Raises:
            DataError: it cannot be read.
        """
        try:
            self._sources[source] = Content.of(source)
        except OSError as error:
            raise DataError(f"`{source}` cannot be read: {error.strerror or error}.") from error

    def begins(self, targets: Iterable[Path]) -> None:
        """To be said before files are written.

        Raises:
            StorageError: the record cannot be written.
        """
        for target in targets:
            self._add(target, {"begins": target.name})

    def made(self, targets: Iterable[Path], source: Path, *, style: str = "") -> None:
        """To be said when they are there.

        Args:
            targets: translations.
            source: of which `reads` was said.
            style: that they are in, where there is a choice.

        Raises:
            StorageError: the record cannot be written, or a file cannot be read again.
        """
        for target in targets:
            with storage_errors(target):
                content = asdict(Content.of(target))
            del content["path"]
            origin = asdict(self._sources[source])
            entry = {"made": target.name, "file": content, "source": origin, "style": style}
            self._add(target, entry)

    def _add(self, target: Path, entry: Mapping[str, Any]) -> None:
        journal = target.parent / RECORD_FOLDER / self._name
        with storage_errors(journal, advice="What was translated before is untouched."):
            if journal not in self._opened:
                journal.parent.mkdir(parents=True, exist_ok=True)
                header = {"patchkin": _FORMAT, "maker": _plain(self.maker)}
                append_line(journal, json.dumps(header), synced=False)
                self._opened.add(journal)
            append_line(journal, json.dumps(entry), synced=False)


def _plain(maker: Maker) -> dict[str, Any]:
    return {**asdict(maker), "options": dict(maker.options)}


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# Whole folders


@dataclass(frozen=True)
class Makers:
    """Who made the files of a folder."""

    counts: tuple[tuple[Maker, int], ...]
    """Most files first."""
    unknown: int
    """Files that no record knows as they are."""

    def plain(self) -> dict[str, Any]:
        """For a result of an evaluation; empty where nothing is recorded."""
        if not self.counts:
            return {}
        made_by = [{**_plain(maker), "files": number} for maker, number in self.counts]
        return {"made_by": made_by, "unknown_files": self.unknown}

    @property
    def warning(self) -> str:
        """That the files are not of one model; empty if they are, or if nothing is recorded."""
        if not self.counts or (len(self.counts) == 1 and not self.unknown):
            return ""
        parts = [f"{number} by {maker}" for maker, number in self.counts]
        parts += [f"{self.unknown} that no record knows"] if self.unknown else []
        return f"translations of several makers are scored together: {', '.join(parts)}"


def makers_of(files: Sequence[Path]) -> Makers:
    """Who made some files, or the files of some pages, as their folders' records say."""
    files = list(dict.fromkeys(map(file_of, files)))
    records = Records()
    by_key: dict[str, list[Maker]] = {}
    for file in files:
        made = records.made(file)
        if made is not None:
            by_key.setdefault(made.maker.key, []).append(made.maker)
    counts = sorted(by_key.values(), key=lambda makers: -len(makers))
    known = sum(map(len, counts))
    return Makers(tuple((makers[-1], len(makers)) for makers in counts), len(files) - known)
