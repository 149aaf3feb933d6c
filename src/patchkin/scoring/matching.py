"""Which image of one folder belongs to which of another: by the path below the folder.

A translation may have another suffix than its input. Where two inputs differ in the suffix only,
`translate` keeps them apart by it (`a.jpg` and `a.png` become `a_jpg.png` and `a_png.png`), and so
are they found again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from patchkin.data.layouts import images_in
from patchkin.errors import DataError


class Names:
    """Paths of images below their folder, found again by the files of another one.

    Args:
        names: with `/` between the parts.

    >>> names = Names(["cats/0.png", "dogs/0.png", "a.jpg", "a.png"])
    >>> [names.find(name) for name in ("dogs/0.jpg", "0.png", "a.png", "a_jpg.png")]
    ['dogs/0.png', None, 'a.png', 'a.jpg']
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)
        stems = Counter(map(_stem, self._names))
        self._by_stem = {
            _stem(name) if stems[_stem(name)] == 1 else _told_apart(name): name
            for name in self._names
        }

    def find(self, name: str) -> str | None:
        """The path that this one belongs to; None if there is none."""
        return name if name in self._names else self._by_stem.get(_stem(name))


def files_by_name(
    folder: Path, names: Sequence[str], what: str, *, all_needed: bool = True
) -> dict[str, Path]:
    """The files of a folder for some paths of another one, by these; there may be others.

    Args:
        folder: of the files.
        names: of the images that each have one.
        what: the files are, for the message.
        all_needed: whether every image must have one.

    Raises:
        DataError: one is missing, or two are there; or as `images_in`.
    """
    known, found = Names(names), dict[str, Path]()
    for file in images_in(folder).files:
        name = known.find(file.relative_to(folder).as_posix())
        if name is None:
            continue
        if name in found:
            raise DataError(f"`{found[name]}` and `{file}` are both {what} for `{name}`.")
        found[name] = file
    for name in names if all_needed else ():
        if name not in found:
            raise missing_file(folder, name, what)
    return found


def missing_file(folder: Path, name: str, what: str) -> DataError:
    """That an image has none."""
    return DataError(
        f"`{folder}` has no {what} for `{name}`: files are matched by their path below the folder, "
        "whatever the suffix."
    )


def relative_names(files: Sequence[Path], folder: Path) -> Mapping[Path, str]:
    """The path of each file below a folder, with `/` between the parts."""
    return {file: file.relative_to(folder).as_posix() for file in files}


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _told_apart(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower().removeprefix(".")
    return f"{_stem(name)}_{suffix}"
