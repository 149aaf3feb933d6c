"""How far translations in bfloat16 are from those in float32.

    python benchmarks/speed/precision.py MODEL IMAGES... [--precision bf16-mixed]

Prints the mean, the 99th percentile and the maximum of the difference in levels of 255.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from patchkin.translation.translator import Translator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--precision", default="bf16-mixed")
    options = parser.parse_args()
    exact = Translator.load(options.model, device="cpu")
    rounded = Translator.load(options.model, device="cpu", precision=options.precision)
    differences = []
    for path in options.images:
        x_1CHW = exact.read(path)[0][None]
        differences.append((exact(x_1CHW) - rounded(x_1CHW)).abs().flatten() * 127.5)
    levels = torch.cat(differences).sort().values
    result = {
        "images": len(options.images),
        "mean": levels.mean().item(),
        "percentile_99": levels[int(0.99 * len(levels))].item(),
        "maximum": levels[-1].item(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
