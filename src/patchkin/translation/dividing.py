"""Images whole or in parts, as the options and the memory say.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

from patchkin.devices import return_freed_memory
from patchkin.errors import ConfigError
from patchkin.images import Array, Ranges
from patchkin.translation.image_norms import in_step
from patchkin.translation.memory import TooLargeError, free_bytes, in_gigabytes, is_memory_trouble
from patchkin.translation.probing import Needs, needs_of
from patchkin.translation.tiles import TiledTranslator, TileNorm, Tiles
from patchkin.translation.translator import Translator

SIDE = 512
"""Of the parts of images that do not fit into memory."""
SHARE = 0.7
"""Of the free memory that the maps of an image may take."""
_MOST_BYTES_PER_PIXEL = 16_000
"""Of a network as wide as any here: where that fits, nothing has to be found out."""


class DividingTranslator:
    """A model that takes large images in parts."""

    def __init__(
        self,
        whole: Translator,
        tiles: Tiles | Literal["auto", "none"],
        *,
        norm: TileNorm = "image",
        overlap: int = 64,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        """In these parts, or as the memory says.

        Args:
            whole: the model.
            tiles: of images that are larger; `auto` divides those that do not fit into memory, and
                `none` refuses them, before the system ends the process.
            overlap: of the parts of images that do not fit into memory.
            norm: whether norms over an image take the statistics of the image or of each part.
            tell: told once, in words, that images are divided because of the memory.

        Raises:
            ConfigError: parts are smaller than the model takes, or the model takes one image at a
                time, as one for a method at hand does, and parts are to share its norms.
        """
        if norm == "image" and whole.tiling == "discouraged" and not whole.is_owned:
            raise ConfigError(
                "Parts that share the norms of an image need a translator that several threads "
                "may use: `Translator.load`, or `Translator(method, owned=True)`."
            )
        least = whole.method.min_size
        if isinstance(tiles, Tiles) and tiles.side < least:
            raise ConfigError(
                f"`--tile` must be at least {least} pixels for this model; got {tiles.side}."
            )
        self._whole = whole
        self._tiles = tiles
        self._norm = norm
        self._overlap = overlap
        self._tell = tell
        self._told = False

    @property
    def channels(self) -> tuple[int, int]:
        """Of the images it takes, and of those it gives."""
        return self._whole.channels

    @property
    def value_ranges(self) -> Ranges:
        """Of the images it takes, and of those it gives, in files of more than 8 bits."""
        return self._whole.value_ranges

    @cached_property
    def needs(self) -> Needs:
        """Of the network."""
        return needs_of(self._whole)

    def arrays(self, x_BCHW: Array, styles_BS: Array | None = None) -> Array:
        """Images of any size in [-1, 1], translated whole or in parts.

        Raises:
            TooLargeError: there is no room.
        """
        longest = max(x_BCHW.shape[-2:])
        if self._whole.tiling == "internal":
            return self._whole.arrays(x_BCHW, styles_BS)
        if isinstance(self._tiles, Tiles):
            if longest <= self._tiles.side:
                return self._whole.arrays(x_BCHW, styles_BS)
            return self._divided(self._tiles).arrays(x_BCHW, styles_BS)
        side = max(SIDE, 2 * self._overlap, 2 * self._whole.method.min_size)
        tiles = Tiles(side=side, overlap=self._overlap)
        may_divide = self._tiles == "auto" and longest > tiles.side
        if may_divide and not self._fits(x_BCHW):
            return self._divided(tiles).arrays(x_BCHW, styles_BS)
        if self._tiles == "none":
            self._refuse_hopeless(x_BCHW)
        try:
            return self._whole.arrays(x_BCHW, styles_BS)
        except (MemoryError, RuntimeError) as error:
            if not (may_divide and is_memory_trouble(error)):
                raise
        return self._divided(tiles).arrays(x_BCHW, styles_BS)

    def _divided(self, tiles: Tiles) -> TiledTranslator:
        if self._whole.device.type == "cpu":
            return_freed_memory()  # as little as possible is worth more here than some time
        shares_norms = self._norm == "image" and self._whole.tiling == "discouraged"
        return TiledTranslator(
            self._whole,
            tiles,
            grid=self._whole.method.multiple_of,
            halo=self.needs.halo or 0,
            together=in_step if shares_norms else None,
        )

    def _fits(self, x_BCHW: Array) -> bool:
        """Whether images can be translated at once; says so if not."""
        needed, free = self._needed(x_BCHW)
        if free is None or needed < SHARE * free:
            return True
        if not self._told:
            self._told = True
            height, width = x_BCHW.shape[-2:]
            self._tell(
                f"{width} x {height} pixels at once would take about {in_gigabytes(needed)} of "
                f"memory, and {in_gigabytes(free)} are free: such images are translated in parts "
                "(`--tile none` keeps them whole)"
            )
        return False

    def _refuse_hopeless(self, x_BCHW: Array) -> None:
        needed, free = self._needed(x_BCHW)
        if free is None or not needed:
            return
        least = needed / self.needs.workspace
        if least > free:
            raise TooLargeError(
                f"needs at least {in_gigabytes(least)} of memory at once, and {in_gigabytes(free)} "
                "are free; leave out `--tile none`"
            )

    def _needed(self, x_BCHW: Array) -> tuple[float, int | None]:
        """Bytes for the maps of these images, and what is free; nothing where that is plenty."""
        free, pixels = free_bytes(self._whole.device), x_BCHW[:, 0].size
        if free is None or pixels * _MOST_BYTES_PER_PIXEL < free:
            return 0, free
        return self.needs.bytes_per_pixel * pixels, free
