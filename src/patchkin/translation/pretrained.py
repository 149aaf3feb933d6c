"""A folder as the Hub has it: the networks that translate, and a card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from patchkin.config import to_plain
from patchkin.method import Method
from patchkin.storage.atomic import new_file, write_bytes, write_text
from patchkin.storage.checkpoint import ModelHeader, write_tensors
from patchkin.storage.hub import CARD_FILE, MODEL_FILE

_CARD = """---
library_name: patchkin
pipeline_tag: image-to-image
tags:
- patchkin
- {method}
---

# {method}

An image-to-image translator trained with patchkin ({paper}), step {step}.
"""


def save_pretrained(
    method: Method,
    header: ModelHeader | None,
    folder: Path,
    *,
    card: str | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> None:
    """Write `model.safetensors`, `README.md` and pictures.

    Args:
        method: whose networks translate.
        header: of the file that it was loaded from.
        folder: made if it is not there; files of these names are replaced.
        card: README.md.
        pictures: name in the folder -> file.

    Raises:
        StorageError: it cannot be written.
    """
    header = header or ModelHeader(method=method.name, config=to_plain(method.config))
    tensors = {
        f"{name}.{key}": tensor
        for name in method.translating
        for key, tensor in method.get_submodule(name).state_dict().items()
    }
    with new_file(folder / MODEL_FILE) as part:
        write_tensors(part, tensors, header.to_metadata())
    usual = _CARD.format(method=method.name, paper=method.paper, step=header.step)
    write_text(folder / CARD_FILE, usual if card is None else card)
    for name, picture in (pictures or {}).items():
        write_bytes(folder / name, picture.read_bytes())
