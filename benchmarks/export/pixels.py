"""Pixels of exported models against torch, over a folder of photographs.

    python benchmarks/export/pixels.py horse2zebra released.safetensors \
        --photos datasets/horse2zebra/testA --calibrate datasets/horse2zebra/trainA

Each model is written by `patchkin export`'s own function in float32, float16 and int8, which it
checks against the network and, in int8, keeps only where that is faster than float32. Then every
photograph is translated by torch in float32 and by ONNX Runtime, and their 8-bit translations are
compared: what `patchkin translate` writes into PNG files. Differences are in levels of 255; a pixel
is off where any of its channels is.

Nothing is drawn at random: photographs and calibration images (the first ones) go by name.

Shape suffixes: H and W pixels, C channels; N numbers of an image.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from patchkin.devices import device_name
from patchkin.errors import PatchkinError
from patchkin.export.writing import ExportSettings, export_model
from patchkin.images import Array
from patchkin.images.folders import find_images
from patchkin.translation.exported import Numbers
from patchkin.translation.onnx_file import OnnxTranslator
from patchkin.translation.translator import Translator

KINDS: tuple[Numbers, ...] = ("float32", "float16", "int8")


class Differences:
    """Of many images, counted by level.

    >>> found = Differences()
    >>> found.add(np.zeros((1, 4, 3), np.uint8), np.full((1, 4, 3), [[[0, 1, 2]]], np.uint8))
    >>> found.mean, found.percentile(50), found.largest, found.share_beyond_a_level
    (1.0, 1, 2, 1.0)
    """

    def __init__(self) -> None:
        self._counts = np.zeros(256, np.int64)
        self._pixels, self._beyond = 0, 0

    def add(self, a_HWC: Array, b_HWC: Array) -> None:
        """Two translations of one image, uint8."""
        apart_HWC = np.abs(a_HWC.astype(np.int16) - b_HWC.astype(np.int16))
        self._counts += np.bincount(apart_HWC.ravel(), minlength=256)
        self._pixels += apart_HWC[..., 0].size
        self._beyond += int((apart_HWC.max(axis=-1) > 1).sum())

    @property
    def mean(self) -> float:
        """Over all numbers of all images."""
        return float((self._counts * np.arange(256)).sum() / self._counts.sum())

    def percentile(self, percent: float) -> int:
        """The least level that so many numbers do not exceed."""
        wanted = percent / 100 * self._counts.sum()
        return int(np.searchsorted(self._counts.cumsum(), wanted))

    @property
    def largest(self) -> int:
        """Of any number."""
        return int(self._counts.nonzero()[0].max())

    @property
    def share_beyond_a_level(self) -> float:
        """Of pixels."""
        return self._beyond / self._pixels


def exported(
    translator: Translator, folder: Path, calibration: Sequence[Path]
) -> Iterator[tuple[Numbers, Path]]:
    """The files that `export` writes; tells each, and why one is not written."""
    for numbers in KINDS:
        images = calibration if numbers == "int8" else ()
        settings = ExportSettings(numbers=numbers, calibration=images)
        path = folder / f"{numbers}.onnx"
        try:
            made = export_model(translator, path, settings)
        except PatchkinError as error:
            print(f"{numbers}: {error}\n", flush=True)
            continue
        times = f"; {made.times_faster:.2f} times as fast" if made.times_faster else ""
        told = f"on {made.compared_on}: {made.difference}{times}"
        print(f"{numbers}: {made.bytes / 1e6:.2f} MB; {told}\n")
        yield numbers, path


def compared(
    translator: Translator, files: Mapping[Numbers, Path], photos: Sequence[Path]
) -> dict[Numbers, Differences]:
    """All photographs, by torch and by each of the files in ONNX Runtime."""
    threads = torch.get_num_threads()
    runners = {
        numbers: OnnxTranslator(file, device="cpu", threads=threads)
        for numbers, file in files.items()
    }
    found = {numbers: Differences() for numbers in files}
    for path in photos:
        with Image.open(path) as image:
            photo_HWC = np.asarray(image.convert("RGB"))
        expected_HWC = translator(photo_HWC)
        for numbers, runner in runners.items():
            found[numbers].add(expected_HWC, runner(photo_HWC))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", help="shipped names, runs or .safetensors files")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--calibrate", type=Path, required=True, help="images for int8")
    parser.add_argument("--calibration-images", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    photos = find_images(options.photos).files
    calibration = find_images(options.calibrate).files[: options.calibration_images]
    print(f"{device_name(torch.device('cpu'))}; torch {torch.__version__}; {len(photos)} images\n")
    rows = []
    for model in options.models:
        translator = Translator.load(model, device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            kinds = exported(translator, Path(folder), calibration)
            for numbers, found in compared(translator, dict(kinds), photos).items():
                rows.append(
                    f"| {Path(model).name} | {numbers} | {found.mean:.4f} | "
                    f"{found.percentile(99.9)} | {found.largest} | "
                    f"{100 * found.share_beyond_a_level:.4f} % |"
                )
    print("| model | numbers | mean | 99.9 % | largest | pixels more than a level off |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
