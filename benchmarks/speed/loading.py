"""The loader alone, with and without the cache of decoded images: rates, opening, room on disk.

    python benchmarks/speed/loading.py ROOT [--size 256 128] [--workers 0 2]

Rates are medians of passes over the same images, both ways in turns. The cache is made in a
temporary folder (TMPDIR).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from patchkin.benchmark import loading_rates
from patchkin.data.config import DataConfig
from patchkin.data.loading import open_training_data


def opening_seconds(data: DataConfig) -> float:
    """Until the loader could start: all images decoded, or found in the cache and verified."""
    start = time.perf_counter()
    open_training_data(data, seed=0)
    return time.perf_counter() - start


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
    print("| view | workers | without | with | ratio | opened in s: without, first, later | MB |")
    print("|---|---|---|---|---|---|---|")
    for size in options.size:
        for preprocess in options.preprocess:
            with tempfile.TemporaryDirectory() as folder:
                plain = DataConfig(root=options.root, size=size, preprocess=preprocess)
                cached = replace(plain, cache=folder)
                opened = [opening_seconds(data) for data in (plain, cached, cached)]
                stored = sum(path.stat().st_size for path in Path(folder).glob("*.pixels"))
                for workers in options.workers:
                    pair = [replace(data, workers=workers) for data in (plain, cached)]
                    without, with_cache = loading_rates(
                        pair, images=options.images, repeats=options.repeats
                    )
                    print(
                        f"| {size}, {preprocess} | {workers} | {without:.0f} | {with_cache:.0f} "
                        f"| {with_cache / without:.2f} "
                        f"| {', '.join(f'{seconds:.1f}' for seconds in opened)} "
                        f"| {stored / 1e6:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
