"""Pairs side by side to two folders of images, for methods that take no pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from patchkin.data.layouts import SPLITS, PairedImages, detect_layout, images_in
from patchkin.data.paired import SIDES, half_of
from patchkin.errors import DataError
from patchkin.images import default_suffix, read_image
from patchkin.images.pages import file_of
from patchkin.images.write import write_pixels


def pairs_to_split(root: Path) -> dict[str, tuple[Path, ...]]:
    """The files of each split that a set of pairs has.

    Raises:
        DataError: there are no pairs, or a split is empty.
    """
    layout = detect_layout(root)
    if not isinstance(layout, PairedImages):
        raise DataError(
            f"`{root}` holds no pairs: files in train/ that show A (left half) and B (right half) "
            "side by side."
        )
    return {split: images_in(root / split).files for split in SPLITS if (root / split).is_dir()}


def write_halves(splits: dict[str, tuple[Path, ...]], root: Path, target: Path) -> Iterator[Path]:
    """Write left halves to trainA, valA and testA, right halves to trainB and so on, one by one.

    Files have the names of the pairs, and their pixels to the bit: PNG, or NPY where that cannot
    hold them. The middle column of an odd width is left out.

    Args:
        splits: of `pairs_to_split`.
        root: that they are of.
        target: folder to fill.

    Yields:
        The file of each pair that is done.

    Raises:
        DataError: a file cannot be used, or two would become one.
        StorageError: a half cannot be written.
    """
    for split, files in splits.items():
        for path, name in zip(files, _names(files, root / split), strict=True):
            picture = read_image(path)
            suffix = default_suffix(picture.encoding)
            name_of_half = f"{name}{suffix if suffix == '.png' else '.npy'}"
            for domain, side in zip("AB", SIDES, strict=True):
                half = target / f"{split}{domain}" / name_of_half
                half.parent.mkdir(parents=True, exist_ok=True)
                write_pixels(half, half_of(picture, side, path).pixels)
            yield path


def _names(files: Iterable[Path], folder: Path) -> list[str]:
    """Without suffix, by their places in the folder."""
    taken: dict[str, Path] = {}
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in taken:
            raise DataError(
                f"`{file_of(taken[name])}` and `{file_of(path)}` would both become `{name}`; "
                "rename one of them."
            )
        taken[name] = path
    return list(taken)
