"""Inputs beside their translations, one pair at a time.

Translations come from a model, from what a model made earlier, or from a folder.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from patchkin.data.layouts import image_files
from patchkin.errors import DataError
from patchkin.images import Ranges, safe_levels, to_uint8
from patchkin.scoring.held_out import Inputs
from patchkin.scoring.kept import KeptTranslations, translations
from patchkin.scoring.matching import Names
from patchkin.scoring.reading import load_at
from patchkin.sides import Sides
from patchkin.translation.translator import Translator


@dataclass(frozen=True, eq=False)
class Pair:
    """An input and its translation, both in [-1, 1] as 8-bit files hold them."""

    name: str
    """Path of the input below its folder; of an output without input that of the output."""
    input_CHW: Tensor | None
    output_CHW: Tensor
    path: Path | None = None
    """Of the input."""

    @property
    def levels_CHW(self) -> Tensor:
        """The output for a protocol, which makes 8 bits of it again."""
        return safe_levels(to_uint8(self.output_CHW))


Translations: TypeAlias = Translator | KeptTranslations | Path
"""Where translations come from: a model, one that keeps what it has done, or a folder."""


def pairs_of(
    source: Translations,
    inputs: Inputs,
    *,
    size: Sides | None,
    value_ranges: Ranges = (None, None),
    batch_size: int = 1,
) -> Iterator[Pair]:
    """Inputs at a size and their translations; of a folder, the images that are there.

    Args:
        source: of the translations.
        inputs: the images; those of a folder belong to them by their paths below it.
        size: height and width that images are brought to; None: as they are.
        value_ranges: of inputs and of translations in a folder; a model knows its own.
        batch_size: images of one size translated at once.

    Raises:
        DataError: an image cannot be read, a translation holds NaN or infinity, or one in a folder
            has another size than its input.
    """
    if isinstance(source, Translator):
        for path, input_CHW, output_CHW in translations(
            source, inputs.files, size=size, read=inputs.read, batch_size=batch_size
        ):
            yield Pair(inputs.names[path], input_CHW, _as_saved(output_CHW), path)
        return
    if isinstance(source, KeptTranslations):
        source.fill(inputs.files, size)
        of_input, of_output = source.translator.channels
        value_range = source.translator.value_ranges[0]
        for path, target in zip(inputs.files, source.files(inputs.files, size), strict=True):
            input_CHW = inputs.read(path, of_input, size=size, value_range=value_range)
            output_CHW = load_at(target, of_output, size=None, value_range=None)
            yield Pair(inputs.names[path], input_CHW, _as_saved(output_CHW), path)
        return
    for path, input_path in inputs_of(source, inputs).items():
        output_CHW = load_at(path, 3, size=size, value_range=value_ranges[1])
        if input_path is None:
            yield Pair(path.relative_to(source).as_posix(), None, output_CHW)
            continue
        input_CHW = inputs.read(input_path, 3, size=size, value_range=value_ranges[0])
        if input_CHW.shape != output_CHW.shape:
            raise DataError(
                f"`{path}` and `{input_path}` differ in size; choose a protocol that resizes."
            )
        yield Pair(inputs.names[input_path], input_CHW, output_CHW, input_path)


def inputs_of(folder: Path, inputs: Inputs) -> dict[Path, Path | None]:
    """The translations in a folder, each with the input of its path below the folder, if any.

    Raises:
        DataError: two of them belong to one input; or as `image_files`.
    """
    by_name = {name: path for path, name in inputs.names.items()}
    known, taken = Names(by_name), dict[str, Path]()
    found: dict[Path, Path | None] = {}
    for path in image_files(folder):
        name = known.find(path.relative_to(folder).as_posix())
        found[path] = None if name is None else by_name[name]
        if name is not None and taken.setdefault(name, path) != path:
            raise DataError(f"`{taken[name]}` and `{path}` are both translations of `{name}`.")
    return found


def unmatched(source: Translations, inputs: Inputs) -> tuple[str, ...]:
    """What of a folder belongs to no input, and the other way round, in words."""
    if not isinstance(source, Path):
        return ()
    found = inputs_of(source, inputs)
    without = [path for path, input_path in found.items() if input_path is None]
    missing = set(inputs.files) - set(found.values())
    warnings = []
    if without:
        warnings.append(
            f"{len(without)} of {len(found)} images of `{source}` have no input with their path "
            f"below that folder (the first: `{without[0].relative_to(source).as_posix()}`); they "
            "count for distances only"
        )
    if missing:
        first = min(inputs.names[path] for path in missing if path is not None)
        warnings.append(
            f"{len(missing)} of {len(inputs.files)} inputs have no translation in `{source}` (the "
            f"first: `{first}`); they count for nothing"
        )
    return tuple(warnings)


def _as_saved(image_CHW: Tensor) -> Tensor:
    return to_uint8(image_CHW).float() / 127.5 - 1
