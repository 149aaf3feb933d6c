"""Scored images that trained the model, found by what its run keeps of its files.

An image is one of them if it is that file; if its content is one of those whose hashes were
kept; or if it has the name and the content of a file that is still where the run was trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from patchkin.data.record import from_json
from patchkin.errors import CheckpointError, DataError
from patchkin.images.pages import file_of
from patchkin.scoring.own_data import MANIFEST_FILE, own_data
from patchkin.scoring.results import Result
from patchkin.storage.strict_json import parsed
from patchkin.translation.record import sha256_of

TRAINED = "images that trained the model"
"""What is added to the split of a result that is not of held-out images."""


def tell_trained(result: Result, run: Path, files: Sequence[Path]) -> Result:
    """A result that says whether its images trained the model.

    Args:
        result: of the images.
        run: that trained the model.
        files: the images that were translated.

    Raises:
        CheckpointError: the run's list of files is damaged.
    """
    seen = trained_on(run, files)
    if not seen:
        return result
    share = "all" if len(seen) == len(files) else f"{len(seen)} of {len(files)}"
    warning = f"{share} inputs are {TRAINED}; the scores are no test scores"
    return replace(
        result,
        warnings=(warning, *result.warnings),
        data={**result.data, "split": f"{result.data['split']}, {TRAINED}"},
    )


def trained_on(run: Path, files: Sequence[Path]) -> list[Path]:
    """Those of some files that a run was trained on; none where it kept no list.

    Raises:
        CheckpointError: the list is damaged.
    """
    by_size: dict[int, list[_Trained]] = {}
    for image in _trained(run):
        by_size.setdefault(image.size, []).append(image)
    content = cache(sha256_of)  # each file is read once
    return [
        file
        for file in files
        if any(image.is_in(file, content) for image in by_size.get(_bytes(file), ()))
    ]


class _Trained:
    """An image of a run."""

    def __init__(self, name: str, size: int, sha256: str | None, places: Sequence[Path]) -> None:
        self.name, self.size = Path(name).name, size
        self._sha256 = sha256
        self._file = next((p for p in (file_of(d / name) for d in places) if p.is_file()), None)

    def is_in(self, other: Path, content: Callable[[Path], str]) -> bool:
        """Whether a file of the same size is this image; `content` tells the hash of a file."""
        other = file_of(other)
        if self._file is not None and self._file.samefile(other):
            return True
        if self._sha256 is not None:
            return content(other) == self._sha256
        if self._file is None or self.name != other.name:
            return False
        return content(other) == content(self._file)


def _bytes(file: Path) -> int:
    return file_of(file).stat().st_size


def _trained(run: Path) -> Iterator[_Trained]:
    manifest = run / MANIFEST_FILE
    try:
        plain = parsed(manifest.read_text(encoding="utf-8")).get("files")
        record = from_json(plain or {})
    except FileNotFoundError:
        return
    except (ValueError, AttributeError, CheckpointError) as error:
        raise CheckpointError(f"`{manifest}` is damaged: {error}.") from error
    places: list[Path] = []
    with contextlib.suppress(DataError):  # moved: hashes are left
        own = own_data(run)
        folders = (own.source, own.target) if own.source is not None else (own.root,)
        places = [Path(folder) for folder in folders if folder is not None]
    for part in record.values():
        for name, size in part.train.items():
            yield _Trained(name, size, part.hashes.get(name), places)
