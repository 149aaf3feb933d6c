"""Images to try: those of a folder, or some that are rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from patchkin.data.toy import Scene
from patchkin.errors import DataError
from patchkin.images import write_pillow
from patchkin.images.folders import find_images, ignored_kinds
from patchkin.web.pictures import show

MOST = 12
"""Of a folder; more is no choice."""
SEEDS = (3, 5, 8, 13, 21, 34)
"""Of the rendered scenes."""
_PIXELS = 256


@dataclass(frozen=True)
class Example:
    """An image and its small picture."""

    file: Path
    picture: Path


def examples(folder: Path | None, room: Path) -> Sequence[Example]:
    """Of a folder, or rendered.

    Args:
        folder: of images; the first `MOST` that can be read.
        room: where pictures are written.

    Raises:
        DataError: the folder holds no image that can be read.
    """
    room.mkdir(parents=True, exist_ok=True)
    if folder is None:
        return [_rendered(room, seed) for seed in SEEDS]
    if not folder.is_dir():
        raise DataError(f"`{folder}` is no folder; give one of images to --examples.")
    found = find_images(folder)
    chosen: list[Example] = []
    first: DataError | None = None
    for number, file in enumerate(found.files):
        try:
            chosen.append(Example(file.resolve(), show(file, room / f"{number}.png")))
        except DataError as error:
            first = first or error
        if len(chosen) == MOST:
            break
    if not chosen:
        others = f" It has {ignored_kinds(found.ignored)}." if found.ignored else ""
        raise first or DataError(f"`{folder}` holds no image.{others}")
    return chosen


def _rendered(room: Path, seed: int) -> Example:
    file = room / f"scene-{seed}.png"
    write_pillow(file, Scene(_PIXELS, seed).plain(), synced=False)
    return Example(file, file)
