"""Models that patchkin knows by name: a folder each, with `model.json`, what is known of it.

`patchkin translate horse2zebra photo.jpg -o out` finds them where a path is expected. Those with a
`model.safetensors` and a `MODEL_CARD.md` come with the package and need no network. The file of the
others is on the Hub: it is fetched once, and has the SHA-256 of the record or is refused. They are
stored in float16 and computed in float32.
"""

from __future__ import annotations

from pathlib import Path

from patchkin.errors import CheckpointError, nearest
from patchkin.storage.hashes import file_sha256
from patchkin.storage.hub import cached_model, fetch_verified
from patchkin.storage.shipped.records import RECORD_FILE, Record, read_record

FOLDER = Path(__file__).parent
MODEL_FILE = "model.safetensors"
CARD_FILE = "MODEL_CARD.md"
PREVIEW = "-preview"
"""End of the name of a model that is not yet as good as published ones. Its name without this finds
it too, unless another model has that name."""


def shipped_names() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{MODEL_FILE}"))


def remote_names() -> list[str]:
    """Names of the models that are fetched, sorted."""
    return sorted(
        {path.parent.name for path in FOLDER.glob(f"*/{RECORD_FILE}")} - {*shipped_names()}
    )


def known_names() -> list[str]:
    """Of both, sorted."""
    return sorted([*shipped_names(), *remote_names()])


def named_so(name: str) -> str | None:
    """The full name of the model that a name stands for; None if there is none."""
    names = known_names()
    return next((full for full in (name, name + PREVIEW) if full in names), None)


def find_shipped(name: str) -> Path:
    """The file of a model, fetched if the package does not bring it and it was not fetched before.

    Raises:
        CheckpointError: there is none of this name (the nearest, or all, are offered), or its
            record cannot be read or does not say where its file is.
        ConfigError: it is to be fetched, and the library for it is not installed.
        DownloadError: there is no network, or what came is not the file of the record.
    """
    full_name = named_so(name)
    if full_name is None:
        known = known_names()
        offer = f" {nearest(name, known)}" if known else ""
        raise CheckpointError(
            f"There is no model at `{name}`: no such file or folder, and no model of this name is "
            f"shipped.{offer}"
        )
    file = FOLDER / full_name / MODEL_FILE
    if file.is_file():
        return file
    return fetch_verified(*_place(read_record(FOLDER / full_name / RECORD_FILE)))


def find_record(name: str) -> Record:
    """What is known of a model; of one without a record its name alone.

    Raises:
        CheckpointError: there is none of this name, or its record cannot be read.
    """
    full_name = named_so(name)
    if full_name is None:
        known = known_names()
        raise CheckpointError(f"Unknown model `{name}`. {nearest(name, known)}")
    path = FOLDER / full_name / RECORD_FILE
    return read_record(path) if path.exists() else Record(name=full_name)


def file_of(record: Record) -> Path | None:
    """The file of a model if it is on this machine, whose content is that of the record.

    Raises:
        CheckpointError: the package's own is another one.
    """
    file = FOLDER / record.name / MODEL_FILE
    if not file.is_file():
        hub, sha256 = _place(record)
        cached = cached_model(hub)
        return cached if cached is not None and file_sha256(cached) == sha256 else None
    if record.sha256 not in (None, file_sha256(file)):
        raise CheckpointError(
            f"`{file}` is not the file of its record, whose SHA-256 is {record.sha256}; install "
            "patchkin again."
        )
    return file


def _place(record: Record) -> tuple[str, str]:
    """Where a model is fetched from, and its SHA-256."""
    if record.hub is None or record.sha256 is None:
        raise CheckpointError(
            f"The file of the model `{record.name}` is not in `{FOLDER / record.name}`, and its "
            "record does not say where to fetch it; install patchkin again."
        )
    return record.hub, record.sha256


def shipped_sentence() -> str:
    """What the command line says of the models that are there; empty without any."""
    here, elsewhere = ", ".join(shipped_names()), ", ".join(remote_names())
    sentences = [f"Shipped models: {here}."] * bool(here)
    return " ".join([*sentences, *[f"Fetched by name: {elsewhere}."] * bool(elsewhere)])
