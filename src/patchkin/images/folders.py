"""Which files of a folder are its images: one answer for every verb.

A folder is searched with all its sub-folders, linked ones too. Every real folder counts once,
however many links lead to it, so that links in a circle end; its own place comes before a link to
it. Left out are hidden files and folders, and what computers put beside images: the thumbnails of
network drives (`@eaDir`), the halves of files of a Mac (`__MACOSX`), bins and snapshots.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from patchkin.errors import DataError
from patchkin.images.faults import reason
from patchkin.images.heic import HEIC_SUFFIXES
from patchkin.images.picture import is_image_file

_LEFT_OUT_FOLDERS = frozenset(
    {
        *("__macosx", "@eadir", "@__thumb", "@recycle", "@recently-snapshot", "#recycle"),
        *("#snapshot", "$recycle.bin", "recycler", "system volume information", "lost+found"),
        "thumbs",
    }
)
"""Lower case; hidden folders (.AppleDouble, .Trash-1000, .thumbnails) are left out anyway."""
_LEFT_OUT_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_ADVICE = {
    **dict.fromkeys(HEIC_SUFFIXES, "install patchkin[heic]"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf"), "raw: export as TIFF"),
    **dict.fromkeys(
        (".mp4", ".mov", ".avi", ".mkv"), "video: name it itself, or take out its frames"
    ),
    **dict.fromkeys((".zip", ".tar", ".gz", ".7z"), "unpack first"),
    ".pdf": "export its pages",
}
_MOST_KINDS = 6
_NO_SUFFIX = "without suffix"


@dataclass(frozen=True, slots=True)
class FoundImages:
    """The images of a folder, and what else is in it."""

    folder: Path
    files: tuple[Path, ...]
    """Images, sorted by their path below the folder."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Suffix (lower case) -> number of files that are no images."""

    @property
    def note(self) -> str:
        """What was ignored, in words; empty if nothing was.

        >>> FoundImages(Path("photos"), (), {".heic": 100, ".txt": 3}).note
        '0 images of 103 files; ignored: 100 .heic (install patchkin[heic]), 3 .txt'
        """
        if not self.ignored:
            return ""
        number = len(self.files)
        total = number + sum(self.ignored.values())
        images = f"{number} image{'s' * (number != 1)} of {total} files"
        return f"{images}; ignored: {ignored_kinds(self.ignored)}"


def ignored_kinds(ignored: Mapping[str, int]) -> str:
    """Suffixes with their numbers, most first, and what can be done about them."""
    ranked = sorted(ignored.items(), key=lambda kind: (-kind[1], kind[0]))
    words = [
        f"{number} {suffix}{f' ({_ADVICE[suffix]})' if suffix in _ADVICE else ''}"
        for suffix, number in ranked[:_MOST_KINDS]
    ]
    others = sum(number for _, number in ranked[_MOST_KINDS:])
    return ", ".join([*words, f"{others} of other kinds"] if others else words)


def is_left_out(name: str) -> bool:
    """Whether a folder of this name is never searched for images.

    >>> [is_left_out(name) for name in ("@eaDir", ".AppleDouble", "thumbs", "cats")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _LEFT_OUT_FOLDERS


def find_images(folder: Path) -> FoundImages:
    """All images below a folder; a link that leads nowhere is one too, so that it is missed.

    Args:
        folder: to search; its own name does not matter.

    Raises:
        DataError: it, or a folder in it, cannot be read.
    """
    files: list[Path] = []
    ignored: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    real: list[Path] = [folder]
    linked: list[Path] = []
    while real or linked:
        current = real.pop() if real else linked.pop(linked.index(min(linked)))
        identity = _identity(current)
        if identity in seen:
            continue
        seen.add(identity)
        for entry in _entries(current):
            path = current / entry.name
            if _leads_to_folder(entry):
                if not is_left_out(entry.name):
                    (linked if entry.is_symlink() else real).append(path)
            elif is_image_file(path) and _leads_to_file(entry):
                files.append(path)
            elif not entry.name.startswith(".") and entry.name.lower() not in _LEFT_OUT_FILES:
                ignored[path.suffix.lower() or _NO_SUFFIX] += 1
    files.sort(key=lambda path: path.relative_to(folder).as_posix())
    return FoundImages(folder, tuple(files), dict(ignored))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _identity(folder: Path) -> tuple[int, int]:
    """The same for all paths to one real folder."""
    try:
        status = folder.stat()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return status.st_dev, status.st_ino


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"The folder `{folder}` cannot be read: {reason(error)}. Allow it, or move it elsewhere."
    )


def _leads_to_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to one or to nothing; not a pipe, a socket or a device."""
    try:
        return entry.is_file() or not Path(entry.path).exists()
    except OSError:  # a link to itself
        return True


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
