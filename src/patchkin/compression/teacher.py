"""The generator that a student learns from, and the maps of it that are looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from patchkin.errors import ConfigError
from patchkin.networks import ResNetConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """The generator to learn from. Its weights are kept in the run's own checkpoints."""

    generator: ResNetConfig = field(
        default_factory=lambda: ResNetConfig(antialias_down=False, antialias_up=False)
    )
    """As its file says; a CycleGAN or pix2pix generator, or CUT's with antialiasing."""
    path: str = ""
    """The model that it was taken from, for the record."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA: the generator of the way back."""
    sha256: str = ""
    """Of that file, for the record."""

    def __post_init__(self) -> None:
        teacher_taps(self.generator)


def teacher_taps(generator: ResNetConfig) -> tuple[int, ...]:
    """Layers of a teacher whose maps are those of the student's mapping taps.

    The first map at a quarter of the size, then the sums after each third of the blocks. Published
    for nine blocks without antialiasing only; the others are ours.

    Raises:
        ConfigError: the blocks cannot be parted in three.

    >>> teacher_taps(ResNetConfig(antialias_down=False)), teacher_taps(ResNetConfig())
    ((9, 12, 15, 18), (11, 14, 17, 20))
    """
    third, rest = divmod(generator.blocks, 3)
    if rest:
        raise ConfigError(
            "A teacher is followed after each third of its residual blocks, so their number must "
            f"be a multiple of 3; got {generator.blocks}."
        )
    first = 11 if generator.antialias_down else 9
    return tuple(first + part * third for part in range(4))
