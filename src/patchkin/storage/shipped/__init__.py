"""Models that come with patchkin: a folder each, with `model.safetensors` and `MODEL_CARD.md`.

`patchkin translate horse2zebra photo.jpg -o out` finds them by name where a path is expected. They
are stored in float16 and computed in float32, and need no network.
"""

from __future__ import annotations

from pathlib import Path

from patchkin.errors import CheckpointError, nearest

FOLDER = Path(__file__).parent
MODEL_FILE = "model.safetensors"
CARD_FILE = "MODEL_CARD.md"
PREVIEW = "-preview"
"""End of the name of a model that is not yet as good as published ones. Its name without this finds
it too, unless another model has that name."""


def shipped_names() -> list[str]:
    """Names of the models that are there, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{MODEL_FILE}"))


def named_so(name: str) -> str | None:
    """The full name of the model that a name stands for; None if there is none."""
    names = shipped_names()
    return next((full for full in (name, name + PREVIEW) if full in names), None)


def find_shipped(name: str) -> Path:
    """The file of a shipped model.

    Raises:
        CheckpointError: there is none of this name; the nearest, or all, are offered.
    """
    full_name = named_so(name)
    if full_name is None:
        known = shipped_names()
        offer = f" {nearest(name, known)}" if known else ""
        raise CheckpointError(
            f"There is no model at `{name}`: no such file or folder, and no model of this name is "
            f"shipped.{offer}"
        )
    return FOLDER / full_name / MODEL_FILE


def shipped_sentence() -> str:
    """What the command line says of the models that are there; empty without any."""
    names = shipped_names()
    return f"Shipped models: {', '.join(names)}." if names else ""
