"""What is kept of an input in its translation, and in which format that is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from patchkin.errors import ConfigError
from patchkin.images import IMAGE_SUFFIXES
from patchkin.images.container import Container
from patchkin.images.heic import HEIC_SUFFIXES


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """By default an output is the same kind of file as its input, with all that is in it."""

    pages: Literal["each", "first"] = "each"
    """Of files that have several."""
    alpha: Literal["keep", "drop"] = "keep"
    """Of inputs that have it."""
    format: str | None = None
    """Suffix of the outputs, such as png; None: as the inputs."""
    quality: int | None = None
    """From 1 to 100, of JPEG, WebP, AVIF and HEIC; None: 95."""

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ConfigError(f"`--quality` must be from 1 to 100; got {self.quality}.")
        known = IMAGE_SUFFIXES | set(HEIC_SUFFIXES)
        if self.format is not None and self.suffix not in known:
            names = " ".join(sorted(suffix.removeprefix(".") for suffix in known))
            raise ConfigError(f"`--format {self.format}` is not written; choose of {names}.")

    @property
    def suffix(self) -> str:
        """Of the outputs.

        >>> Saving(format="PNG").suffix
        '.png'
        """
        return f".{str(self.format).lower().removeprefix('.')}"

    def renamed(self, target: Path) -> Path:
        """The name of an output in its format."""
        return target if self.format is None else target.with_suffix(self.suffix)

    def of(self, container: Container) -> Container:
        """The container of an input, as far as it is kept."""
        if self.pages == "each" or container.num_pages == 1:
            return container
        tiff = None if container.tiff is None else container.tiff.first_page()
        return replace(container, num_pages=1, durations=(), tiff=tiff)

    def options(self) -> dict[str, Any]:
        """For the record of what made a file: what is not usual; None is left out."""
        return {
            "pages": None if self.pages == "each" else self.pages,
            "alpha": None if self.alpha == "keep" else self.alpha,
            "format": None if self.format is None else self.suffix,
            "quality": self.quality,
        }
