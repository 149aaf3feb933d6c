"""How large training images are when views are cut from them: the scale that a model learns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from patchkin.data.config import DataConfig
from patchkin.data.transforms import loaded_size
from patchkin.images.sizes import image_size

_SAMPLE = 64


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
    sizes = []
    for size in map(image_size, sample):
        if size is not None:
            width, height = size
            loaded = loaded_size(
                (width // 2 if side_by_side else width, height),
                preprocess=config.preprocess,
                load_size=config.resolved_load_size,
                crop_size=config.size,
            )
            sizes.append(loaded)
    if not sizes:
        return None
    widths, heights = zip(*sizes, strict=True)
    return statistics.median_low(widths), statistics.median_low(heights)
