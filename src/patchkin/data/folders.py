"""Where patchkin keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$PATCHKIN_CACHE`, or `patchkin` in `$XDG_CACHE_HOME`, or `~/.cache/patchkin`."""
    if own := os.environ.get("PATCHKIN_CACHE"):
        return Path(own)
    users = os.environ.get("XDG_CACHE_HOME", "")
    if Path(users).is_absolute():  # others are to be ignored, says the XDG specification
        return Path(users) / "patchkin"
    return Path.home() / ".cache" / "patchkin"
