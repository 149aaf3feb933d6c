"""At what scale a model has learned, and what of a list of files is beyond it. Imports no torch.

A model knows things at the size that they had in training. In an image with four times as many
pixels a side they are four times as large: horse2zebra makes zebras at 256 pixels and none at 1024.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from patchkin.images.sizes import image_size

if TYPE_CHECKING:
    from patchkin.method import Direction
    from patchkin.storage.checkpoint import ModelHeader
    from patchkin.translation.resizing import Resizing

BEYOND = 2.0
"""How many times as large as in training, a side on average, an image may be before it is said."""
_THREADS = 8


@dataclass(frozen=True, slots=True)
class Larger:
    """Files that are beyond the scale of a model."""

    number: int
    of: int
    """All files."""
    largest: Path
    size: tuple[int, int]
    """Width and height of the largest."""


def training_size(header: ModelHeader, direction: Direction = "AtoB") -> tuple[int, int]:
    """Width and height that a whole image had in training, before views were cut from it.

    The middle of all images of the domain that is translated; for models that do not know it, the
    size of the views.
    """
    known = header.encoding.get("typical_sizes") or (None, None)
    width, height = known[direction == "BtoA"] or header.height_width[::-1]
    return int(width), int(height)


def larger_files(
    files: Iterable[Path], trained: tuple[int, int], *, resize: int | None = None
) -> Larger | None:
    """The files whose sides are on average more than `BEYOND` times those of training.

    Args:
        files: to translate; one whose head does not tell its size is left out.
        trained: width and height.
        resize: shorter side that larger ones are brought to before.
    """
    unique = list(dict.fromkeys(files))
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(image_size, unique))
    limit = BEYOND * math.sqrt(trained[0] * trained[1])
    found = [
        (math.sqrt(size[0] * size[1]), file, size)
        for file, size in zip(unique, sizes, strict=True)
        if size is not None and _side(size, resize) > limit
    ]
    if not found:
        return None
    _, largest, size = max(found, key=lambda entry: entry[0])
    return Larger(len(found), len(unique), largest, size)


def _side(size: tuple[int, int], resize: int | None) -> float:
    """A side on average, as the model sees it."""
    side = math.sqrt(size[0] * size[1])
    return side if resize is None else side * min(1, resize / min(size))


class Scaled(Protocol):
    """What translates images best that are as large as those of its training."""

    @property
    def training_size(self) -> tuple[int, int] | None:
        """Width and height, as far as they are known."""

    @property
    def resizing(self) -> Resizing | None:
        """Of larger ones."""


def scale_warning(translator: Scaled, files: Sequence[Path]) -> str:
    """One line about the files that are beyond the scale of a model; empty if none is."""
    trained = translator.training_size
    if trained is None:
        return ""
    resize = None if translator.resizing is None else translator.resizing.side
    larger = larger_files(files, trained, resize=resize)
    if larger is None:
        return ""
    width, height = larger.size
    beyond = (
        f"more than {BEYOND:g} times as large a side as in training ({trained[0]} x {trained[1]} "
        "pixels)"
    )
    told = f"`{larger.largest}` has {width} x {height} pixels, {beyond}"
    if larger.of > 1:
        largest = f"the largest, `{larger.largest}`, has {width} x {height}"
        told = f"{larger.number} of {larger.of} images are {beyond}; {largest}"
    return (
        f"{told}. The model does not know things of that size. Use --resize {min(trained)}: it "
        "translates at that size and enlarges the result."
    )
