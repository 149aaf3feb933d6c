"""Exported models against torch: seconds per image, and to the first translated image.

    python benchmarks/export/run.py --calibrate datasets/horse2zebra/testA --threads 2

The full generator is CUT's, with random weights, the small one is the shipped model. Everything is
a ratio to torch in float32 within this one run: rounds alternate, and the quickest of each counts.
Tables go to standard output. int8 is timed here whether or not it is faster; `patchkin export`
writes it only where it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image

from patchkin.config import to_plain
from patchkin.devices import device_name, keep_freed_memory
from patchkin.export.smaller import in_int8
from patchkin.export.writing import ExportSettings, export_model
from patchkin.images import read_image, to_values
from patchkin.images.folders import find_images
from patchkin.methods.cut import Cut
from patchkin.storage.checkpoint import ModelHeader, find_model, write_tensors
from patchkin.translation.onnx_file import OnnxTranslator
from patchkin.translation.translator import Translator

Call = Callable[[], object]
BASE = "torch float32"
MOST_CALIBRATION = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--models", nargs="+", default=["full", "small"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--calibrate", type=Path, help="images for int8; noise unless given")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    print(f"{device_name(torch.device('cpu'))}; torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            model = _model(name, Path(folder))
            files = _exported(model, Path(folder) / name, options.calibrate)
            _tell_speed(name, model, files, options)
            _tell_start(model, files["ONNX Runtime float32"], Path(folder) / name, options.rounds)


def _model(name: str, folder: Path) -> Path:
    if name == "small":
        return find_model(Path("horse2zebra"))
    torch.manual_seed(0)
    method = Cut()
    header = ModelHeader(method="cut", config=to_plain(method.config), size=256)
    write_tensors(folder / "full.safetensors", method.state_dict(), header.to_metadata())
    return folder / "full.safetensors"


def _exported(model: Path, folder: Path, calibrate: Path | None) -> dict[str, Path]:
    folder.mkdir()
    translator = Translator.load(model, device="cpu")
    wide = export_model(translator, folder / "float32.onnx")
    half = export_model(translator, folder / "half.onnx", ExportSettings(numbers="float16"))
    if calibrate is None:
        images = [np.random.default_rng(0).uniform(-1, 1, (3, 256, 256)).astype(np.float32)]
    else:
        images = [
            to_values(read_image(path, 3))
            for path in find_images(calibrate).files[:MOST_CALIBRATION]
        ]
    small = in_int8(onnx.load(wide.path), [{"image": image[None]} for image in images])
    onnx.save(small, folder / "int8.onnx")
    print(f"float16 from float32: {half.difference}")
    print(f"int8 from float32: {_apart(wide.path, folder / 'int8.onnx', images[:3])}\n")
    return {
        "ONNX Runtime float32": wide.path,
        "ONNX Runtime float16": half.path,
        "ONNX Runtime int8": folder / "int8.onnx",
    }


def _apart(wide: Path, small: Path, images: list[np.ndarray]) -> str:
    a, b = OnnxTranslator(wide, device="cpu"), OnnxTranslator(small, device="cpu")
    apart = [np.abs(a.arrays(image[None]) - b.arrays(image[None])) for image in images]
    return f"{np.mean([d.mean() for d in apart]):.2g} on the mean"


def _tell_speed(
    name: str, model: Path, files: dict[str, Path], options: argparse.Namespace
) -> None:
    sizes = " | ".join(f"{size} pixels" for size in options.sizes)
    print(f"| {name} generator: times as fast as {BASE} | {sizes} |")
    print("|---|" + "---|" * len(options.sizes))
    rows: dict[str, list[float]] = {}
    for size in options.sizes:
        x_BCHW = torch.rand(1, 3, size, size) * 2 - 1
        seconds = _quickest(_calls(model, files, x_BCHW, options), options.rounds)
        for kind, taken in seconds.items():
            rows.setdefault(kind, []).append(seconds[BASE] / taken)
    for kind, ratios in rows.items():
        print(f"| {kind} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    print()


def _calls(
    model: Path, files: dict[str, Path], x_BCHW: torch.Tensor, options: argparse.Namespace
) -> dict[str, Call]:
    plain = Translator.load(model, device="cpu")
    half = Translator.load(model, device="cpu", precision="bf16-mixed")
    calls: dict[str, Call] = {BASE: lambda: plain(x_BCHW), "torch bfloat16": lambda: half(x_BCHW)}
    if options.compiled:
        source = Translator.load(model, device="cpu").method.eval()
        compiled = torch.compile(source.translate)

        def run_compiled(*, half: bool) -> object:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                return compiled(x_BCHW)

        calls["torch float32, compiled"] = lambda: run_compiled(half=False)
        calls["torch bfloat16, compiled"] = lambda: run_compiled(half=True)
    array = x_BCHW.numpy()
    for name, path in files.items():
        runner = OnnxTranslator(path, device="cpu", threads=options.threads)
        calls[name] = lambda runner=runner: runner.arrays(array)
    return calls


def _quickest(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Seconds of each, the best of alternating rounds after one that warms up."""
    best = dict.fromkeys(calls, float("inf"))
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def _tell_start(model: Path, exported: Path, folder: Path, rounds: int) -> None:
    """The whole command for one image of 256 pixels, in a new process."""
    levels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(levels).save(folder / "photo.png")

    def command(source: Path) -> Call:
        arguments = [sys.executable, "-m", "patchkin", "translate", source, folder / "photo.png"]
        arguments += ["-o", folder / "out.png", "--overwrite"]
        return lambda: subprocess.run(list(map(str, arguments)), check=True, capture_output=True)

    seconds = _quickest({"torch": command(model), "without": command(exported)}, min(rounds, 3))
    ratio = seconds["torch"] / seconds["without"]
    print(f"From the command to the first image: {ratio:.1f} times as fast without torch.\n")


if __name__ == "__main__":
    main()
