"""Broken files: found before training, named, counted and left out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from patchkin.errors import DataError
from patchkin.images import Picture, ValueRange, read_image, to_values

MAX_BROKEN_FRACTION = 0.01
"""Training refuses to start above this share: then something is wrong with the folder."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A file that cannot be used."""

    path: Path
    reason: str


def verify_images(
    paths: Sequence[Path],
    *,
    channels: int | None = None,
    value_range: ValueRange | None = None,
    threads: int | None = None,
    read: Callable[[Path, int | None], Picture] = read_image,
) -> list[Broken]:
    """Decode every file completely, the way training will; returns those that fail, in order."""

    def attempt(path: Path) -> Broken | None:
        try:
            picture = read(path, channels)
            if not isinstance(picture.pixels, Image.Image):  # 8 bits always fit
                to_values(picture, value_range)
        except DataError as error:
            return Broken(path, str(error))
        return None

    with ThreadPoolExecutor(threads or default_threads()) as pool:  # decoding releases the GIL
        return [broken for broken in pool.map(attempt, paths) if broken is not None]


def default_threads() -> int:
    """Threads for decoding on this machine."""
    return min(8, os.cpu_count() or 1)


def without_broken(
    paths: Sequence[Path],
    broken: Collection[Broken],
    max_fraction: float = MAX_BROKEN_FRACTION,
) -> tuple[Path, ...]:
    """The files that can be used.

    Raises:
        DataError: if more than `max_fraction` of `paths` are broken; gives the number and the first
            three.
    """
    bad = {entry.path: entry for entry in broken}
    hit = [bad[path] for path in paths if path in bad]
    if len(hit) > max_fraction * len(paths):
        first = "; ".join(entry.reason.rstrip(".") for entry in hit[:3])
        raise DataError(
            f"{len(hit)} of {len(paths)} images cannot be used, more than "
            f"{100 * max_fraction:.3g}%: {first}{'; ...' if len(hit) > 3 else ''}. "
            "Repair or remove them (`patchkin data check` lists all), or leave out more with "
            f"--max-broken {math.ceil(100 * len(hit) / len(paths)) / 100:g}."
        )
    return tuple(path for path in paths if path not in bad)
