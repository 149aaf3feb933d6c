"""How large training images are when views are cut from them.

It is the scale that a model learns, and decides which views there can be. Only the heads of files
are read.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from patchkin.data.config import SIDE_MULTIPLE, DataConfig
from patchkin.data.transforms import SMALLER_ADVICE, loaded_size
from patchkin.data.verify import default_threads
from patchkin.errors import DataError
from patchkin.images.sizes import image_size
from patchkin.sides import Sides, height_width, in_pixels, simplest

_SAMPLE = 64
_SAME = 1.25
"""Times as large or as small, and the scale is called the same; CUT's 286 / 256 is."""
_LARGEST = 4
"""Times the views, that images are shown whole."""


def typical_size(
    files: Sequence[Path], config: DataConfig, *, side_by_side: bool = False
) -> tuple[int, int] | None:
    """Width and height of the middle image after the first step of its views.

    Args:
        files: of a domain; a sample spread over them is looked at.
        config: how views are made.
        side_by_side: whether a file is two images.

    Returns:
        The medians of both; None where no file tells its size.
    """
    sample = files[:: max(1, len(files) // _SAMPLE)]
    sizes = [size for _, size in _loaded(sample, config, side_by_side=side_by_side)]
    if not sizes:
        return None
    widths, heights = zip(*sizes, strict=True)
    return statistics.median_low(widths), statistics.median_low(heights)


def whole_size(
    files: Sequence[Path],
    config: DataConfig,
    *,
    jitters: bool,
    multiple: int = SIDE_MULTIPLE,
    side_by_side: bool = False,
) -> Sides:
    """At which size held-out images are shown and scored while training.

    That is `config.size`, the published test view, where training views show (nearly) whole images.
    Where they are crops of much larger images, or are not resized at all, it is the typical size of
    those images, at most four times that of the views: a network that learns 128 pixels of 512 is
    not scored on images that were shrunk to 128.

    Args:
        files: of a domain; a sample spread over them is looked at.
        config: how views are made.
        jitters: whether views are still cut from images at `load_size` when training ends. If not
            (CUT's decay phase), they are then of images at `size`.
        multiple: the sides are rounded to multiples of it, of 4 in any case.
        side_by_side: whether a file is two images.
    """
    if config.crops_single_images:
        return config.size
    at_the_end = config if jitters else replace(config, load_size=config.size)
    typical = typical_size(files, at_the_end, side_by_side=side_by_side)
    if typical is None:
        return config.size
    ratios = [side / view for side, view in zip(typical[::-1], config.height_width, strict=True)]
    if all(1 / _SAME <= ratio <= _SAME for ratio in ratios):
        return config.size
    shrunk = max(1.0, max(ratios) / _LARGEST)
    grid = math.lcm(SIDE_MULTIPLE, multiple)
    return simplest(*(_to_multiple(side / shrunk, grid) for side in typical[::-1]))


def is_scaled_in_decay(config: DataConfig) -> bool:
    """Whether views change their scale by much when `load_size` becomes `size`.

    >>> is_scaled_in_decay(DataConfig()), is_scaled_in_decay(DataConfig(size=128, load_size=286))
    (False, True)
    """
    loaded = height_width(config.resolved_load_size)
    scaled = config.preprocess.startswith(("resize", "scale_width", "shortside"))
    return scaled and any(
        load > _SAME * side for load, side in zip(loaded, config.height_width, strict=True)
    )


def view_sizes(
    files: Sequence[Path], config: DataConfig, *, side_by_side: bool = False
) -> dict[tuple[int, int], Path]:
    """Heights and widths of the views, each with the first file that gives it.

    Args:
        files: of a domain; where views are cut or resized to one size, no file is looked at.
        config: how views are made.
        side_by_side: whether a file is two images.

    >>> view_sizes([Path("a.png")], DataConfig(size=64))
    {(64, 64): PosixPath('a.png')}
    """
    steps = set(config.preprocess.split("_and_"))
    if {"crop", "patch"} & steps:
        return {config.height_width: files[0]}
    load_sizes = {config.resolved_load_size}
    if not config.jitter_in_decay:
        load_sizes.add(config.size)
    sizes: dict[tuple[int, int], Path] = {}
    for path, size in _sizes(files, side_by_side=side_by_side):
        for load_size in load_sizes:
            width, height = _loaded_size(size, config, load_size)
            sizes.setdefault((_to_multiple(height), _to_multiple(width)), path)
    return sizes


def _to_multiple(side: float, multiple: int = SIDE_MULTIPLE) -> int:
    return max(multiple, round(side / multiple) * multiple)


def check_views(files: Sequence[Path], config: DataConfig, *, side_by_side: bool = False) -> None:
    """Find out before the first step whether every image gives a view, and a batch views of a size.

    Args:
        files: of a domain; those whose head does not tell the size are passed over.
        config: how views are made.
        side_by_side: whether a file is two images.

    Raises:
        DataError: images are smaller than the crop, or the views of a batch would differ in size;
            says how many, the first, and what to do.
    """
    steps = config.preprocess.split("_and_")
    crops = bool({"crop", "patch"} & set(steps))
    if (crops and "zoom" in steps) or "resize" in steps or (not crops and config.batch_size == 1):
        return
    if crops:
        _refuse_smaller(_loaded(files, config, side_by_side=side_by_side), config)
    else:
        _refuse_different(view_sizes(files, config, side_by_side=side_by_side), config)


def _refuse_smaller(loaded: Sequence[tuple[Path, tuple[int, int]]], config: DataConfig) -> None:
    crop_height, crop_width = config.height_width
    small = [(path, size) for path, size in loaded if size[0] < crop_width or size[1] < crop_height]
    if small:
        path, (width, height) = small[0]
        raise DataError(
            f"{len(small)} of {len(loaded)} images are smaller than the crop of "
            f"{in_pixels(config.size)} pixels: `{path}` has {width} x {height}"
            f"{', ...' if len(small) > 1 else ''}; {SMALLER_ADVICE}."
        )


def _refuse_different(sizes: Mapping[tuple[int, int], Path], config: DataConfig) -> None:
    if len(sizes) > 1:
        first, second, *_ = sizes.values()
        raise DataError(
            f"--batch-size {config.batch_size} needs views of one size, and --data.preprocess "
            f"{config.preprocess} gives {len(sizes)} sizes (`{first}` and `{second}` differ); "
            "use --batch-size 1, or a preprocess that crops."
        )


def _loaded(
    files: Sequence[Path], config: DataConfig, *, side_by_side: bool
) -> list[tuple[Path, tuple[int, int]]]:
    """Files and the width and height after the first step of their views."""
    return [
        (path, _loaded_size(size, config, config.resolved_load_size))
        for path, size in _sizes(files, side_by_side=side_by_side)
    ]


def _loaded_size(size: tuple[int, int], config: DataConfig, load_size: Sides) -> tuple[int, int]:
    return loaded_size(
        size, preprocess=config.preprocess, load_size=load_size, crop_size=config.size
    )


def _sizes(files: Sequence[Path], *, side_by_side: bool) -> list[tuple[Path, tuple[int, int]]]:
    """Files and their width and height; those that do not tell are left out."""
    with ThreadPoolExecutor(default_threads()) as pool:
        sizes = list(pool.map(image_size, files))
    return [
        (path, (size[0] // 2 if side_by_side else size[0], size[1]))
        for path, size in zip(files, sizes, strict=True)
        if size is not None
    ]
