"""What an exported model says of itself. Imports no torch.

An ONNX file has the entries of `ExportHeader` among its metadata, each under its name behind
`patchkin.`: text as it is, everything else as JSON, so that any program can read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from patchkin.config import from_plain, to_plain
from patchkin.errors import CheckpointError, ConfigError
from patchkin.images import Ranges, declared_ranges
from patchkin.storage.strict_json import parsed

PREFIX = "patchkin."
VERSION = 1
IMAGE, STYLE, TRANSLATION = "image", "style", "translation"
"""Names of the inputs and of the output of a graph."""

Range: TypeAlias = Literal["-1..1", "0..1"]
"""Of the numbers that a graph takes and gives."""
Numbers: TypeAlias = Literal["float32", "float16", "int8"]
"""That a graph computes in, for the most part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedStyle:
    """A style that a model can be asked for by name."""

    domain: int
    """The target domain that it belongs to."""
    name: str
    """Empty for the style that the domain has unless one is chosen."""
    origin: str
    """What decides it, as `translate` records it."""
    numbers: tuple[float, ...]
    """The second input of the graph, for one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportHeader:
    """What a program must know to use an exported model."""

    method: str
    """A name in `patchkin methods`."""
    channels: tuple[int, int]
    """Of the images that it takes and gives."""
    multiple: int
    """Sides are padded to multiples of this by reflection, and cut off again, inside the graph."""
    minimum: int
    """Shortest side that the graph takes."""
    range: Range = "-1..1"
    """What the graph takes and gives: levels 0 to 255 are -1 to 1, or 0 to 1."""
    value_ranges: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None)
    """Values of files with more than 8 bits that are the ends of that range, for inputs and
    outputs; None for all that the file's type holds."""
    tiling: Literal["supported", "discouraged", "internal"] = "discouraged"
    """Whether the parts of an image may be translated apart; see `Method.tiling`."""
    source_sha256: str
    """Of the model file that it was made from."""
    weights: str = "live"
    """Averaged or live."""
    step: int | None = None
    """Optimisation steps behind the weights."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """Of the translation."""
    numbers: Numbers = "float32"
    """That convolutions compute in."""
    difference: tuple[float, float] = (0.0, 0.0)
    """From the network in float32, mean and largest, of images in [-1, 1], when it was written."""
    training_size: tuple[int, int] = (256, 256)
    """Width and height that a whole image had in training."""
    num_domains: int = 1
    """Target domains to choose from."""
    domains: tuple[str, ...] = ()
    """Their names, as far as the model knows them."""
    styles: tuple[ExportedStyle, ...] = ()
    """Empty where a translation has no style, and the graph no second input."""
    version: int = VERSION
    """Of these entries."""

    def __post_init__(self) -> None:
        for name in ("multiple", "minimum", "num_domains"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if min(self.channels) < 1:
            raise ConfigError(f"`channels` must be at least 1; got {self.channels}.")
        if len({len(style.numbers) for style in self.styles}) > 1:
            raise ConfigError("`styles` must all have as many numbers.")

    @property
    def ranges(self) -> Ranges:
        """Of the values in files, checked."""
        return declared_ranges({"value_ranges": self.value_ranges})

    def to_metadata(self) -> dict[str, str]:
        """As metadata, text to text."""
        plain = to_plain(self)
        return {
            PREFIX + name: value if isinstance(value, str) else json.dumps(value)
            for name, value in plain.items()
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path | str) -> ExportHeader:
        """The inverse of `to_metadata`.

        Args:
            metadata: with entries of others, which are passed over.
            path: of the file, for messages.

        Raises:
            CheckpointError: it is no model of patchkin's, or of a newer one.

        >>> header = ExportHeader(
        ...     method="cut", channels=(3, 1), multiple=4, minimum=5, source_sha256="12"
        ... )
        >>> ExportHeader.from_metadata({"other": "1", **header.to_metadata()}, "a") == header
        True
        """
        entries = {
            name.removeprefix(PREFIX): text
            for name, text in metadata.items()
            if name.startswith(PREFIX)
        }
        if not {"method", "channels", "version"} <= entries.keys():
            raise CheckpointError(
                f"`{path}` is no model of patchkin's: it does not say its method and channels. "
                "`patchkin export` writes those that do."
            )
        try:
            if parsed(entries["version"]) > VERSION:
                raise CheckpointError(f"`{path}` was written by a newer patchkin; update patchkin.")
            header = from_plain(cls, _parsed(entries), where="its metadata")
            _ = header.ranges
        except (ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(f"`{path}` cannot be read as a model: {error}") from error
        return header


_AS_TEXT = frozenset(
    ("method", "range", "tiling", "source_sha256", "weights", "direction", "numbers")
)


def _parsed(entries: Mapping[str, str]) -> dict[str, Any]:
    return {name: text if name in _AS_TEXT else parsed(text) for name, text in entries.items()}
