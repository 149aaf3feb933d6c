"""Where the batches of a run come from: one file per kind of data."""

from __future__ import annotations

from typing import Any

from patchkin.data.datasets import UnpairedBatch
from patchkin.data.domains import DomainBatch
from patchkin.data.paired import PairedBatch
from patchkin.errors import ConfigError
from patchkin.method import Method
from patchkin.runs.sources.domains import DomainSource
from patchkin.runs.sources.paired import PairedSource
from patchkin.runs.sources.source import ALONE, Process, Source
from patchkin.runs.sources.unpaired import UnpairedSource

__all__ = [
    "ALONE",
    "SOURCES",
    "DomainSource",
    "PairedSource",
    "Process",
    "Source",
    "UnpairedSource",
    "source_of",
]

SOURCES: dict[type, type[Source[Any]]] = {
    UnpairedBatch: UnpairedSource,
    PairedBatch: PairedSource,
    DomainBatch: DomainSource,
}
"""What a method's `batch_type` asks for."""


def source_of(method: Method) -> type[Source[Any]]:
    """The kind of data that a method learns from.

    Raises:
        ConfigError: it asks for batches that are not known here.
    """
    source = SOURCES.get(method.batch_type)
    if source is None:
        known = ", ".join(batch_type.__name__ for batch_type in SOURCES)
        raise ConfigError(
            f"`{method.name}` asks for batches of type {method.batch_type.__name__}; "
            f"known: {known}."
        )
    return source
