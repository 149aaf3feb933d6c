"""Large images in parts: the options of `translate`, and the translator that they ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from patchkin.errors import ConfigError
from patchkin.translation.files import ArrayTranslator
from patchkin.translation.onnx_file import OnnxTranslator
from patchkin.translation.tiles import TiledTranslator, TileNorm, Tiles

if TYPE_CHECKING:
    from patchkin.translation.translator import Translator


class TilingOptions(Protocol):
    """The options of `translate` that are about parts."""

    @property
    def tile(self) -> str:
        """Side of parts, `auto` or `none`."""

    @property
    def overlap(self) -> int:
        """Pixels that parts share."""

    @property
    def tile_norm(self) -> TileNorm | None:
        """Whose statistics norms take."""

    @property
    def resize(self) -> int | None:
        """Side that images are translated at."""

    @property
    def interpolate(self) -> bool:
        """Whether the way between styles is written."""


def chosen_tiles(options: TilingOptions) -> Tiles | Literal["auto", "none"]:
    """What is to be divided.

    Raises:
        ConfigError: `--tile` is no size, or another option keeps images whole.
    """
    text = options.tile.strip().lower()
    if text in ("none", "0"):
        return "none"
    if text == "auto":
        return "none" if options.resize is not None else "auto"
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(
            f"`--tile` is a number of pixels, `auto` or `none`; got `{options.tile}`."
        )
    if options.resize is not None or options.interpolate:
        raise ConfigError("--resize and --interpolate keep images whole; leave out --tile.")
    return Tiles(side=int(text), overlap=options.overlap)


def in_record(options: TilingOptions) -> dict[str, str | int]:
    """What of it changes the translations that a command makes."""
    tiles = chosen_tiles(options)
    if not isinstance(tiles, Tiles):
        return {}
    norm = options.tile_norm or "image"
    return {"tile": tiles.side, "overlap": tiles.overlap, "tile_norm": norm}


def dividing(
    translator: Translator | OnnxTranslator, options: TilingOptions, tell: Callable[[str], object]
) -> ArrayTranslator:
    """The model, or one that takes large images in parts.

    Args:
        translator: the model.
        options: of the command.
        tell: told in words what is not as in the whole image.

    Raises:
        ConfigError: the options do not fit the model.
    """
    tiles = chosen_tiles(options)
    if isinstance(translator, OnnxTranslator):
        return _dividing_onnx(translator, tiles, options, tell)
    if options.resize is not None:
        return translator
    from patchkin.translation.dividing import DividingTranslator

    norm = options.tile_norm or "image"
    if isinstance(tiles, Tiles):
        for fault in translator.method.tiling_faults(norms=norm == "tile"):
            tell(f"in parts (--tile), {fault}")
    overlap = options.overlap
    return DividingTranslator(translator, tiles, norm=norm, overlap=overlap, tell=tell)


def _dividing_onnx(
    translator: OnnxTranslator,
    tiles: Tiles | Literal["auto", "none"],
    options: TilingOptions,
    tell: Callable[[str], object],
) -> ArrayTranslator:
    if options.tile_norm == "image":
        raise ConfigError(
            "--tile-norm image needs the model itself, and this is an exported one: leave it out, "
            "or translate with the run or the .safetensors file."
        )
    if not isinstance(tiles, Tiles):
        return translator
    least = translator.header.minimum
    if tiles.side < least:
        raise ConfigError(
            f"`--tile` must be at least {least} pixels for this model; got {tiles.side}."
        )
    if translator.tiling == "discouraged":
        tell(
            "in parts (--tile), norms of an exported model take statistics over each part: "
            "colours may differ from part to part"
        )
    return TiledTranslator(translator, tiles, grid=translator.header.multiple)
