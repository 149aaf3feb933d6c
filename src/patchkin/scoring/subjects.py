"""What is scored, in a result: a model, or a folder of translations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from patchkin.data.layouts import image_files
from patchkin.storage.hashes import file_sha256
from patchkin.translation.record import makers_of
from patchkin.translation.translator import Translator


def described(subject: Translator | Path, model: str = "") -> dict[str, Any]:
    """Of a result; `model` is where a translator came from."""
    if isinstance(subject, Path):
        return {"folder": str(subject), **makers_of(image_files(subject)).plain()}
    return described_model(subject, model)


def described_model(translator: Translator, model: str) -> dict[str, Any]:
    """The subject of a result."""
    header, file = translator.header, translator.file
    return {
        "model": model,
        "method": translator.method.name,
        "step": header.step if header is not None else None,
        "sha256": None if file is None else file_sha256(file),
        "weights": translator.weights,
        "precision": translator.precision,
    }


def mixture(subject: Translator | Path) -> tuple[str, ...]:
    """That a folder holds translations of several models."""
    warning = makers_of(image_files(subject)).warning if isinstance(subject, Path) else ""
    return (warning,) if warning else ()
