"""Whether a method can train on the views of a configuration, before an image is decoded."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.data.layouts import find_domains
from patchkin.data.paired import PairedBatch, find_pairs
from patchkin.data.scale import view_sizes
from patchkin.errors import ConfigError, DataError
from patchkin.method import Method
from patchkin.networks import ImagePool
from patchkin.networks.patch_bank import PatchBank
from patchkin.sides import in_pixels

_ONE_SIZE = "choose a --data.preprocess that crops, such as resize_and_crop"


def check_settings(method: Method, data: DataConfig, *, processes: int = 1) -> None:
    """Refuse what no image can mend.

    Args:
        method: untrained or not.
        data: of the run.
        processes: of the run.

    Raises:
        ConfigError: a size or a number of images that the networks do not take.
    """
    if method.training_side is not None and data.height_width != (method.training_side,) * 2:
        raise ConfigError(
            f"--size {in_pixels(data.size)}: the networks of `{method.name}` are made for views of "
            f"{method.training_side} x {method.training_side} pixels; use --size "
            f"{method.training_side}, or networks for another size."
        )
    for side in data.height_width:
        if side < method.min_training_size:
            raise ConfigError(
                f"--size {side} is smaller than the networks can take; "
                f"use at least {method.min_training_size}."
            )
        if side % method.multiple_of:
            raise ConfigError(
                f"--size {side}: the networks of `{method.name}` take multiples of "
                f"{method.multiple_of}."
            )
    compared = data.batch_size * (processes if method.compares_batch else 1)
    if compared < method.min_batch_size:
        raise ConfigError(
            f"--batch-size {data.batch_size}: `{method.name}` compares the images of a batch; "
            f"use at least {method.min_batch_size}."
        )


def check_sizes(method: Method, data: DataConfig) -> None:
    """Refuse views of sizes that the method does not take, where files decide the sizes.

    Only the heads of files are read.

    Raises:
        DataError: a view is too small, of another shape than the networks are made for, larger than
            the image pool, or of another size than those of the other domain where that matters.
    """
    sizes = _sizes(method, data)
    if sizes.keys() <= {data.height_width}:
        return
    many = f"--data.preprocess {data.preprocess} gives views of {len(sizes)} sizes"
    if method.needs_equal_sizes and len(sizes) > 1:
        raise DataError(
            f"{many}, and `{method.name}` compares places of images of both domains, which must "
            f"have one size; {_ONE_SIZE}."
        )
    for (height, width), path in sizes.items():
        of_view = f"`{path}` gives a view of {width} x {height} pixels"
        if method.training_side is not None and (height, width) != (method.training_side,) * 2:
            raise DataError(
                f"{of_view}, and the networks of `{method.name}` are made for "
                f"{method.training_side} x {method.training_side}; {_ONE_SIZE}."
            )
        if min(height, width) < method.min_training_size:
            raise DataError(
                f"{of_view}, smaller than the {method.min_training_size} that the networks of "
                f"`{method.name}` take; {_ONE_SIZE}."
            )
        if height % method.multiple_of or width % method.multiple_of:
            raise DataError(
                f"{of_view}, and the networks of `{method.name}` take multiples of "
                f"{method.multiple_of}; {_ONE_SIZE}."
            )
    _check_pools(method, max(math.prod(size) for size in sizes))


def check_sizes_of_processes(method: Method, data: DataConfig) -> None:
    """Refuse views of several sizes where processes show each other their images.

    Raises:
        DataError: there are several.
    """
    shared = method.compares_batch or any(
        isinstance(module, PatchBank) or (isinstance(module, ImagePool) and module.config.capacity)
        for module in method.modules()
    )
    of_a_step = replace(data, jitter_in_decay=True)  # the other load size comes to all at once
    sizes = max(map(len, _sizes_of_domains(method, of_a_step)), default=1) if shared else 1
    if sizes > 1:
        raise DataError(
            f"--data.preprocess {data.preprocess} gives views of {sizes} sizes, and several "
            f"processes of `{method.name}` show each other their images, which must have one size; "
            f"{_ONE_SIZE}, or use one process."
        )


def _check_pools(method: Method, pixels: int) -> None:
    pools = [module for module in method.modules() if isinstance(module, ImagePool)]
    sides = [pool.config.side for pool in pools if pool.config.capacity]
    if sides and pixels > min(sides) ** 2:
        raise DataError(
            f"Views of {pixels} pixels do not fit the image pool; set --method.pool.side "
            f"{math.isqrt(pixels - 1) + 1}, or --method.pool.capacity 0."
        )


def _sizes(method: Method, data: DataConfig) -> dict[tuple[int, int], Path]:
    """Heights and widths of all views, each with a file that gives it."""
    sizes: dict[tuple[int, int], Path] = {}
    for of_domain in _sizes_of_domains(method, data):
        sizes |= of_domain
    return sizes


def _sizes_of_domains(method: Method, data: DataConfig) -> list[dict[tuple[int, int], Path]]:
    """`_sizes` of each domain, or of pairs."""
    if method.batch_type is UnpairedBatch:
        domains = find_domains(data)
        sets = [domains.train_a, domains.train_b]
    elif method.batch_type is PairedBatch:
        sets = [find_pairs(data).train]
    else:
        return []
    side_by_side = method.batch_type is PairedBatch
    return [view_sizes(files, data, side_by_side=side_by_side) for files in sets]
