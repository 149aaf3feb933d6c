"""The loader alone, with and without the cache of decoded images: rates, opening, room on disk.

    python benchmarks/speed/loading.py ROOT [--size 256 128] [--workers 0 2]

Rates are medians of passes over the same images, both ways in turns; so is the processor time of an
item (a view of each domain), which other work on the machine changes less. The cache is made in a
temporary folder (TMPDIR).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from patchkin.data.config import DataConfig
from patchkin.data.datasets import Place
from patchkin.data.loading import open_training_data
from patchkin.runs.benchmark import loading_rates


def opening_seconds(data: DataConfig) -> float:
    """Until the loader could start: all images decoded, or found in the cache and verified."""
    start = time.perf_counter()
    open_training_data(data, seed=0)
    return time.perf_counter() - start


def item_milliseconds(configs: Sequence[DataConfig], images: int, repeats: int) -> list[float]:
    """Processor time of an item in this process: reading, views, conversion."""
    datasets = [open_training_data(data, seed=0).dataset for data in configs]

    def once(dataset: Dataset[Any]) -> float:
        start = time.process_time()
        for index in range(images):
            dataset[Place(0, index)]
        return (time.process_time() - start) / images * 1e3

    rounds = [[once(dataset) for dataset in datasets] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("--size", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--preprocess", nargs="+", default=["resize_and_crop", "crop"])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| view | measured | without | with | ratio |")
    print("|---|---|---|---|---|")
    for size in options.size:
        for preprocess in options.preprocess:
            with tempfile.TemporaryDirectory() as folder:
                plain = DataConfig(root=options.root, size=size, preprocess=preprocess)
                compare(plain, folder, options)


def compare(plain: DataConfig, folder: str, options: argparse.Namespace) -> None:
    def row(measured: str, without: float, with_cache: float, ratio: float) -> None:
        view = f"{plain.size}, {plain.preprocess}"
        print(
            f"| {view} | {measured} | {without:.3g} | {with_cache:.3g} | {ratio:.2f} |", flush=True
        )

    how = {"images": options.images, "repeats": options.repeats}
    cached = replace(plain, cache=folder)
    opened, first, later = (opening_seconds(data) for data in (plain, cached, cached))
    stored = sum(path.stat().st_size for path in Path(folder).glob("*.pixels"))
    row(f"opening, first time ({stored / 1e6:.0f} MB written), s", opened, first, opened / first)
    row("opening later, s", opened, later, opened / later)
    without, with_cache = item_milliseconds((plain, cached), **how)
    row("processor time of an item, ms", without, with_cache, without / with_cache)
    for workers in options.workers:
        pair = [replace(data, workers=workers) for data in (plain, cached)]
        without, with_cache = loading_rates(pair, **how)
        row(f"items/s, {workers} workers", without, with_cache, with_cache / without)


if __name__ == "__main__":
    main()
