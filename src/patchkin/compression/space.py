"""Which widths a supernet is trained with and searched over.

A space lists the widths that each of the eight entries of a configuration may have. It is written
as a configuration whose entries are lists: `32,16_32,16_32_32,24_32_32_16_16`, of six or eight
entries; one configuration alone is a space too. The published spaces have names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from patchkin.errors import ConfigError, nearest
from patchkin.networks.separable import NUM_ENTRIES, Channels, check_configuration, expand

_WIDE = "64,48,32,24,16"
_FINE = "64,56,48,40,32,24,16"
NAMED_SPACES = {
    "channels-32": "_".join(["32,24,16"] * NUM_ENTRIES),
    "channels-48": "48,32_48,32_48,40,32_48,40,32_48,32,24,16_48,32,24,16",
    "channels-64-cyclegan": "_".join([_WIDE] * NUM_ENTRIES),
    "channels-64-pix2pix": "_".join([_FINE] * NUM_ENTRIES),
    "toy": "_".join(["16,12,8,4"] * NUM_ENTRIES),
}
"""The spaces of GAN Compression, and a small one for the toy set."""


@dataclass(frozen=True)
class SearchSpace:
    """The widths that each entry may have.

    >>> space = SearchSpace.parse("channels-64-cyclegan")
    >>> space.size, space.largest == (64,) * 8, space.smallest == (16,) * 8
    (390625, True, True)
    >>> (16, 16, 32, 16, 16, 64, 16, 24) in space
    True
    """

    widths: tuple[tuple[int, ...], ...]
    """Eight lists, each without repetition, in the order they were written in."""

    @classmethod
    def parse(cls, text: str) -> SearchSpace:
        """The space of this name, or written out.

        Raises:
            ConfigError: it is neither.
        """
        written = NAMED_SPACES.get(text, text)
        entries = [entry.split(",") for entry in written.split("_")]
        if not all(part.isascii() and part.isdigit() for entry in entries for part in entry):
            raise ConfigError(
                f"Unknown search space `{text}`. {nearest(text, NAMED_SPACES)} Or write one out: "
                "widths joined by `,`, entries joined by `_`."
            )
        lists = [tuple(dict.fromkeys(int(part) for part in entry)) for entry in entries]
        places = expand(range(len(lists)))
        widths = tuple(lists[place] for place in places)
        for pick in (min, max):
            check_configuration(tuple(pick(entry) for entry in widths))
        return cls(widths)

    @property
    def largest(self) -> Channels:
        """The widest configuration."""
        return tuple(map(max, self.widths))

    @property
    def smallest(self) -> Channels:
        """The narrowest configuration."""
        return tuple(map(min, self.widths))

    @property
    def size(self) -> int:
        """How many configurations there are."""
        return math.prod(map(len, self.widths))

    def __contains__(self, channels: object) -> bool:
        """Whether a configuration of eight entries is one of the space."""
        return (
            isinstance(channels, tuple)
            and len(channels) == len(self.widths)
            and all(entry in widths for entry, widths in zip(channels, self.widths, strict=True))
        )

    def __iter__(self) -> Iterator[Channels]:
        """Every configuration."""
        return product(*self.widths)

    def drawn(self, integer: Callable[[int], int]) -> Channels:
        """A configuration whose entries are drawn one after the other, each width as likely.

        Args:
            integer: draws one of 0 ... below - 1, as `Draws.integer`.
        """
        return tuple(widths[integer(len(widths))] for widths in self.widths)
