"""Where patchkin keeps what it can make or fetch again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from patchkin.errors import StorageError
from patchkin.storage.atomic import new_folder
from patchkin.storage.locks import alone_at

ADVICE = "Set PATCHKIN_CACHE to another folder."
"""For a cache that cannot be written."""


def cache_folder() -> Path:
    """`$PATCHKIN_CACHE`, or `patchkin` in `$XDG_CACHE_HOME`, or `~/.cache/patchkin`."""
    if own := os.environ.get("PATCHKIN_CACHE"):
        return Path(own)
    users = os.environ.get("XDG_CACHE_HOME", "")
    if Path(users).is_absolute():  # others are to be ignored, says the XDG specification
        return Path(users) / "patchkin"
    return Path.home() / ".cache" / "patchkin"


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache: the one that is there, or else a new one, which others wait for.

    Args:
        name: of the folder.
        make: given an empty folder, to fill. It becomes the one of that name with all that is in
            it, or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    root = cache_folder() / name
    if root.is_dir():
        return root
    with alone_at(root, f"makes `{root}`"):
        if root.is_dir():
            return root
        try:
            with new_folder(root, advice=ADVICE) as unfinished:
                make(unfinished)
        except StorageError:
            if not root.is_dir():  # else, where there are no locks, another process was faster
                raise
    return root
