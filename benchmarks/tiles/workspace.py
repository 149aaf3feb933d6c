"""Memory of a process as a multiple of that of the maps of its network: `probing.WORKSPACE`.

    python benchmarks/tiles/workspace.py --size 512 768

Each row is a process of its own that translates one image of noise, set up as `patchkin translate`
sets it up, with random weights where nothing is shipped. `maps` is the most that tensors held at
once (`LiveMaps`), `process` what the peak of the process (VmHWM) rose by, from the image at hand to
its translation: convolutions copy what they read into layouts of their own, and freed memory leaves
gaps. Linux only.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from patchkin.devices import keep_freed_memory, peak_memory_bytes
from patchkin.methods import METHODS
from patchkin.storage.shipped import shipped_names
from patchkin.translation.live_maps import LiveMaps
from patchkin.translation.translator import Translator

METHODS_MEASURED = ("cut", "cyclegan", "pix2pix", "munit", "drit", "starganv2", "sincut")
WARMING = 256
"""Pixels a side of an image before, that kernels are there."""


def translator_of(model: str, precision: str) -> Translator:
    """A shipped one, or one with random weights."""
    if model not in METHODS:
        return Translator.load(model, device="cpu", precision=precision)
    torch.manual_seed(0)
    kind = METHODS[model]
    method = kind(next(iter(kind.presets.values())).method)
    return Translator(method, device="cpu", precision=precision, owned=True)


def measure(model: str, precision: str, size: int) -> dict[str, int]:
    """Bytes of the maps, or what the process grew by; in a process of its own."""
    translator = translator_of(model, precision)
    keep_freed_memory()
    x_BCHW = np.random.default_rng(0).uniform(-1, 1, (1, translator.channels[0], size, size))
    x_BCHW = x_BCHW.astype(np.float32)
    translator.arrays(x_BCHW[..., :WARMING, :WARMING].copy())
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = peak_memory_bytes(torch.device("cpu"))
    y_BCHW = translator.arrays(x_BCHW)
    after = peak_memory_bytes(torch.device("cpu"))
    assert before is not None
    assert after is not None
    with LiveMaps() as live:
        translator(torch.from_numpy(x_BCHW))
    return {"maps": live.peak, "process": after - before, "translation": y_BCHW.nbytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=[*shipped_names(), *METHODS_MEASURED])
    parser.add_argument("--sizes", "--size", type=int, nargs="+", default=[512])
    parser.add_argument("--precisions", nargs="+", default=["32-true"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="measure here; for the processes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        told = measure(options.models[0], options.precisions[0], options.sizes[0])
        print(json.dumps(told))
        return
    print("| model | precision | pixels | maps | process | ratio |")
    print("|---|---|---|---|---|---|", flush=True)
    for model in options.models:
        for precision in options.precisions:
            for size in options.sizes:
                command = [sys.executable, __file__, "--alone", "--models", model]
                command += ["--precisions", precision, "--sizes", str(size)]
                command += ["--threads", str(options.threads)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                told = json.loads(done.stdout)
                print(
                    f"| {model} | {precision} | {size} x {size} | {told['maps'] / 1e6:.0f} MB | "
                    f"{told['process'] / 1e6:.0f} MB | {told['process'] / told['maps']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
